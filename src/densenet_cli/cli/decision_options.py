"""The options for predictions with a guarantee from the calibration of a model."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import click

from densenet_cli.cli.command import FloatRange, option
from densenet_cli.predictor import SET_METHODS

F = TypeVar("F", bound=Callable[..., Any])

decision_option = partial(option, group="Guarantees (for a calibrated model)")


def decision_options(function: F) -> F:
    """Add ``--coverage``, ``--set-method``, ``--max-error``, and ``--by-class`` to a command."""
    for decorator in (
        decision_option(
            "--by-class",
            is_flag=True,
            help="Give these guarantees for each class, not only for all images together. This needs more calibration "
            "images.",
        ),
        decision_option(
            "--max-error",
            type=FloatRange(0, 1, min_open=True, max_open=True),
            metavar="SHARE",
            help="Label only images with confident predictions, so that with 95% confidence, at most SHARE of the "
            "labels are wrong, such as 0.05. The others are unsure.",
        ),
        decision_option(
            "--set-method",
            type=click.Choice(SET_METHODS),
            help="How --coverage forms sets: lac (the smallest on average), or raps (never empty).  [default: lac]",
        ),
        decision_option(
            "--coverage",
            type=FloatRange(0, 1, min_open=True, max_open=True),
            metavar="SHARE",
            help="Form a set of labels for each image, which contains the true label for at least SHARE of the images, "
            "such as 0.95.",
        ),
    ):
        function = decorator(function)
    return function
