"""Models for other tools: a checkpoint written in their formats, and held against the original before it counts."""

from densenet_cli.export.exporter import Export, Plan, export
from densenet_cli.export.formats import FORMATS

__all__ = ["FORMATS", "Export", "Plan", "export"]
