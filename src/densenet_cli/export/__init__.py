"""Export a model to formats of other tools (ONNX, TensorFlow, LiteRT, PyTorch, Keras), and check each exported file."""

from densenet_cli.export.exporter import EXPORT_FORMATS, ExportFormat, ExportResult, check_export, export

__all__ = ["EXPORT_FORMATS", "ExportFormat", "ExportResult", "check_export", "export"]
