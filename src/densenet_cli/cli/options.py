"""Options that several commands share, and what the commands make of them: a classifier and image sources."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

import click

from densenet_cli import engines, variants
from densenet_cli.cli.command import GLOBAL_GROUP, FloatRange, input_option, option
from densenet_cli.cli.console import echo_info
from densenet_cli.engines import BATCH_SIZE
from densenet_cli.images import DECODE_MEMORY, MAX_TIMEOUT
from densenet_cli.images.preprocessing import MODES, PAGES, TRUNCATED
from densenet_cli.text import plural

if TYPE_CHECKING:
    from densenet_cli.classifier import Classifier
    from densenet_cli.datasets import DatasetOptions
    from densenet_cli.images.sources import Source

F = TypeVar("F", bound=Callable[..., Any])
S = TypeVar("S", bound="Source")

model_option = partial(option, group="Model")
preprocessing_option = partial(option, group="Preprocessing")
performance_option = partial(option, group="Performance")

MODEL_OPTIONS = {
    "variant": model_option(
        "--variant",
        type=click.Choice(list(variants.VARIANTS)),
        metavar="NAME",
        help=f"DenseNet variant: {', '.join(variants.VARIANTS)}.  [default: {variants.DEFAULT}, or the variant in "
        "--weights]",
    ),
    "weights": model_option(
        "--weights",
        type=click.Path(),
        metavar="PATH",
        help="Load this checkpoint instead of the published weights: a file, a folder, or hf://ORGANIZATION/NAME on "
        "the Hugging Face Hub.",
    ),
    "labels": model_option(
        "--labels",
        type=click.Path(exists=True, dir_okay=False),
        metavar="FILE",
        help="Read class names from FILE (text, JSON, YAML, or CSV) instead of using the model's.",
    ),
    "engine": model_option(
        "--engine",
        type=click.Choice(list(engines.ENGINES)),
        default=engines.DEFAULT,
        show_default=True,
        help="Inference engine: ONNX Runtime, or Keras on TensorFlow (slow to start).",
    ),
    "preprocess": preprocessing_option(
        "--preprocess",
        type=click.Choice(MODES),
        help="How to fit images to the input: crop (resize and center-crop), squash (ignore aspect ratio), "
        "pad (letterbox), keras (match load_img).  [default: the model's mode, or crop]",
    ),
    "exact": preprocessing_option(
        "--exact",
        is_flag=True,
        help="Decode large JPEGs at full resolution (slower).",
    ),
    "ten_crop": preprocessing_option(
        "--ten-crop",
        is_flag=True,
        help="Average over ten crops of each image (crop mode only).",
    ),
    "bit_depth": preprocessing_option(
        "--bit-depth",
        default="auto",
        show_default=True,
        metavar="auto|full|N|LO:HI",
        help="Range of values, from black to white, of images with more than 8 bits: detected (auto), of the data type "
        "(full), of N bits, or from LO to HI.",
    ),
    "truncated": preprocessing_option(
        "--truncated",
        type=click.Choice(TRUNCATED),
        default=TRUNCATED[0],
        show_default=True,
        help="Whether to accept images whose files end early. Their records are marked.",
    ),
    "pages": input_option(
        "--pages",
        type=click.Choice(PAGES),
        default=PAGES[0],
        show_default=True,
        help="Which pages of a TIFF file, or frames of an animation, to use. The source file.tif[2] is the third page.",
    ),
    "batch_size": performance_option(
        "--batch-size",
        type=click.IntRange(1, 4096),
        default=BATCH_SIZE,
        show_default=True,
        metavar="N",
        help="Number of images per batch.",
    ),
    "threads": performance_option(
        "--threads",
        type=click.IntRange(1, 1024),
        show_default="number of cores",
        metavar="N",
        help="Number of threads for decoding and inference.",
    ),
    "decode_memory": performance_option(
        "--decode-memory",
        type=click.IntRange(min=1),
        default=DECODE_MEMORY,
        show_default=True,
        metavar="MB",
        help="Memory limit for concurrent decoding.",
    ),
    "isolate": performance_option(
        "--isolate",
        is_flag=True,
        help="Decode in worker processes so that a crash fails one image instead of the run.",
    ),
    "timeout": performance_option(
        "--timeout",
        type=FloatRange(0, MAX_TIMEOUT, min_open=True),
        metavar="SECONDS",
        help="Time limit for decoding one image. Implies --isolate.  [default: no limit]",
    ),
    "offline": option("--offline", is_flag=True, group=GLOBAL_GROUP, help="Never access the network."),
}
"""Parameter name -> decorator. A command passes their values to ``create_classifier``."""


def model_options(only: Collection[str] = tuple(MODEL_OPTIONS), without: Collection[str] = ()) -> Callable[[F], F]:
    """Return a decorator that adds the named ``MODEL_OPTIONS`` to a command; all of them by default."""

    def add(function: F) -> F:
        for name in reversed(MODEL_OPTIONS):
            if name in only and name not in without:
                function = MODEL_OPTIONS[name](function)
        return function

    return add


suffix_option = input_option(
    "--suffix",
    multiple=True,
    metavar="SUFFIX",
    help="Also use files with this extension in folders, such as .img ('' for none). Can be repeated.",
)


def table_options(function: F) -> F:
    """Add ``--csv`` and the names of its columns to a command."""
    for decorator in (
        input_option(
            "--label-column",
            metavar="NAME",
            help="Name of the label column in --csv.  [default: label, class, ...]",
        ),
        input_option(
            "--path-column",
            metavar="NAME",
            help="Name of the image column in --csv.  [default: path, filename, image, ...]",
        ),
        input_option(
            "--csv",
            type=click.Path(exists=True, dir_okay=False),
            metavar="FILE",
            help="Read images and their classes from a table, separated by commas, semicolons, or tabs. Paths are "
            "relative to FOLDER if given, or else to the table's folder.",
        ),
    ):
        function = decorator(function)
    return function


def dataset_options(
    suffix: tuple[str, ...],
    path_column: str | None,
    label_column: str | None,
    has_table: bool,
    has_folders: bool,
) -> DatasetOptions:
    """Return how to read a dataset. Raises ``click.UsageError`` for an option that does not apply to the input."""
    from densenet_cli.datasets import DatasetOptions

    if (path_column or label_column) and not has_table:
        raise click.UsageError(f"--{'path' if path_column else 'label'}-column requires --csv.")
    if suffix and not has_folders:
        raise click.UsageError("--suffix applies only to class folders. A table can list files with any extension.")
    return DatasetOptions(suffix, path_column, label_column)


def source_options(function: F) -> F:
    """Add the argument SOURCE and its options to a command, which passes their values to ``expand_sources``."""
    for decorator in (
        suffix_option,
        input_option(
            "--null",
            is_flag=True,
            help="Expect NUL bytes instead of newlines between the sources in --files-from.",
        ),
        input_option(
            "--files-from",
            type=click.Path(exists=True, dir_okay=False, allow_dash=True),
            metavar="FILE",
            help="Read sources from FILE, one per line (- for standard input).",
        ),
        click.argument("source", nargs=-1),
    ):
        function = decorator(function)
    return function


def expand_sources(
    source: tuple[str, ...],
    files_from: str | None,
    null: bool,
    suffix: tuple[str, ...] = (),
    *,
    pages: str = "first",
    offline: bool = False,
) -> Iterator[Source]:
    """Return the images that ``source_options`` name. Folders are read while the iterator runs.

    ``pages`` and ``offline`` are those of ``MODEL_OPTIONS``.

    Raises:
        click.UsageError: No source, or contradictory options. It is raised at once.
    """
    if not source and not files_from:
        raise click.UsageError("No source given. Pass an image, a folder, a glob, a URL, or -, or use --files-from.")
    if null and not files_from:
        raise click.UsageError("--null requires --files-from.")
    if files_from == "-" and "-" in source:
        raise click.UsageError("Standard input can be an image (-) or a list (--files-from -), but not both.")
    from densenet_cli.images.sources import expand

    return select_pages(expand(_names(source, files_from, null), suffixes=suffix), pages, offline)


def select_pages(sources: Iterator[S], pages: str, offline: bool) -> Iterator[S]:
    """Return the sources, or with ``--pages all`` their pages."""
    if pages == "first":
        return sources
    from densenet_cli.images.pages import expand_pages

    return expand_pages(sources, offline)


def _names(source: tuple[str, ...], files_from: str | None, null: bool) -> Iterator[str]:
    """Yield the sources of the command line, then those of ``--files-from``."""
    from densenet_cli.images.sources import local_path, read_list

    yield from source
    if files_from == "-":
        yield from map(local_path, read_list(sys.stdin.buffer, null))
    elif files_from:
        with Path(files_from).open("rb") as file:
            yield from map(local_path, read_list(file, null))


def model_settings(classifier: Classifier, engine: str) -> dict[str, Any]:
    """Return the settings that the model's outputs depend on, as JSON types."""
    from densenet_cli.weights.file_identity import file_md5

    return {
        "model": classifier.model,
        "weights_md5": file_md5(classifier.weights),
        "engine": engine,
        **classifier.preprocessing.to_dict(),
    }


class NoteCounter:
    """Counts what results say about their images, to print it at the end of a run."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def add(self, notes: Iterable[str]) -> None:
        """Count the notes of one result."""
        self._counts.update(notes)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if count := self._counts["truncated"]:
            files = plural(count, "image file ends", "image files end")
            echo_info(f"{files} early. The missing pixels are gray or black.")
        if count := self._counts["narrow_range"]:
            echo_info(
                f"{plural(count, 'image uses', 'images use')} less than a sixteenth of the range from black to white. "
                "Set the range with --bit-depth."
            )
        if count := self._counts["more_pages"]:
            files = plural(count, "file has", "files have")
            echo_info(f"{files} more than one page or frame. To use all of them, add --pages all.")


def echo_resumed(count: int) -> None:
    """Print how many sources ``--resume`` found in the output."""
    if count:
        echo_info(f"Resuming: {plural(count, 'source')} already done.")


def create_classifier(**options: Any) -> Classifier:
    """Create the classifier that ``model_options`` describe. Downloads of weights show their progress.

    The classifier is closed when the command ends.
    """
    from densenet_cli.classifier import Classifier
    from densenet_cli.cli.progress import ProgressBar

    with ProgressBar("download") as progress:
        classifier = Classifier(**options, progress=progress.update_download)
    click.get_current_context().call_on_close(classifier.close)
    return classifier
