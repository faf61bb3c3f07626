"""Calibration of a trained model on its validation images."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from densenet_cli.calibration.record import MIN_IMAGES, Calibration
from densenet_cli.errors import UsageError

if TYPE_CHECKING:
    from densenet_cli._types import FloatArray, IntArray
    from densenet_cli.training.settings import Settings


class CalibrationResult(NamedTuple):
    """A calibration, or why there is none.

    Attributes:
        calibration: The calibration. It is None if the settings exclude it, without validation images, or if it is
            impossible.
        note: Why it is impossible.
    """

    calibration: Calibration | None = None
    note: str = ""

    @property
    def images(self) -> int:
        """The number of images that the model is calibrated on, 0 if it is not."""
        return self.calibration.images if self.calibration else 0


def calibrate(logits: FloatArray, targets: IntArray, settings: Settings, date: str) -> CalibrationResult:
    """Calibrate a model as ``densenet calibrate`` does.

    Args:
        logits: Logits of the validation images, float32 of shape (images, classes).
        targets: Their targets (see ``Subset``).
        settings: The settings of the run.
        date: When the run started, as YYYY-MM-DD. A resumed run thus writes the same file on another day.
    """
    if not settings.calibrate or not len(targets):
        return CalibrationResult()
    if not np.isfinite(logits).all():
        return CalibrationResult(note="The model is not calibrated. It produces NaN or infinite values.")
    activation = "sigmoid" if settings.multi_label else "softmax"
    try:
        calibration = Calibration.fit(logits, targets, activation, settings.preprocessing.to_dict(), date)
    except UsageError as error:
        hint = " Use more validation images." if len(targets) < MIN_IMAGES else ""
        return CalibrationResult(note=f"The model is not calibrated. {error}{hint}")
    return CalibrationResult(calibration)
