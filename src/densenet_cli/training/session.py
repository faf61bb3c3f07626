"""Opening a run: check everything, prepare the images and the network, and lock the output folder."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from densenet_cli import labels
from densenet_cli.datasets import find_splits, open_dataset
from densenet_cli.engines.tensorflow import import_keras
from densenet_cli.errors import OutputError, UnreadableImageError, UsageError
from densenet_cli.images.walking import is_ignored
from densenet_cli.output.atomic import locked, output_errors
from densenet_cli.paths import PathNormalizer
from densenet_cli.text import join_names, plural, to_unicode
from densenet_cli.training import initial_weights, recipes, run_files
from densenet_cli.training.batches import Subset, held_out_count, split_validation
from densenet_cli.training.image_cache import MappedImages, SkippableImages, open_images
from densenet_cli.training.image_list import ImageList, list_images
from densenet_cli.training.run_files import RunPaths, RunState
from densenet_cli.training.settings import FROM_SCRATCH, RunOptions, Settings

if TYPE_CHECKING:
    from densenet_cli._types import IntArray
    from densenet_cli.training.loop import TrainingRun

CHANGEABLE = ("sizes", "patience")
"""Settings that a resumed run may change, as far as its past epochs do not depend on them."""

PATIENCE_ERROR = "`patience` needs validation images, but there are none."

MAX_LISTED = 5
"""Unreadable images that one message lists."""


@contextmanager
def open_run(
    paths: RunPaths,
    settings: Settings,
    options: RunOptions,
    *,
    resume: bool = False,
    overwrite: bool = False,
    offline: bool = False,
) -> Iterator[TrainingRun]:
    """Open a run. The output folder is locked while the ``with`` block runs.

    Args:
        paths: The folders of the run.
        settings: The settings, which determine the result.
        options: Options that do not affect the result.
        resume: Continue the run in the output folder, which must have the same images and settings, except those in
            ``CHANGEABLE``.
        overwrite: Replace the run in the output folder.
        offline: Do not download initial weights.

    Raises:
        UsageError: The class folders are unsuitable, the output folder contains a run, or the run to resume does
            not exist or differs. Nothing on disk is changed then.
        UnreadableImageError: An image cannot be decoded and ``options.skip_unreadable`` is false, or no image of a
            class can be.
        WeightsError: The initial weights are unavailable or do not fit the network.
        OutputError: A file cannot be written.
    """
    if resume and overwrite:
        raise UsageError("Use either `resume` or `overwrite`.")
    state = run_files.load_state(paths.output) if resume else None
    if state:
        is_changed = _change_settings(state, settings)
    elif not overwrite and any((paths.output / name).exists() for name in (run_files.STATE_FILE, run_files.MODEL_FILE)):
        raise UsageError(
            f"There is a run in {paths.output}. Use `resume` to continue it or `overwrite` to start again."
        )
    _check_output(paths)
    training, validation = _list_datasets(paths, options.on_message)
    if settings.patience and not _count_validation(training, validation, settings):
        raise UsageError(PATIENCE_ERROR)
    class_labels = labels.from_class_names(training.classes)
    fingerprint = training.fingerprint() + (validation.fingerprint() if validation else "")
    if state and state.fingerprint != fingerprint:
        raise UsageError(f"The images differ from those of the run in {paths.output}. Use the same images and `val`.")
    with _lock(paths.output):
        skipped = state.skipped if state else {}
        subsets = _open_subsets(paths, training, validation, settings, options, skipped)
        _check_validation(*subsets, training.classes, settings, options.on_message)
        # Importing Keras takes seconds, so everything else is checked first.
        import_keras()
        from densenet_cli.training.loop import TrainingRun

        initial_arrays = None
        if state is None:
            if settings.start != FROM_SCRATCH:
                config = settings.config(len(class_labels))
                initial_arrays = initial_weights.load_arrays(settings.start, config, class_labels, offline)
            state = RunState(settings.to_dict(), list(training.classes), fingerprint, skipped=skipped)
            _delete_run(paths.output)
        elif is_changed:
            run_files.save_state(paths.output, state)
        recipes.write(paths.output / run_files.SETTINGS_FILE, settings)
        yield TrainingRun(settings, class_labels, *subsets, state, paths.output, options, initial_arrays)


def _check_output(paths: RunPaths) -> None:
    """Raise ``UsageError`` if the output folder is in a folder of images, where its curves would be a class."""
    output = Path(os.path.realpath(paths.output))
    for folder in (None if paths.csv else paths.train, paths.val):
        if folder is None or (parent := Path(os.path.realpath(folder))) not in output.parents:
            continue
        if not any(map(is_ignored, output.relative_to(parent).parts)):
            raise UsageError(
                f"The output folder {to_unicode(str(paths.output))} is inside {to_unicode(str(folder))}, so it would "
                "be taken for a class. Choose a folder outside."
            )


def _list_datasets(paths: RunPaths, on_message: Callable[[str], None]) -> tuple[ImageList, ImageList | None]:
    """Return the training images and the validation images, if there are separate ones, and say what they are."""
    train, val, csv = (None if path is None else str(path) for path in (paths.train, paths.val, paths.csv))
    options = paths.dataset
    if train is not None and csv is None and (splits := find_splits(train, options.suffixes)):
        names = [Path(path).name for path in splits.values()]
        message = f"{to_unicode(train)} is already split into {join_names(names)}"
        if "train" not in splits:
            raise UsageError(f"{message}, without training images. Use a folder that contains class folders.")
        train = splits["train"]
        message += f". Training on {to_unicode(train)}"
        if val is None and "val" in splits:
            val = splits["val"]
            message += f", validating on {to_unicode(val)}"
        normalize = PathNormalizer()
        used = {normalize(path) for path in (train, val) if path is not None}
        unused = [to_unicode(path) for path in splits.values() if normalize(path) not in used]
        on_message(f"{message}. Not used: {join_names(unused)}." if unused else f"{message}.")
    training = list_images(open_dataset(train, csv, options))
    _describe("Training", training, on_message)
    if val is None:
        return training, None
    if Path(val).is_dir():
        dataset = open_dataset(val, None, options)
    else:
        dataset = open_dataset(train if csv else None, val, options)
    validation = list_images(dataset, training.classes)
    _describe("Validation", validation, on_message)
    if common := validation.count_common(training):
        on_message(
            f"Warning: {plural(common, 'validation image is', 'validation images are')} also used for training, so the "
            "validation accuracy is too optimistic."
        )
    return training, validation


def _describe(use: str, images: ImageList, on_message: Callable[[str], None]) -> None:
    on_message(f"{use}: {images.describe()}.")
    for warning in images.warnings:
        on_message(warning)


def _check_validation(
    training: Subset,
    validation: Subset,
    classes: tuple[str, ...],
    settings: Settings,
    on_message: Callable[[str], None],
) -> None:
    """Say how many images there are for validation, and which classes have none.

    Raises:
        UsageError: There are none, and ``patience`` needs them.
    """
    if training.images is validation.images and len(validation):
        on_message(
            f"Validation: {plural(len(validation), 'image')}, at most {settings.validation:,} per class, held out from "
            "the training images."
        )
    if not len(validation):
        if settings.patience:
            raise UsageError(PATIENCE_ERROR)
        on_message("Warning: No images are left for validation. The model of the last epoch is kept.")
    elif missing := sorted(set(training.targets.tolist()) - set(validation.targets.tolist())):
        names = join_names([classes[target] for target in missing])
        on_message(f"Warning: {plural(len(missing), 'class has', 'classes have')} no validation images: {names}.")


def _count_validation(training: ImageList, validation: ImageList | None, settings: Settings) -> int:
    """Return the number of validation images if all images can be decoded."""
    if validation is not None:
        return len(validation)
    return sum(held_out_count(size, settings.validation) for size in Counter(training.targets).values())


def _change_settings(state: RunState, settings: Settings) -> bool:
    """Change the settings of a state. Return whether any differs.

    Raises:
        UsageError: A setting must not change, or the run would not continue.
    """
    saved = Settings.from_dict(state.settings)
    if differences := settings.differences(replace(saved, **{name: getattr(settings, name) for name in CHANGEABLE})):
        raise UsageError(
            f"The run was started with different settings: {'; '.join(differences)}. Only `epochs`, `sizes`, and "
            "`patience` can be changed."
        )
    started = state.epoch + (state.batch > 0)
    if settings.epochs < started:
        raise UsageError(f"The run is in epoch {started} already. Use at least {started} `epochs`.")
    if any(settings.size_at(epoch) != saved.size_at(epoch) for epoch in range(started)):
        raise UsageError(f"`sizes` must begin with the epochs that were trained already ({state.settings['sizes']}).")
    state.stopped_early = settings.stops_early(state.epoch, state.best_epoch)
    if state.stopped_early and settings.epochs > saved.epochs:
        raise UsageError(
            f"The run stopped because the last {state.epoch - state.best_epoch} epochs brought no improvement. Use a "
            "larger `patience`, or 0 to never stop early."
        )
    state.settings = settings.to_dict()
    return settings != saved


def _delete_run(output: Path) -> None:
    """Delete the files of an earlier run. The state is first, so that an incomplete run cannot be resumed."""
    for name in run_files.RESULT_FILES:
        (output / name).unlink(missing_ok=True)


@contextmanager
def _lock(output: Path) -> Iterator[None]:
    with ExitStack() as stack:
        with output_errors(output):
            output.mkdir(parents=True, exist_ok=True)
            try:
                stack.enter_context(locked(output / ".lock"))
            except BlockingIOError:
                raise UsageError(f"Another run is using {output}.") from None
        try:
            yield
        except OSError as error:
            file = f" {to_unicode(os.fspath(error.filename))}:" if isinstance(error.filename, (str, Path)) else ""
            raise OutputError(f"The run in {output} stopped:{file} {error.strerror or error}.") from error


def _open_subsets(
    paths: RunPaths,
    training: ImageList,
    validation: ImageList | None,
    settings: Settings,
    options: RunOptions,
    skipped: dict[str, str],
) -> tuple[Subset, Subset]:
    """Return the training and the validation images. Images that cannot be decoded are added to ``skipped``."""
    max_size = max(settings.input_size, *(phase.size for phase in settings.sizes))
    # Neither the smallest random crop nor the center crop (224 of 256) may enlarge a JPEG decoded at reduced scale.
    min_side = math.ceil(max_size / min(math.sqrt(settings.crop_area), 224 / 256))
    subsets = []
    for image_list in filter(None, (training, validation)):
        images = open_images(
            image_list.paths, min_side, paths.cache, options.cache_limit, options.threads, options.on_decoded
        )
        errors = images.errors() if isinstance(images, MappedImages) else {}
        readable = _readable_indices(image_list, errors, options.skip_unreadable)
        if options.skip_unreadable:
            images = SkippableImages(images, _relative_names(image_list), skipped)
            for index, message in errors.items():
                images.skip(index, message)
        subsets.append(Subset(images, readable, np.array(image_list.targets, np.int64)[readable]))
    if validation is None:
        return split_validation(subsets[0], len(training.classes), settings.validation, settings.seed)
    return subsets[0], subsets[1]


def _relative_names(image_list: ImageList) -> list[str]:
    """Return the path of each image from the name of the dataset's folder, such as ``photos/cat/1.jpg``."""
    name = Path(image_list.folder).absolute().name
    return [to_unicode(os.path.normpath(f"{name}/{path}")) for path in image_list.names()]


def _readable_indices(image_list: ImageList, errors: dict[int, str], skip_unreadable: bool) -> IntArray:
    """Return the indices of the images without an error.

    Raises:
        UnreadableImageError: An image cannot be decoded and ``skip_unreadable`` is false, or a class has no other
            images.
    """
    if errors and not skip_unreadable:
        listed = " ".join(list(errors.values())[:MAX_LISTED])
        more = f" And {len(errors) - MAX_LISTED} more." if len(errors) > MAX_LISTED else ""
        raise UnreadableImageError(
            f"{len(errors):,} of {len(image_list):,} images cannot be decoded: {listed}{more} Repair or remove them, "
            "or use `skip_unreadable`."
        )
    readable = np.setdiff1d(np.arange(len(image_list)), np.fromiter(errors, np.int64, len(errors)))
    readable_targets = {image_list.targets[index] for index in readable}
    for target in sorted(set(image_list.targets) - readable_targets):
        raise UnreadableImageError(f"No image of the class {image_list.classes[target]!r} can be decoded.")
    return readable
