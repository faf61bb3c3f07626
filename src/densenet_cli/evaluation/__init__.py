"""Measuring a classifier on images whose classes are known."""

from densenet_cli.evaluation.metrics import evaluate, outcome_of
from densenet_cli.evaluation.report import Report
from densenet_cli.evaluation.tally import Outcome, Tally

__all__ = ["Outcome", "Report", "Tally", "evaluate", "outcome_of"]
