"""Measuring a classifier on images whose classes are known."""

from densenet_cli.evaluation.metrics import Example, evaluate, measure
from densenet_cli.evaluation.report import Report
from densenet_cli.evaluation.tally import Outcome, Tally

__all__ = ["Example", "Outcome", "Report", "Tally", "evaluate", "measure"]
