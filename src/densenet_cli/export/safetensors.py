"""Safetensors export for PyTorch: torchvision's names, epsilon, and a complete ``state_dict``.

The metadata holds the description, and the key ``densenet`` that makes the file a checkpoint for this package too.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from densenet_cli.engines.onnx_graph import emit
from densenet_cli.export.onnx import load_onnx
from densenet_cli.weights import checkpoint, safetensors

if TYPE_CHECKING:
    from densenet_cli.export.formats import Predict
    from densenet_cli.export.model import ExportedModel


class SafetensorsExporter:
    """Exporter for ``.safetensors``. See ``formats.Exporter``."""

    def write(self, model: ExportedModel, path: Path) -> None:
        """Write the safetensors file."""
        arrays, config = model.checkpoint.arrays, model.checkpoint.config
        metadata = replace(
            model.checkpoint.metadata, labels=model.labels, preprocess=model.preprocessing.mode, input_size=model.size
        )
        properties = {"format": "pt", **model.properties}  # transformers and diffusers require "format"
        path.write_bytes(safetensors.serialize(arrays, config, metadata, for_torch=True, properties=properties))

    def load(self, model: ExportedModel, path: Path) -> Predict:
        """Read the file as a checkpoint and run it with ONNX Runtime, because PyTorch may not be installed."""
        contents = checkpoint.read(path)
        return load_onnx(emit(contents.arrays, contents.config), channels_first=True)
