"""Models for other tools: a checkpoint written in their formats, and held against the original before it counts."""

from densenet_cli.export.formats import FORMATS
from densenet_cli.export.plan import Export, Plan, export

__all__ = ["FORMATS", "Export", "Plan", "export"]
