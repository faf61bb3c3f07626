"""What calibration measures of a model, and its compact form in the metadata of a checkpoint.

The arrays of scores are base64 text of little-endian numbers, 10 to 16 bytes per image for a model whose classes are
mutually exclusive, and about 4 bytes per image and class for a multi-label model. They are sorted, so that they do not
reveal the order of the images. They suffice for any coverage and any limit of the error.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np

from densenet_cli.calibration.conformal import true_scores
from densenet_cli.calibration.temperature import (
    MAX_TEMPERATURE,
    MIN_TEMPERATURE,
    fit_label_temperatures,
    fit_temperature,
    label_thresholds,
    to_probabilities,
)
from densenet_cli.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from densenet_cli._types import BoolArray, FloatArray, IntArray

VERSION = 1
MIN_IMAGES = 100
"""Images that a calibration needs at least. A temperature from fewer images is too uncertain."""
MAX_SCORES = 1_000_000
"""Images of a calibration times the numbers that are stored of each, which limits the size of the metadata."""


class Scores(NamedTuple):
    """The calibration images of a model whose classes are mutually exclusive, with calibrated probabilities.

    Attributes:
        targets: Class of each image.
        predicted: Most probable class.
        probabilities: Probability of the class, float32.
        confidences: Probability of the most probable class, float32.
        raps: Score of the class, rounded up to float32. See ``conformal.label_scores``.
    """

    targets: IntArray
    predicted: IntArray
    probabilities: FloatArray
    confidences: FloatArray
    raps: FloatArray

    @classmethod
    def of(cls, probabilities: FloatArray, targets: IntArray) -> Self:
        """Return the scores of images, with the lowest probability of the true class first."""
        predicted = probabilities.argmax(axis=1)
        rows = np.arange(len(targets))
        raps = _round_up(true_scores(probabilities, targets, "raps"))
        columns: tuple[NDArray[Any], ...] = (
            targets,
            predicted,
            probabilities[rows, targets],
            probabilities[rows, predicted],
            raps,
        )
        order = np.lexsort(columns[:3])
        return cls(*(column[order] for column in columns))

    @property
    def is_correct(self) -> BoolArray:
        """Whether the most probable class is the class of the image."""
        is_correct: BoolArray = self.targets == self.predicted
        return is_correct

    def of_method(self, method: str) -> NDArray[np.float64]:
        """Return the scores for ``conformal.label_set``."""
        return np.asarray(self.raps, np.float64) if method == "raps" else 1 - np.asarray(self.probabilities, np.float64)

    def to_dict(self, classes: int) -> dict[str, str]:
        """Return the arrays as text."""
        dtypes = (*[_index_dtype(classes)] * 2, "<f4", "<f4", "<f4")
        return {name: _encode(getattr(self, name), dtype) for name, dtype in zip(self._fields, dtypes, strict=True)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], images: int, classes: int) -> Self:
        """Restore the arrays. Raises ``TypeError`` or ``ValueError`` for other values."""
        dtypes = (*[_index_dtype(classes)] * 2, "<f4", "<f4", "<f4")
        arrays = [_decode(values[name], dtype, images) for name, dtype in zip(cls._fields, dtypes, strict=True)]
        limits = (classes - 1, classes - 1, 1.001, 1.001, 1.001 + classes)
        for array, limit in zip(arrays, limits, strict=True):
            _check_range(array, limit)
        targets, predicted, *scores = arrays
        return cls(targets.astype(np.int64), predicted.astype(np.int64), *scores)


class LabelScores(NamedTuple):
    """The calibration images of one class of a multi-label model. Images for which it is unknown are left out.

    Attributes:
        probabilities: Probability of the class, float32, the highest first.
        is_positive: Whether each image has the class.
    """

    probabilities: FloatArray
    is_positive: BoolArray

    @classmethod
    def of(cls, probabilities: FloatArray, targets: IntArray) -> Self:
        """Return the scores of one class. ``targets`` are 1, 0, or -1 (unknown)."""
        is_known = targets >= 0
        probabilities, is_positive = probabilities[is_known], targets[is_known] == 1
        order = np.lexsort((is_positive, -probabilities))
        return cls(probabilities[order], is_positive[order])

    def to_dict(self) -> dict[str, Any]:
        """Return the arrays as text."""
        return {
            "images": len(self.probabilities),
            "probabilities": _encode(self.probabilities, "<f4"),
            "is_positive": _encode(np.packbits(self.is_positive), "u1"),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], images: int) -> Self:
        """Restore the arrays. Raises ``TypeError`` or ``ValueError`` for other values."""
        count = _integer(values["images"], 0, images)
        probabilities = _decode(values["probabilities"], "<f4", count)
        _check_range(probabilities, 1.001)
        bits = _decode(values["is_positive"], "u1", -(-count // 8))
        return cls(probabilities, np.unpackbits(bits, count=count).astype(bool))


@dataclass(frozen=True)
class Calibration:
    """The calibration of a model.

    Attributes:
        images: Number of calibration images.
        date: When it was measured, as YYYY-MM-DD. For a model of ``densenet train``, when the run started.
        accuracy: Share of the images whose most probable class is right. For a multi-label model, the share of right
            decisions about a class, with ``thresholds``.
        temperature: What the logits are divided by: one number, or one per class for a multi-label model.
        thresholds: Probability of each class from which a multi-label model predicts it; empty for other models.
        classes: Number of classes.
        preprocessing: How the images were prepared, by name.
        precision: Precision of the engine that computed the logits.
    """

    images: int
    date: str
    accuracy: float
    temperature: float | tuple[float, ...]
    thresholds: tuple[float, ...]
    classes: int
    preprocessing: Mapping[str, Any]
    _stored_scores: Any = field(repr=False)
    precision: str = "float32"

    @classmethod
    def fit(
        cls,
        logits: FloatArray,
        targets: IntArray,
        activation: str,
        preprocessing: Mapping[str, Any],
        date: str,
        precision: str = "float32",
    ) -> Self:
        """Calibrate a model.

        Args:
            logits: Logits of the calibration images, float32 of shape (images, classes).
            targets: For softmax, the class of each image, shape (images,). For sigmoid, 1 for a class of an image, 0
                for another class, and -1 if it is unknown, shape (images, classes).
            activation: ``softmax`` or ``sigmoid``.
            preprocessing: How the images were prepared, as JSON types.
            date: Date as YYYY-MM-DD.
            precision: Precision of the engine that computed the logits.

        Raises:
            UsageError: There are too few or too many images, or the model is not better than chance on them.
        """
        images, classes = logits.shape
        if images < MIN_IMAGES:
            raise UsageError(
                f"Calibration needs at least {MIN_IMAGES} labeled images that were not used for training; "
                f"found {images:,}."
            )
        check_max_images(images, classes, activation)
        if activation == "softmax":
            temperature: Any = fit_temperature(logits, targets)
            scores = Scores.of(to_probabilities(logits, activation, temperature), targets)
            accuracy = float(scores.is_correct.mean())
            stored: Any = scores.to_dict(classes)
            thresholds: tuple[float, ...] = ()
        else:
            temperatures = fit_label_temperatures(logits, targets)
            probabilities = to_probabilities(logits, activation, temperatures)
            minima, is_known = label_thresholds(probabilities, targets), targets >= 0
            accuracy = float(((probabilities >= minima) == (targets == 1))[is_known].mean()) if is_known.any() else 0.0
            stored = [LabelScores.of(probabilities[:, n], targets[:, n]).to_dict() for n in range(classes)]
            temperature, thresholds = tuple(temperatures.tolist()), tuple(minima.tolist())
        return cls(images, date, accuracy, temperature, thresholds, classes, dict(preprocessing), stored, precision)

    @property
    def is_multi_label(self) -> bool:
        """Whether the classes are not mutually exclusive."""
        return isinstance(self.temperature, tuple)

    @property
    def activation(self) -> str:
        """Activation that converts logits to probabilities: ``softmax`` or ``sigmoid``."""
        return "sigmoid" if self.is_multi_label else "softmax"

    def probabilities(self, logits: FloatArray) -> FloatArray:
        """Return calibrated probabilities, float32. ``logits`` has shape (..., classes)."""
        return to_probabilities(logits, self.activation, np.asarray(self.temperature))

    @cached_property
    def scores(self) -> Scores:
        """The scores of a model whose classes are mutually exclusive."""
        return Scores.from_dict(self._stored_scores, self.images, self.classes)

    @cached_property
    def label_scores(self) -> Sequence[LabelScores]:
        """The scores of each class of a multi-label model."""
        return [LabelScores.from_dict(values, self.images) for values in self._stored_scores]

    def to_dict(self) -> dict[str, Any]:
        """Return the calibration as JSON types."""
        is_multi_label = self.is_multi_label
        return {
            "version": VERSION,
            "images": self.images,
            "date": self.date,
            "accuracy": self.accuracy,
            "temperature": list(self.temperature) if isinstance(self.temperature, tuple) else self.temperature,
            **({"thresholds": list(self.thresholds)} if is_multi_label else {}),
            "preprocessing": dict(self.preprocessing),
            "precision": self.precision,
            "scores": self._stored_scores,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], classes: int) -> Self:
        """Restore the result of ``to_dict``. The scores are decoded when they are used, or by ``check``.

        Raises:
            ValueError, TypeError, LookupError: The values are not the result of ``to_dict``.
        """
        if values["version"] != VERSION:
            raise ValueError(f"calibration version is {values['version']!r:.20}")
        temperature, thresholds = values["temperature"], values.get("thresholds", [])
        if isinstance(temperature, list):
            temperature = tuple(_number(value, MIN_TEMPERATURE, MAX_TEMPERATURE) for value in temperature)
            if not len(temperature) == len(thresholds) == len(values["scores"]) == classes:
                raise ValueError(f"calibration of {len(temperature)} classes for {classes}")
        else:
            temperature = _number(temperature, MIN_TEMPERATURE, MAX_TEMPERATURE)
        if not isinstance(values["date"], str) or len(values["date"]) > 40:
            raise TypeError(f"calibration date is {values['date']!r:.60}")
        return cls(
            images=_integer(values["images"], 1, MAX_SCORES),
            date=values["date"],
            accuracy=_number(values["accuracy"], 0, 1),
            temperature=temperature,
            thresholds=tuple(_number(value, 0, 1.001) for value in thresholds),
            classes=classes,
            preprocessing=dict(values["preprocessing"]),
            _stored_scores=values["scores"],
            precision=str(values.get("precision", "float32"))[:40],
        )

    def check(self, is_multi_label: bool) -> None:
        """Check the scores. Raises what ``from_dict`` raises."""
        if self.is_multi_label != is_multi_label:
            raise ValueError(f"temperature is {self.temperature!r:.60}")
        _ = self.label_scores if is_multi_label else self.scores


def today() -> str:
    """Return the current date (UTC) as YYYY-MM-DD."""
    return datetime.now(UTC).date().isoformat()


def check_max_images(images: int, classes: int, activation: str) -> None:
    """Check that the scores of the images can be stored. Raises ``UsageError`` if there are too many."""
    if images > (maximum := MAX_SCORES // (classes if activation == "sigmoid" else len(Scores._fields))):
        raise UsageError(f"Calibration of this model uses at most {maximum:,} images; found {images:,}.")


def _index_dtype(classes: int) -> str:
    return "u1" if classes <= 1 << 8 else "<u2" if classes <= 1 << 16 else "<u4"


def _encode(values: NDArray[Any], dtype: str) -> str:
    return base64.b64encode(values.astype(dtype).tobytes()).decode()


def _decode(text: Any, dtype: str, count: int) -> NDArray[Any]:
    if not isinstance(text, str):
        raise TypeError(f"expected base64 text, found {text!r:.60}")
    values = np.frombuffer(base64.b64decode(text, validate=True), dtype)
    if len(values) != count:
        raise ValueError(f"{len(values)} scores for {count} images")
    return values


def _check_range(values: NDArray[Any], high: float) -> None:
    """Check that all values are from 0 to ``high``, which also excludes NaN. Raises ``ValueError``."""
    if not ((values >= 0) & (values <= high)).all():
        raise ValueError("scores are out of range")


def _number(value: Any, low: float, high: float) -> float:
    if type(value) not in (int, float) or not low <= value <= high:
        raise ValueError(f"expected a number from {low:g} to {high:g}, found {value!r:.60}")
    return float(value)


def _integer(value: Any, low: int, high: int) -> int:
    if type(value) is not int or not low <= value <= high:
        raise ValueError(f"expected an integer from {low} to {high}, found {value!r:.60}")
    return value


def _round_up(values: NDArray[np.float64]) -> FloatArray:
    """Return float32 values that are not smaller."""
    rounded = values.astype(np.float32)
    result: FloatArray = np.where(rounded < values, np.nextafter(rounded, np.float32(np.inf)), rounded)
    return result
