"""The options that every command with a model takes, once, and the classifier that they ask for."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from densenet_cli import engines, registry
from densenet_cli.classifier import BATCH_SIZE, DECODE_MEMORY
from densenet_cli.cli.console import say, show_progress
from densenet_cli.images.preprocessing import WAYS

if TYPE_CHECKING:
    from densenet_cli.classifier import Classifier

F = TypeVar("F", bound=Callable[..., Any])

MODEL_OPTIONS = (
    click.option(
        "--variant",
        type=click.Choice(list(registry.VARIANTS)),
        help=f"The network.  [default: {registry.DEFAULT}, or what --weights holds]",
    ),
    click.option(
        "--weights",
        type=click.Path(),
        metavar="FILE",
        help="Use this checkpoint (HDF5, .keras, .safetensors) instead of the variant's own.",
    ),
    click.option(
        "--labels",
        type=click.Path(exists=True, dir_okay=False),
        metavar="FILE",
        help="Class names, one a line, instead of the model's own.",
    ),
    click.option(
        "--preprocess",
        type=click.Choice(list(WAYS)),
        help="How a picture becomes the network's input: shorter side then centre; straight; with borders; "
        "exactly as keras.utils.load_img.  [default: the model's own, else crop]",
    ),
    click.option("--exact", is_flag=True, help="Never decode a large JPEG at reduced scale (slower)."),
    click.option("--ten-crop", is_flag=True, help="Average over ten crops of each picture (with crop only)."),
    click.option(
        "--decode-memory",
        type=click.IntRange(min=1),
        default=DECODE_MEMORY,
        show_default=True,
        metavar="MB",
        help="What the pictures being decoded may hold together.",
    ),
    click.option(
        "--engine",
        type=click.Choice(list(engines.ENGINES)),
        default=engines.DEFAULT,
        show_default=True,
        help="What computes: ONNX Runtime, or Keras on TensorFlow (slow to start).",
    ),
    click.option(
        "--batch-size",
        type=click.IntRange(1, 4096),
        default=BATCH_SIZE,
        show_default=True,
        metavar="N",
        help="Pictures computed at once.",
    ),
    click.option(
        "--threads",
        type=click.IntRange(1, 1024),
        show_default="number of cores",
        metavar="N",
        help="Threads that decode and compute.",
    ),
    click.option("--offline", is_flag=True, help="Never touch the network."),
)


def model_options(function: F) -> F:
    """Add ``MODEL_OPTIONS``; the command hands what it gets for them to ``make_classifier``."""
    for option in reversed(MODEL_OPTIONS):
        function = option(function)
    return function


class _Announcement:
    """In the place of a progress bar: one line for a file that is being fetched."""

    def __init__(self) -> None:
        self._names: set[str] = set()

    def update(self, name: str, done: int, total: int | None) -> None:
        if name not in self._names:
            self._names.add(name)
            say(f"Fetching {name}{f' ({total / 1e6:.0f} MB)' if total else ''}.")


def make_classifier(**options: Any) -> Classifier:
    """The classifier that ``model_options`` describe, its weights fetched behind a progress bar if need be."""
    from densenet_cli.classifier import Classifier

    if not show_progress():
        return Classifier(**options, progress=_Announcement().update)
    from densenet_cli.cli.progress import DownloadBar

    with DownloadBar() as bar:
        return Classifier(**options, progress=bar.update)
