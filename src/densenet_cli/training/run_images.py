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
from densenet_cli.text import join_names, plural, to_unicode
from densenet_cli.training.batches import Subset, held_out_count, split_validation
from densenet_cli.training.image_cache import MappedImages, SkippableImages, open_images
from densenet_cli.training.image_list import ImageList, list_images, unreadable_images_message
from densenet_cli.training.multi_label import MultiLabelImageList, list_multi_label_images
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
    _describe_training(training, settings, on_message)
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
    _describe_training(training, settings, on_message)
    if val is None:
        return training, None
    validation = list_multi_label_images(val, train, options, training.classes)
    _describe_validation(validation, training, on_message)
    return training, validation


def _describe_training(training: ImageList, settings: Settings, on_message: Callable[[str], None]) -> None:
    _describe("Training", training, on_message)
    if not settings.class_weights and (warning := training.imbalance_warning()):
        on_message(warning)


def _describe_validation(validation: ImageList, training: ImageList, on_message: Callable[[str], None]) -> None:
    _describe("Validation", validation, on_message)
    if common := validation.count_common(training):
        on_message(
            f"Warning: {plural(common, 'validation image is', 'validation images are')} also used for training, so the "
            "validation accuracy is too optimistic."
        )


def _describe(use: str, images: ImageList, on_message: Callable[[str], None]) -> None:
    on_message(f"{use}: {images.describe()}.")
    for warning in images.warnings:
        on_message(warning)


def check_validation(
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
        limit = (
            f"{settings.validation * len(classes):,}" if settings.multi_label else f"{settings.validation:,} per class"
        )
        on_message(
            f"Validation: {plural(len(validation), 'image')}, at most {limit}, held out from the training images."
        )
    if not len(validation):
        if settings.patience:
            raise UsageError(PATIENCE_ERROR)
        on_message("Warning: No images are left for validation. The model of the last epoch is kept.")
    elif missing := sorted(_present_classes(training) - _present_classes(validation)):
        names = join_names([classes[target] for target in missing])
        on_message(f"Warning: {plural(len(missing), 'class has', 'classes have')} no validation images: {names}.")


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
    """Return the training and the validation images. Images that cannot be decoded are added to ``skipped``."""
    max_size = max(settings.input_size, *(phase.size for phase in settings.sizes))
    # Neither the smallest random crop nor the center crop may enlarge a JPEG decoded at reduced scale.
    center_crop = min(settings.crop_ratio or 1, 224 / 256)
    min_side = math.ceil(max_size / min(math.sqrt(settings.crop_area), center_crop))
    # Features are computed in one pass over the images.
    cache_limit = 0 if settings.is_head_only and not settings.then_unfreeze else options.cache_limit
    subsets = []
    for image_list in filter(None, (training, validation)):
        images = open_images(image_list.paths, min_side, paths.cache, cache_limit, options.threads, options.on_decoded)
        errors = images.errors() if isinstance(images, MappedImages) else {}
        readable = _readable_indices(image_list, errors, options.skip_unreadable)
        if options.skip_unreadable:
            images = SkippableImages(images, _relative_names(image_list), skipped)
            for index, message in errors.items():
                images.skip(index, message)
        subsets.append(Subset(images, readable, image_list.target_array()[readable]))
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
        raise UnreadableImageError(unreadable_images_message(list(errors.values()), len(image_list)))
    readable = np.setdiff1d(np.arange(len(image_list)), np.fromiter(errors, np.int64, len(errors)))
    if isinstance(image_list, MultiLabelImageList):
        return readable
    readable_targets = {image_list.targets[index] for index in readable}
    for target in sorted(set(image_list.targets) - readable_targets):
        raise UnreadableImageError(f"No image of the class {image_list.classes[target]!r} can be decoded.")
    return readable
