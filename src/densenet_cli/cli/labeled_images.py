"""Labeled images for a model, as ``densenet evaluate`` and ``densenet calibrate`` read them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from densenet_cli.datasets import (
    Dataset,
    DatasetOptions,
    MultiLabelTable,
    check_single_labels,
    open_dataset,
    open_multi_label_table,
)
from densenet_cli.errors import UsageError
from densenet_cli.labels import ClassResolver

if TYPE_CHECKING:
    from densenet_cli.classifier import Classifier


class LabeledImages(NamedTuple):
    """Images whose classes are those of a model.

    Attributes:
        dataset: Where the images are listed.
        sources: The images with their targets, which are read lazily.
        positions: Class name -> position in the model's output; empty for a multi-label model.
    """

    dataset: Dataset | MultiLabelTable
    sources: Iterator[Any]
    positions: dict[str, int]


def open_labeled_images(
    classifier: Classifier, dataset: Dataset | None, folder: str | None, csv: str | None, options: DatasetOptions
) -> LabeledImages:
    """Open class folders or a table for a model.

    Args:
        classifier: The model.
        dataset: The result of ``open_dataset`` if the images were opened before the model, which then has no
            multi-label images; None otherwise.
        folder: The folder that contains class folders, or that paths in the table start from.
        csv: The table.
        options: How to read them.

    Raises:
        UsageError: They cannot be used with this model.
    """
    if classifier.config.is_multi_label:
        table = open_multi_label_table(folder, csv, classifier.labels, options)
        return LabeledImages(table, table.sources(), {})
    assumes_softmax = any(assumption.startswith("activation=") for assumption in classifier.assumptions)
    try:
        dataset = dataset or open_dataset(folder, csv, options)
    except UsageError as error:
        if assumes_softmax and csv:
            _check_multi_label(classifier, folder, csv, options, error)
        raise
    check_single_labels(dataset, classifier.labels, assumes_softmax)
    positions = ClassResolver(classifier.labels).resolve_all(dataset.classes, dataset.description)
    return LabeledImages(dataset, dataset.sources(positions), positions)


def _check_multi_label(
    classifier: Classifier, folder: str | None, csv: str, options: DatasetOptions, error: UsageError
) -> None:
    """Raise an error with a hint if a table without single labels is one for a multi-label model."""
    try:
        open_multi_label_table(folder, csv, classifier.labels, options)
    except UsageError:
        return
    raise UsageError(f"{error} For a multi-label model, whose labels have a column each, use `activation` sigmoid.")
