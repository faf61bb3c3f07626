"""What a machine does with a model: how fast, how steadily, in how much memory."""

from densenet_cli.benchmarking.plan import Plan
from densenet_cli.benchmarking.report import Report
from densenet_cli.benchmarking.runner import measure

__all__ = ["Plan", "Report", "measure"]
