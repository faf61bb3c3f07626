"""Calibration of a trained model on its validation images."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np

from densenet_cli.calibration.record import Calibration
from densenet_cli.errors import UsageError

if TYPE_CHECKING:
    from densenet_cli._types import FloatArray, IntArray
    from densenet_cli.training.settings import Settings


def calibrate(
    logits: FloatArray, targets: IntArray, settings: Settings, on_message: Callable[[str], None]
) -> Calibration | None:
    """Calibrate a model as ``densenet calibrate`` does.

    Args:
        logits: Logits of the validation images, float32 of shape (images, classes).
        targets: Their targets (see ``Subset``).
        settings: The settings of the run.
        on_message: Called with the reason if the model cannot be calibrated.

    Returns:
        The calibration; None if the settings exclude it, if there are no validation images, or if it is impossible.
    """
    if not settings.calibrate or not len(targets):
        return None
    if not np.isfinite(logits).all():
        on_message("The model is not calibrated. It produces NaN or infinite values.")
        return None
    activation = "sigmoid" if settings.multi_label else "softmax"
    date = datetime.now(UTC).date().isoformat()
    try:
        return Calibration.fit(logits, targets, activation, settings.preprocessing.to_dict(), date)
    except UsageError as error:
        on_message(f"The model is not calibrated. {error}")
        return None
