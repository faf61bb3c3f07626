"""Evaluation of a classifier on labeled images."""

from densenet_cli.evaluation.metrics import ImageOutcome, MetricsAccumulator, evaluate
from densenet_cli.evaluation.report import EvaluationReport

__all__ = ["EvaluationReport", "ImageOutcome", "MetricsAccumulator", "evaluate"]
