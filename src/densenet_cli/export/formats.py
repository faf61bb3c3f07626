"""The export formats: a table of suffixes and exporters, and checking the path to export to."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeAlias

from densenet_cli.errors import UsageError
from densenet_cli.output.checks import check_parent_folder, file_exists_error
from densenet_cli.text import to_unicode

if TYPE_CHECKING:
    from densenet_cli._types import FloatArray, UInt8Array
    from densenet_cli.export.model import ExportedModel

SAVED_MODEL_FILES = {"saved_model.pb", "variables", "assets", "assets.extra", "fingerprint.pb", "keras_metadata.pb"}
"""What a SavedModel may contain. A folder with anything else is never replaced."""

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
        exporter: Module and class that write it. Imported on demand because TensorFlow takes seconds.
        suffix: File suffix; "" for a format that is a folder.
        supports_preprocessing: Whether a file can include the normalization.
        uses_tensorflow: Whether TensorFlow writes it, which takes a while.
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
        "densenet_cli.export.onnx:SafetensorsExporter",
        ".safetensors",
        supports_preprocessing=False,
        uses_tensorflow=False,
    ),
    "keras": ExportFormat("densenet_cli.export.tensorflow:KerasExporter", ".keras"),
}
"""Format name -> format."""


def check_export_path(path: Path, format: str, overwrite: bool) -> None:
    """Check that an export can be written to ``path``, or to what a symbolic link leads to.

    Raises:
        UsageError: Something exists that must not be replaced, or the path is not UTF-8.
        OutputError: The folder of ``path`` is missing or read-only.
    """
    is_folder = EXPORT_FORMATS[format].is_folder
    name, target = to_unicode(str(path)), Path(os.path.realpath(path))
    if to_unicode(str(target)) != str(target):
        raise UsageError(f"{name} is not UTF-8, which other tools need to open it. Choose another name.")
    if target.exists() or target.is_symlink():
        if not overwrite:
            raise file_exists_error(path)
        if target.is_dir() != is_folder:
            raise UsageError(f"{name} is {'a file' if is_folder else 'a folder'}. Choose another name.")
        if is_folder and not _is_saved_model(target):
            raise UsageError(f"{name} contains more than a SavedModel and is not replaced. Choose another name.")
    check_parent_folder(path)


def _is_saved_model(folder: Path) -> bool:
    names = {path.name for path in folder.iterdir()}
    return not names or ("saved_model.pb" in names and names <= SAVED_MODEL_FILES)
