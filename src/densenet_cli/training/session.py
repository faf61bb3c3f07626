"""A run from its folder of images to its model: everything is checked before the first step, then it trains."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from densenet_cli.engines.tensorflow import import_keras
from densenet_cli.errors import UsageError
from densenet_cli.output.atomic import locked, output_errors
from densenet_cli.training import folders, recipe, result, run_files
from densenet_cli.training.batches import Part, split
from densenet_cli.training.folders import Collection
from densenet_cli.training.image_cache import Images, Mapped, open_images
from densenet_cli.training.settings import SCRATCH, Settings
from densenet_cli.training.ways import Ways

if TYPE_CHECKING:
    from densenet_cli.training.loop import Run

SETTINGS_FILE = "settings.toml"
NAMED = 5
"""Images that an error names; of the rest it says how many."""


@dataclass(frozen=True)
class Place:
    """Where a run's files are.

    Attributes:
        folder: of class folders to train on.
        validation: of class folders to measure on; None to split some of the training images off.
        output: where state, log, settings and model go.
        cache: where decoded images are kept.
        cache_limit: megabytes that they may have; a larger collection is decoded again in every epoch.
    """

    folder: Path
    validation: Path | None
    output: Path
    cache: Path
    cache_limit: int


@contextmanager
def open_run(
    place: Place,
    settings: Settings,
    ways: Ways,
    *,
    resume: bool = False,
    overwrite: bool = False,
    offline: bool = False,
    on_decoded: Callable[[int, int], None] = lambda done, total: None,
) -> Iterator[Run]:
    """A run that is ready to ``train``, alone in its folder while the ``with`` block lasts.

    Args:
        place: its files.
        settings: what to compute.
        ways: how to go about it.
        resume: go on from the saved state, which must be of these settings and images.
        overwrite: start anew in a folder that holds a run.
        offline: fetch no weights to start from.
        on_decoded: called with the number of images decoded and of all, where they are.

    Raises:
        UsageError: class folders that can't be trained on; a run in the way, or none to resume, or one of other
            settings or images; nothing on the disk is changed then.
        WeightsError: weights to start from that can't be had or don't fit.
        OutputError: files that can't be written.
    """
    if resume and overwrite:
        raise UsageError("A run is either resumed or overwritten, not both.")
    begun = run_files.load(place.output) if resume else None
    if begun:
        _check_settings(begun, settings)
    elif not overwrite:
        _check_free(place.output)
    training = folders.scan(place.folder)
    validation = folders.scan(place.validation, training.classes) if place.validation else None
    labels = folders.class_labels(training.classes)
    data = training.fingerprint() + (validation.fingerprint() if validation else "")
    if begun and begun.data != data:
        raise UsageError(
            f"The images are not those that the run in {place.output} began with; it needs the same, --val's too."
        )
    with _alone_in(place.output):
        parts = _parts(place, training, validation, settings, ways, on_decoded)
        arrays = None
        # Everything else has turned out well: now it is worth the seconds that this takes.
        import_keras()
        from densenet_cli.training import network
        from densenet_cli.training.loop import Run

        if begun is None:
            if settings.start != SCRATCH:
                config = settings.config(len(labels))
                arrays = network.start_arrays(settings.start, config, labels, offline)
            begun = run_files.State(settings.to_dict(), list(training.classes), data)
            _clear(place.output)
        recipe.write(place.output / SETTINGS_FILE, settings)
        yield Run(settings, labels, *parts, begun, place.output, ways, arrays)


def _check_settings(begun: run_files.State, settings: Settings) -> None:
    different = settings.differences(Settings.from_dict(begun.settings))
    if different:
        raise UsageError(f"The run to resume has other settings: its {'; its '.join(different)}.")


def _check_free(output: Path) -> None:
    for name in (run_files.FILE, result.FILE):
        if (output / name).exists():
            raise UsageError(f"{output} holds a run already: --resume goes on with it, --overwrite begins anew.")


def _clear(output: Path) -> None:
    """Take away what an earlier run left, its state first: without it nothing can be resumed by mistake."""
    from densenet_cli.training import curves, log

    for name in (run_files.FILE, result.FILE, log.FILE, curves.FILE):
        (output / name).unlink(missing_ok=True)


@contextmanager
def _alone_in(output: Path) -> Iterator[None]:
    with output_errors(output), ExitStack() as stack:
        output.mkdir(parents=True, exist_ok=True)
        try:
            stack.enter_context(locked(output / ".lock"))
        except BlockingIOError:
            raise UsageError(f"Another run is using {output}.") from None
        yield


def _parts(
    place: Place,
    training: Collection,
    validation: Collection | None,
    settings: Settings,
    ways: Ways,
    on_decoded: Callable[[int, int], None],
) -> tuple[Part, Part]:
    """The images to train on and those to measure on, decoded where they are few enough."""
    largest = max(settings.input_size, *(phase.size for phase in settings.sizes))
    # So that not even the smallest crop of an image decoded at reduced scale is enlarged, nor the 256 of 224.
    least_side = math.ceil(largest / min(math.sqrt(settings.crop_area), 224 / 256))
    opened = []
    for collection in filter(None, (training, validation)):
        images = open_images(collection.paths, least_side, place.cache, place.cache_limit, ways.threads, on_decoded)
        readable = _readable(collection, images, ways.skip_unreadable)
        opened.append(Part(images, readable, collection.targets[readable]))
    if validation is None:
        return split(opened[0], training.classes, settings.validation, settings.seed)
    return opened[0], opened[1]


def _readable(collection: Collection, images: Images, skip: bool) -> folders.Indices:
    """Numbers of the images that could be decoded; all of those that will be decoded later only.

    Raises ``UsageError`` where there are others and they aren't to be skipped, or a class has no others.
    """
    bad = images.unreadable() if isinstance(images, Mapped) else {}
    if bad and not skip:
        named = " ".join(list(bad.values())[:NAMED])
        more = f" And {len(bad) - NAMED} more." if len(bad) > NAMED else ""
        raise UsageError(
            f"{len(bad)} of {len(collection)} images can't be decoded: {named}{more} Repair or remove them, or leave "
            "them out with --skip-unreadable."
        )
    readable = np.setdiff1d(np.arange(len(collection)), np.fromiter(bad, np.int64, len(bad)))
    for lost in sorted(set(collection.targets.tolist()) - set(collection.targets[readable].tolist())):
        raise UsageError(f"The class {collection.classes[lost]!r} has no image that can be decoded.")
    return readable
