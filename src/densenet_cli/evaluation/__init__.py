"""Evaluation of a classifier on labeled images."""

from densenet_cli.evaluation.metrics import ImageOutcome, MetricsAccumulator, evaluate
from densenet_cli.evaluation.multi_label import MultiLabelAccumulator, MultiLabelOutcome, evaluate_multi_label
from densenet_cli.evaluation.multi_label_report import MultiLabelReport
from densenet_cli.evaluation.report import EvaluationReport

__all__ = [
    "EvaluationReport",
    "ImageOutcome",
    "MetricsAccumulator",
    "MultiLabelAccumulator",
    "MultiLabelOutcome",
    "MultiLabelReport",
    "evaluate",
    "evaluate_multi_label",
]
