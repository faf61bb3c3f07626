"""The export formats: a table of suffixes and exporters, and choosing a format from a path."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeAlias

from densenet_cli.errors import UsageError

if TYPE_CHECKING:
    from densenet_cli._types import FloatArray, UInt8Array
    from densenet_cli.export.model import ExportedModel

Predict: TypeAlias = Callable[["FloatArray | UInt8Array"], "FloatArray"]
"""Pixels (batch, height, width, 3), uint8 or normalized float32 as the file takes them -> probabilities."""


class Exporter(Protocol):
    """Writes one format and loads it again."""

    def write(self, model: ExportedModel, path: Path) -> None:
        """Write ``model`` to ``path``, which does not exist. Raises ``OutputError`` or ``OSError``."""
        ...

    def load(self, model: ExportedModel, path: Path) -> Predict:
        """Load the exported file with the runtime that the format is for."""
        ...


@dataclass(frozen=True)
class ExportFormat:
    """An export format.

    Attributes:
        exporter: module and class that write it. Imported on demand because TensorFlow takes seconds.
        suffix: file suffix; "" for a format that is a folder.
        supports_preprocessing: whether a file can include the normalization.
        uses_tensorflow: whether TensorFlow writes it, which takes a while.
        optional_package: (module, distribution) of an optional dependency that the format needs.
    """

    exporter: str
    suffix: str
    supports_preprocessing: bool = True
    uses_tensorflow: bool = True
    optional_package: tuple[str, str] | None = None

    @property
    def is_folder(self) -> bool:
        """Whether the format is a folder of files."""
        return not self.suffix

    def make_exporter(self) -> Exporter:
        """Import the exporter and return an instance."""
        module, _, name = self.exporter.partition(":")
        exporter: Exporter = getattr(importlib.import_module(module), name)()
        return exporter


EXPORT_FORMATS = {
    "onnx": ExportFormat("densenet_cli.export.onnx:OnnxExporter", ".onnx", uses_tensorflow=False),
    "saved-model": ExportFormat("densenet_cli.export.tensorflow:SavedModelExporter", ""),
    "tflite": ExportFormat(
        "densenet_cli.export.tflite:TFLiteExporter", ".tflite", optional_package=("ai_edge_litert", "ai-edge-litert")
    ),
    "safetensors": ExportFormat(
        "densenet_cli.export.safetensors:SafetensorsExporter",
        ".safetensors",
        supports_preprocessing=False,
        uses_tensorflow=False,
    ),
    "keras": ExportFormat("densenet_cli.export.tensorflow:KerasExporter", ".keras"),
}
"""Format name -> format."""


def resolve_format(path: Path, name: str | None) -> str:
    """Return the format name for ``path``: ``name`` if given, else by suffix. A path without a suffix is a SavedModel.

    Raises:
        UsageError: ``name`` is unknown or contradicts the suffix, or the suffix is unknown and ``name`` is None.
    """
    suffixes = {format_.suffix: key for key, format_ in EXPORT_FORMATS.items() if format_.suffix}
    by_suffix = next((key for suffix, key in suffixes.items() if path.name.lower().endswith(suffix)), None)
    if name is not None and name not in EXPORT_FORMATS:
        raise UsageError(f"Unknown export format {name!r}. Choose from {', '.join(EXPORT_FORMATS)}.")
    if name and by_suffix and name != by_suffix:
        raise UsageError(f"The suffix of {path.name} means {by_suffix}, but `format` is {name}. Change one of them.")
    if resolved := name or by_suffix or ("saved-model" if not path.suffix else None):
        return resolved
    raise UsageError(f"The suffix of {path.name} is not an export format. Use {', '.join(suffixes)}, or set `format`.")


def check_optional_package(name: str) -> None:
    """Raise ``UsageError`` if the format ``name`` needs an optional package that is not installed."""
    if package := EXPORT_FORMATS[name].optional_package:
        module, distribution = package
        if find_spec(module) is None:
            raise UsageError(f"The format {name} needs another package. Run: pip install {distribution}")
