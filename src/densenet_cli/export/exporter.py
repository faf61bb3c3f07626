"""Export a classifier to a file for other tools, and compare the file with the model before it is kept."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeAlias

from densenet_cli.errors import OutputError, UsageError
from densenet_cli.labels import placeholders
from densenet_cli.output.atomic import replace_path
from densenet_cli.output.checks import check_package, check_parent_folder, file_exists_error, format_from_suffix
from densenet_cli.text import to_unicode

if TYPE_CHECKING:
    from densenet_cli._types import FloatArray, PathLike, UInt8Array
    from densenet_cli.classifier import Classifier
    from densenet_cli.export.model import ExportedModel

TOLERANCE = 1e-4
"""Largest allowed absolute difference of a probability."""

IMAGES_FOLDER = Path(__file__).parents[1] / "data" / "images"
"""Photographs that ship in the package (``data/README.md``)."""

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


@dataclass(frozen=True)
class ExportResult:
    """An exported file.

    Attributes:
        path: The file or folder.
        format: Its format, a key of ``EXPORT_FORMATS``.
        size: Size in bytes.
        max_difference: Largest absolute difference between a probability from the file and one from the model.
        images: Number of photographs compared.
        has_labels: Whether the file contains class names.
    """

    path: Path
    format: str
    size: int
    max_difference: float
    images: int
    has_labels: bool


def check_export(
    path: PathLike, format: str | None = None, *, with_preprocessing: bool = False, overwrite: bool = False
) -> str:
    """Check the arguments of ``export`` without a model, before any expensive work.

    Returns:
        The name of the format.

    Raises:
        UsageError: See ``export``.
        OutputError: ``path`` cannot be written.
    """
    path = Path(path)
    suffixes = {name: export_format.suffix for name, export_format in EXPORT_FORMATS.items()}
    name = format_from_suffix(path, suffixes, format, can_be_given=True)
    if with_preprocessing and not EXPORT_FORMATS[name].supports_preprocessing:
        raise UsageError(f"The format {name} stores only arrays and cannot include preprocessing. Use another format.")
    check_export_path(path, name, overwrite)
    if package := EXPORT_FORMATS[name].optional_package:
        check_package(*package, f"The format {name}")
    return name


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


def export(
    classifier: Classifier,
    path: PathLike,
    format: str | None = None,
    *,
    with_preprocessing: bool = False,
    overwrite: bool = False,
) -> ExportResult:
    """Export a classifier to a file for other tools.

    The file is loaded with its own runtime and compared with the model on photographs before it is moved to ``path``.

    Args:
        classifier: A classifier without ``ten_crop``. The file describes its labels and preprocessing.
        path: File to write, or a folder for ``saved-model``.
        format: A key of ``EXPORT_FORMATS``. By default the suffix of ``path`` decides; no suffix means ``saved-model``.
        with_preprocessing: Include the normalization, so that the input is uint8 (batch, height, width, channels).
        overwrite: Replace an existing file or SavedModel.

    Raises:
        UsageError: An unknown format, arguments that contradict each other, an existing ``path`` without
            ``overwrite``, or an optional package that is not installed.
        OutputError: The file cannot be written, or a probability differs from the model's by more than ``TOLERANCE``.
            ``path`` is then unchanged.
    """
    path = Path(path)
    name = check_export(path, format, with_preprocessing=with_preprocessing, overwrite=overwrite)
    if classifier.preprocessing.ten_crop:
        raise UsageError("An exported file takes one crop per image. Use a classifier without `ten_crop`.")
    from densenet_cli.images.normalization import normalize

    exporter = EXPORT_FORMATS[name].make_exporter()
    images = comparison_images()
    pixels, expected = model_probabilities(classifier, images)
    preprocessing = classifier.preprocessing
    batch = pixels if with_preprocessing else normalize(pixels, preprocessing.mean, preprocessing.std)
    model = _exported_model(classifier, with_preprocessing)
    with replace_path(path, partial(check_export_path, path, name, overwrite)) as temporary:
        exporter.write(model, temporary)
        predict = exporter.load(model, temporary)
        difference = max_difference(predict, batch, expected)
        del predict  # on Windows, a file that is still mapped cannot be moved
        size = sum(file.stat().st_size for file in (temporary, *temporary.rglob("*")) if file.is_file())
    return ExportResult(path, name, size, difference, len(images), model.labels is not None)


def comparison_images() -> list[Path]:
    """Return the paths of the photographs to compare on."""
    return sorted(IMAGES_FOLDER.glob("*.jpg"))


def model_probabilities(classifier: Classifier, images: Sequence[Path]) -> tuple[UInt8Array, FloatArray]:
    """Run the classifier on image files.

    Returns:
        The input of the network before normalization, uint8 (images, size, size, channels), and the probabilities,
        (images, classes).
    """
    import numpy as np

    from densenet_cli.images import decoding, sources

    pixels = [decoding.load(sources.from_object(path), classifier.preprocessing).pixels[0] for path in images]
    probabilities: list[FloatArray] = []
    for result in classifier.stream(map(sources.from_object, images)):
        if result.error:
            raise result.error
        probabilities.append(result.outputs["probabilities"])
    return np.stack(pixels), np.stack(probabilities)


def max_difference(predict: Predict, pixels: FloatArray | UInt8Array, expected: FloatArray) -> float:
    """Return the largest absolute difference of a probability, over the images one at a time and as one batch.

    Args:
        predict: Runs the exported file.
        pixels: Input of the file, uint8 or normalized float32 (images, size, size, channels).
        expected: Probabilities from the model, (images, classes).

    Raises:
        OutputError: The difference is above ``TOLERANCE`` or NaN, or the output has another shape.
    """
    import numpy as np

    largest = 0.0
    for part in (*(slice(n, n + 1) for n in range(len(pixels))), slice(None)):
        probabilities = predict(pixels[part])
        if probabilities.shape != expected[part].shape:
            raise OutputError(
                f"The exported file returned probabilities of shape {probabilities.shape}, "
                f"expected {expected[part].shape}. It was not kept."
            )
        difference = np.abs(probabilities - expected[part]).max()
        largest = max(largest, float(np.nan_to_num(difference, nan=np.inf)))
    if largest > TOLERANCE:
        raise OutputError(
            f"The probabilities of the exported file differ from the model's by up to {largest:.1e} "
            f"(allowed: {TOLERANCE:.0e}). It was not kept. Please report this."
        )
    return largest


def _exported_model(classifier: Classifier, with_preprocessing: bool) -> ExportedModel:
    from densenet_cli.export.model import ExportedModel, apply_temperature

    contents = classifier.read_checkpoint()
    if classifier.calibration:
        contents = apply_temperature(contents, classifier.calibration)
    elif contents.metadata.calibration:
        contents = contents._replace(metadata=replace(contents.metadata, calibration=None))
    labels = None if classifier.labels == placeholders(len(classifier.labels)) else classifier.labels
    return ExportedModel(classifier.model, contents, classifier.preprocessing, labels, with_preprocessing)
