"""The options that several commands take, once: a model and images, and what these ask for."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from densenet_cli import engines, variants
from densenet_cli.classifier import BATCH_SIZE, DECODE_MEMORY, MAX_TIMEOUT
from densenet_cli.cli.console import say, show_progress
from densenet_cli.images.preprocessing import MODES

if TYPE_CHECKING:
    from densenet_cli._types import DownloadProgress
    from densenet_cli.classifier import Classifier
    from densenet_cli.images.sources import Source

F = TypeVar("F", bound=Callable[..., Any])

LABELS_OPTION = click.option(
    "--labels",
    type=click.Path(exists=True, dir_okay=False),
    metavar="FILE",
    help="Class names, one a line, instead of the model's own.",
)
BATCH_SIZE_OPTION = click.option(
    "--batch-size",
    type=click.IntRange(1, 4096),
    default=BATCH_SIZE,
    show_default=True,
    metavar="N",
    help="Images computed at once.",
)
THREADS_OPTION = click.option(
    "--threads",
    type=click.IntRange(1, 1024),
    show_default="number of cores",
    metavar="N",
    help="Threads that decode and compute.",
)

OFFLINE_OPTION = click.option("--offline", is_flag=True, help="Never touch the network.")

WHICH_MODEL_OPTIONS = (
    click.option(
        "--variant",
        type=click.Choice(list(variants.VARIANTS)),
        help=f"The network.  [default: {variants.DEFAULT}, or what --weights holds]",
    ),
    click.option(
        "--weights",
        type=click.Path(),
        metavar="FILE",
        help="Use this checkpoint (HDF5, .keras, .safetensors) instead of the variant's own.",
    ),
    LABELS_OPTION,
    click.option(
        "--preprocess",
        type=click.Choice(list(MODES)),
        help="How an image becomes the network's input: shorter side then center; straight; with borders; "
        "exactly as keras.utils.load_img.  [default: the model's own, else crop]",
    ),
)
MODEL_OPTIONS = (
    *WHICH_MODEL_OPTIONS,
    click.option("--exact", is_flag=True, help="Never decode a large JPEG at reduced scale (slower)."),
    click.option("--ten-crop", is_flag=True, help="Average over ten crops of each image (with crop only)."),
    click.option(
        "--decode-memory",
        type=click.IntRange(min=1),
        default=DECODE_MEMORY,
        show_default=True,
        metavar="MB",
        help="What the images being decoded may hold together.",
    ),
    click.option(
        "--isolate",
        is_flag=True,
        help="Decode in processes of their own: a decoder that crashes costs one image, not the run.",
    ),
    click.option(
        "--timeout",
        type=click.FloatRange(0, MAX_TIMEOUT, min_open=True),
        metavar="SECONDS",
        help="What decoding one image may take; implies --isolate.  [default: no limit]",
    ),
    click.option(
        "--engine",
        type=click.Choice(list(engines.ENGINES)),
        default=engines.DEFAULT,
        show_default=True,
        help="What computes: ONNX Runtime, or Keras on TensorFlow (slow to start).",
    ),
    BATCH_SIZE_OPTION,
    THREADS_OPTION,
    OFFLINE_OPTION,
)

SOURCE_OPTIONS = (
    click.argument("source", nargs=-1),
    click.option(
        "--files-from",
        type=click.Path(exists=True, dir_okay=False, allow_dash=True),
        metavar="FILE",
        help="Read one source a line from FILE (- for standard input).",
    ),
    click.option("--null", is_flag=True, help="Sources in --files-from end in NUL bytes instead of newlines."),
)


def model_options(function: F) -> F:
    """Add ``MODEL_OPTIONS``; the command hands what it gets for them to ``make_classifier``."""
    return _add(MODEL_OPTIONS, function)


def model_options_but(*left_out: Callable[[F], F]) -> Callable[[F], F]:
    """``model_options`` without some, for a command that has no use for them or gives them another meaning."""
    return partial(_add, tuple(option for option in MODEL_OPTIONS if option not in left_out))


def which_model_options(function: F) -> F:
    """Those of ``MODEL_OPTIONS`` that say which model it is, and not how it is run."""
    return _add((*WHICH_MODEL_OPTIONS, OFFLINE_OPTION), function)


def source_options(function: F) -> F:
    """Add ``SOURCE_OPTIONS``; the command hands what it gets for them to ``images_of``."""
    return _add(SOURCE_OPTIONS, function)


def _add(options: tuple[Callable[[F], F], ...], function: F) -> F:
    for option in reversed(options):
        function = option(function)
    return function


def images_of(source: tuple[str, ...], files_from: str | None, null: bool) -> Iterator[Source]:
    """The images that ``source_options`` name, found as they are asked for.

    Raises ``click.UsageError`` at once where these are none, or contradict one another.
    """
    if not source and not files_from:
        raise click.UsageError("Name an image, a folder, a glob, a URL or -, or give --files-from.")
    if null and not files_from:
        raise click.UsageError("--null goes with --files-from.")
    if files_from == "-" and "-" in source:
        raise click.UsageError("Standard input is either an image (-) or a list (--files-from -), not both.")
    from densenet_cli.images.sources import expand

    return expand(_arguments(source, files_from, null))


def _arguments(source: tuple[str, ...], files_from: str | None, null: bool) -> Iterator[str]:
    """The sources in the command line's order, then those of ``--files-from``."""
    from densenet_cli.images.sources import read_list

    yield from source
    if files_from == "-":
        yield from read_list(sys.stdin.buffer, null)
    elif files_from:
        with Path(files_from).open("rb") as file:
            yield from read_list(file, null)


def model_settings(classifier: Classifier, engine: str) -> dict[str, Any]:
    """What a network's answers depend on, of JSON's types, for ``records``' settings."""
    from densenet_cli.weights.file_identity import file_md5

    preprocessing = classifier.preprocessing
    return {
        "model": classifier.model,
        "weights_md5": file_md5(classifier.weights),
        "engine": engine,
        "preprocess": preprocessing.mode,
        "input_size": preprocessing.input_size,
        "exact": preprocessing.exact,
        "ten_crop": preprocessing.ten_crop,
    }


def say_recorded(count: int) -> None:
    """What ``--resume`` found."""
    if count == 1:
        say("1 source is recorded already; going on behind it.")
    elif count:
        say(f"{count:,} sources are recorded already; going on behind them.")


class _Announcement:
    """In the place of a progress bar: one line for a file that is being fetched."""

    def __init__(self) -> None:
        self._names: set[str] = set()

    def update(self, name: str, done: int, total: int | None) -> None:
        if name not in self._names:
            self._names.add(name)
            say(f"Fetching {name}{f' ({total / 1e6:.0f} MB)' if total else ''}.")


def make_classifier(**options: Any) -> Classifier:
    """The classifier that ``model_options`` describe, its weights fetched behind a progress bar if need be.

    It is closed when the command ends, however it ends.
    """
    from densenet_cli.classifier import Classifier

    with ExitStack() as stack:
        progress: DownloadProgress = _Announcement().update
        if show_progress():
            from densenet_cli.cli.progress import DownloadBar

            progress = stack.enter_context(DownloadBar()).update
        classifier = Classifier(**options, progress=progress)
    click.get_current_context().call_on_close(classifier.close)
    return classifier
