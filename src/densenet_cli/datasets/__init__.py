"""Labeled images: class folders, including those in archives, and tables of paths and labels.

Evaluation and training share these readers.
"""

from __future__ import annotations

from densenet_cli.datasets.base import Dataset, DatasetOptions, LabeledSource
from densenet_cli.datasets.folders import ClassFolders, find_splits, shown_name
from densenet_cli.datasets.multi_label import MultiLabelSource, MultiLabelTable, check_single_labels
from densenet_cli.datasets.tables import LabelTable
from densenet_cli.errors import UsageError
from densenet_cli.images.expansion import find_archive
from densenet_cli.labels import Labels
from densenet_cli.text import join_names, to_unicode

__all__ = [
    "ClassFolders",
    "Dataset",
    "DatasetOptions",
    "LabelTable",
    "LabeledSource",
    "MultiLabelSource",
    "MultiLabelTable",
    "check_single_labels",
    "find_splits",
    "open_dataset",
    "open_multi_label_table",
    "shown_name",
]


def open_dataset(folder: str | None, csv: str | None, options: DatasetOptions | None = None) -> Dataset:
    """Open class folders or an archive of them, or the table ``csv``, whose paths then start from ``folder``.

    Raises:
        UsageError: Neither is given, the folder is already split (see ``find_splits``), or it cannot be used (see
            ``ClassFolders`` and ``LabelTable``).
    """
    options = options or DatasetOptions()
    if csv is not None:
        return LabelTable(csv, folder, options.path_column, options.label_column, options.offline)
    if folder is None:
        raise UsageError("No images given. Pass a `folder` that contains class folders, or use `csv`.")
    if parts := find_archive(f"{folder.rstrip('/')}/"):
        from densenet_cli.datasets.archives import ClassArchive

        return ClassArchive(*parts, options.suffixes)
    if splits := find_splits(folder, options.suffixes):
        name, *paths = (to_unicode(shown_name(path)) for path in (folder, *splits.values()))
        raise UsageError(f"{name} is already split into {join_names(paths)}. Use one of them.")
    return ClassFolders(folder, options.suffixes)


def open_multi_label_table(
    folder: str | None, csv: str | None, labels: Labels, options: DatasetOptions | None = None
) -> MultiLabelTable:
    """Open a table for a multi-label model with these labels. Relative paths start from ``folder`` if it is given.

    Raises:
        UsageError: ``csv`` is None, or it cannot be used (see ``MultiLabelTable``).
    """
    options = options or DatasetOptions()
    if csv is None:
        raise UsageError(
            "This is a multi-label model, but class folders give each image a single label. Use `csv` to read a "
            "table of images and their labels."
        )
    return MultiLabelTable(csv, labels, folder, options.path_column, options.label_column, options.offline)
