"""Export a model to formats of other tools (ONNX, TensorFlow, LiteRT, PyTorch, Keras), and check each exported file."""

from densenet_cli.export.exporter import ExportResult, check_export, export
from densenet_cli.export.formats import EXPORT_FORMATS, ExportFormat

__all__ = ["EXPORT_FORMATS", "ExportFormat", "ExportResult", "check_export", "export"]
