"""The images of a run: listing them, opening them, and what to say about them."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from densenet_cli.datasets import DatasetOptions, find_splits, open_dataset
from densenet_cli.errors import UnreadableImageError, UsageError
from densenet_cli.paths import PathNormalizer
from densenet_cli.text import join_names, plural, quote, to_unicode
from densenet_cli.training.batches import Subset, held_out_count, split_validation
from densenet_cli.training.image_cache import Images, SkippableImages, open_images
from densenet_cli.training.image_list import ImageList, list_images, unreadable_images_message
from densenet_cli.training.multi_label import list_multi_label_images
from densenet_cli.training.options import RunOptions
from densenet_cli.training.run_files import RunPaths
from densenet_cli.training.settings import Settings

if TYPE_CHECKING:
    from densenet_cli._types import IntArray

PATIENCE_ERROR = "`patience` needs validation images, but there are none."


def list_datasets(
    paths: RunPaths, settings: Settings, on_message: Callable[[str], None]
) -> tuple[ImageList, ImageList | None]:
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
    if settings.multi_label:
        return _list_multi_label_datasets(train, val, csv, settings, options, on_message)
    training = list_images(open_dataset(train, csv, options))
    _describe_training(training, settings, on_message, val is not None)
    if val is None:
        return training, None
    if Path(val).is_dir():
        dataset = open_dataset(val, None, options)
    else:
        dataset = open_dataset(train if csv else None, val, options)
    validation = list_images(dataset, training.classes)
    _describe_validation(validation, training, on_message)
    return training, validation


def _list_multi_label_datasets(
    train: str | None,
    val: str | None,
    csv: str | None,
    settings: Settings,
    options: DatasetOptions,
    on_message: Callable[[str], None],
) -> tuple[ImageList, ImageList | None]:
    if csv is None or (val is not None and Path(val).is_dir()):
        raise UsageError("`multi_label` needs a table of images and their labels (`csv`), not class folders.")
    training = list_multi_label_images(csv, train, options)
    _describe_training(training, settings, on_message, val is not None)
    if val is None:
        return training, None
    validation = list_multi_label_images(val, train, options, training.classes)
    _describe_validation(validation, training, on_message)
    return training, validation


def _describe_training(
    training: ImageList, settings: Settings, on_message: Callable[[str], None], has_validation: bool
) -> None:
    _describe("Training:" if has_validation else "Found", training, on_message)
    if not settings.class_weights and (warning := training.imbalance_warning()):
        on_message(warning)


def _describe_validation(validation: ImageList, training: ImageList, on_message: Callable[[str], None]) -> None:
    _describe("Validation:", validation, on_message)
    if common := validation.count_common(training):
        on_message(
            f"Warning: {plural(common, 'validation image is', 'validation images are')} also used for training, so the "
            "validation accuracy is too optimistic."
        )


def _describe(use: str, images: ImageList, on_message: Callable[[str], None]) -> None:
    on_message(f"{use} {images.describe()}.")
    for warning in images.warnings:
        on_message(warning)


def _check_validation(
    training: Subset,
    validation: Subset,
    classes: tuple[str, ...],
    settings: Settings,
    options: RunOptions,
    is_held_out: bool,
) -> None:
    """Say how many images there are for validation, and which classes have none.

    Raises:
        UsageError: There are none, and ``patience`` needs them.
    """
    if is_held_out and len(validation):
        limit = (
            f"{settings.validation * len(classes):,}" if settings.multi_label else f"{settings.validation:,} per class"
        )
        options.on_message(f"Validation: {plural(len(validation), 'image')}, at most {limit}, held out from training.")
    if not len(validation):
        if settings.patience:
            raise UsageError(PATIENCE_ERROR)
        options.on_message("Warning: No images are left for validation. The model of the last epoch is kept.")
    elif missing := sorted(_present_classes(training) - _present_classes(validation)):
        names = join_names([classes[target] for target in missing])
        count = plural(len(missing), "class has", "classes have")
        options.on_message(f"Warning: {count} no validation images: {names}.")


def _present_classes(subset: Subset) -> set[int]:
    """Return the classes that any image has."""
    if subset.targets.ndim == 2:
        return set(np.flatnonzero((subset.targets == 1).any(axis=0)).tolist())
    return set(subset.targets.tolist())


def count_validation(training: ImageList, validation: ImageList | None, settings: Settings) -> int:
    """Return the number of validation images if all images can be decoded."""
    if validation is not None:
        return len(validation)
    if settings.multi_label:
        return held_out_count(len(training), settings.validation * len(training.classes))
    return sum(held_out_count(size, settings.validation) for size in Counter(training.targets).values())


def open_subsets(
    paths: RunPaths,
    training: ImageList,
    validation: ImageList | None,
    settings: Settings,
    options: RunOptions,
    skipped: dict[str, str],
) -> tuple[Subset, Subset]:
    """Return the training and the validation images, and say how many there are for validation.

    Validation images are decoded as ``predict`` decodes them.

    Images that cannot be decoded stay in the subsets, so these do not depend on ``options``. Those that are known at
    this point are added to ``skipped``.

    Raises:
        UnreadableImageError: An image cannot be decoded and ``options.skip_unreadable`` is false, or no training image
            of a class can be.
        UsageError: There are no validation images, and ``patience`` needs them.
    """

    def open_all(image_list: ImageList, indices: IntArray, min_side: int | None) -> Images:
        # Features are computed in one pass over the images.
        limit = 0 if settings.is_head_only and not settings.then_unfreeze else options.cache_limit
        image_paths = [image_list.paths[index] for index in indices]
        as_is = settings.preprocess == "keras"
        images = open_images(
            image_paths, min_side, paths.cache, limit, options.threads, options.on_decoded, as_is=as_is
        )
        errors = images.errors()
        if errors and not options.skip_unreadable:
            raise UnreadableImageError(unreadable_images_message(list(errors.values()), len(image_paths)))
        if not options.skip_unreadable:
            return images
        names = _relative_names(image_list)
        skippable = SkippableImages(images, [names[index] for index in indices], skipped)
        for index, message in errors.items():
            skippable.skip(index, message)
        return skippable

    min_side, training_side = settings.preprocessing.min_decoded_side, _min_training_side(settings)
    everything = np.arange(len(training))
    subset = Subset(open_all(training, everything, training_side), everything, training.target_array())
    if validation is not None:
        everything = np.arange(len(validation))
        images = open_all(validation, everything, min_side)
        subsets = subset, Subset(images, everything, validation.target_array())
    else:
        subsets = split_validation(subset, len(training.classes), settings.validation, settings.seed)
        if min_side != training_side and len(subsets[1]):
            held_out = subsets[1]
            images = open_all(training, held_out.indices, min_side)
            subsets = subsets[0], Subset(images, np.arange(len(held_out)), held_out.targets)
    readable = subsets[0].readable(), subsets[1].readable()
    if not settings.multi_label:
        for target in sorted(set(subsets[0].targets.tolist()) - set(readable[0].targets.tolist())):
            raise UnreadableImageError(
                f"No training image of the class {quote(training.classes[target])} can be decoded."
            )
    _check_validation(*readable, training.classes, settings, options, is_held_out=validation is None)
    return subsets


def _min_training_side(settings: Settings) -> int | None:
    """Return the minimum shorter side of a training JPEG decoded at reduced scale, in pixels. None: full scale only.

    Neither the smallest random crop nor the center crop may be enlarged. For ``nearest`` interpolation, pixels must not
    be averages. Features need at least the pixels of ``predict``.
    """
    inference_side = settings.preprocessing.min_decoded_side
    if settings.is_head_only and not settings.views and not settings.then_unfreeze:
        return inference_side
    if settings.interpolation == "nearest" or (settings.is_head_only and inference_side is None):
        return None
    max_size = max(settings.input_size, *(phase.size for phase in settings.sizes))
    min_fraction = min(math.sqrt(settings.crop_area), settings.crop_ratio or 1, 224 / 256)
    side = math.ceil(max_size / min_fraction)
    return max(side, inference_side or 0) if settings.is_head_only else side


def _relative_names(image_list: ImageList) -> list[str]:
    """Return the path of each image from the name of the dataset's folder, such as ``photos/cat/1.jpg``."""
    name = Path(image_list.folder).absolute().name
    return [to_unicode(os.path.normpath(f"{name}/{path}")) for path in image_list.names()]
