"""Images with any number of labels each: reading them from tables, and the metrics of their validation."""

from __future__ import annotations

import hashlib
import json
import os
import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from densenet_cli import labels
from densenet_cli.datasets import DatasetOptions, MultiLabelTable
from densenet_cli.datasets.multi_label import NO_LABEL, SEPARATOR, UNKNOWN, VALUES, target_row
from densenet_cli.datasets.tables import LABEL_COLUMNS, PATH_COLUMNS, open_table, table_folder
from densenet_cli.errors import UsageError
from densenet_cli.evaluation.ranking import RankingCurve
from densenet_cli.text import plural, to_unicode
from densenet_cli.training.image_list import MAX_CLASSES, ImageList, check_local, check_names

if TYPE_CHECKING:
    from densenet_cli._types import FloatArray, IntArray
    from densenet_cli.textfiles import Table


@dataclass(frozen=True)
class MultiLabelImageList(ImageList):
    """Images with any number of classes each.

    Attributes:
        positives: The classes of each image.
        unknown: The classes that each image may or may not have.
    """

    positives: tuple[frozenset[int], ...] = ()
    unknown: tuple[frozenset[int], ...] = ()

    def target_array(self) -> IntArray:
        """Return the targets, int64 (images, classes): 1, 0, or ``UNKNOWN``."""
        targets = np.zeros((len(self), len(self.classes)), np.int64)
        for row, positives, unknown in zip(targets, self.positives, self.unknown, strict=True):
            row[:] = target_row(len(row), positives, unknown)
        return targets

    def fingerprint(self) -> str:
        """Return a hash of the classes, the paths relative to ``folder``, and the targets."""
        names = [os.fsencode(name).hex() for name in self.names()]
        targets = [[sorted(positions) for positions in values] for values in (self.positives, self.unknown)]
        return hashlib.sha256(json.dumps([self.classes, names, targets]).encode()).hexdigest()

    def class_sizes(self) -> list[int]:
        """Return the number of images that have each class."""
        sizes: list[int] = (self.target_array() == 1).sum(axis=0).tolist()
        return sizes

    def describe(self) -> str:
        """Return the number of images and how many have each class."""
        counts = self.class_sizes()
        total = f"{plural(len(self), 'image')} with any of {plural(len(counts), 'class', 'classes')}"
        if len(counts) <= MAX_CLASSES:
            return f"{total} ({', '.join(f'{n} {count:,}' for n, count in zip(self.classes, counts, strict=True))})"
        return f"{total}, {min(counts):,} to {max(counts):,} images per class"


def list_multi_label_images(
    csv: str, folder: str | None, options: DatasetOptions, classes: tuple[str, ...] | None = None
) -> MultiLabelImageList:
    """List the images of a table (see ``MultiLabelTable``).

    Args:
        csv: The table.
        folder: The folder that relative paths start from; None for the table's own folder.
        options: The names of columns.
        classes: The classes of the training images, if the images are for validation.

    Raises:
        UsageError: The table cannot be used, there are fewer than two classes, or an image is a URL.
    """
    warnings = []
    if classes is None:
        classes = _find_classes(csv, options)
        if len(classes) < 2:
            raise UsageError(f"{to_unicode(csv)} has {plural(len(classes), 'class', 'classes')}. Training needs two.")
        warnings = check_names(classes, f"labels in {to_unicode(csv)}")
    class_labels = labels.from_class_names(classes)
    table = MultiLabelTable(csv, class_labels, folder, options.path_column, options.label_column, options.offline)
    paths, positives, unknown = [], [], []
    for source in table.sources():
        paths.append(check_local(source))
        positives.append(source.positives)
        unknown.append(source.unknown)
    warnings += table.warnings()
    lists = (tuple(positives), tuple(unknown))
    return MultiLabelImageList(table_folder(csv, folder), classes, tuple(paths), (), tuple(warnings), *lists)


def _find_classes(csv: str, options: DatasetOptions) -> tuple[str, ...]:
    """Return the class names: the labels in the label column, or the columns that contain only 0, 1, -1, or nothing."""
    with open_table(csv) as table:
        path_position = table.find_column("path", PATH_COLUMNS, options.path_column)
        if options.label_column or any(name.lower() in LABEL_COLUMNS for name in table.columns):
            return _split_labels(table, options.label_column)
        candidates = set(range(len(table.columns))) - {path_position}
        for _, row in table.rows():
            candidates = {position for position in candidates if row[position].lower() in VALUES}
        return tuple(unicodedata.normalize("NFC", table.columns[position]) for position in sorted(candidates))


def _split_labels(table: Table, label_column: str | None) -> tuple[str, ...]:
    position = table.find_column("label", LABEL_COLUMNS, label_column)
    names: set[str] = set()
    for _, row in table.rows():
        names.update(map(str.strip, unicodedata.normalize("NFC", row[position]).split(SEPARATOR)))
    return tuple(sorted(name for name in names if name and labels.normalize(name) != NO_LABEL))


@dataclass(frozen=True)
class MultiLabelMetrics:
    """Metrics on the validation images. Unknown targets are left out.

    Attributes:
        images: Number of images. If it is 0, the metrics are NaN.
        loss: Mean binary cross-entropy in nats, without label smoothing and class weights.
        accuracy: Fraction of correct decisions at a probability of 0.5.
        mean_average_precision, mean_roc_auc: Means over the classes that at least one image has, and at least one image
            does not have.
    """

    images: int
    loss: float
    accuracy: float
    mean_average_precision: float
    mean_roc_auc: float

    @classmethod
    def of_logits(cls, logits: FloatArray, targets: IntArray) -> MultiLabelMetrics:
        """Compute the metrics from logits and targets, both (n, classes)."""
        logits = np.asarray(logits, np.float64)
        known, positive = targets != UNKNOWN, targets == 1
        losses = np.logaddexp(0, np.where(positive, -logits, logits))[known]
        precisions, areas = [], []
        for column in range(targets.shape[1]):
            rows = known[:, column]
            if not positive[rows, column].any():
                continue
            curve = RankingCurve.of(positive[rows, column], logits[rows, column])
            precisions.append(curve.average_precision)
            areas.append(curve.roc_auc)
        return cls(
            len(targets),
            _mean(losses),
            _mean(((logits > 0) == positive)[known]),
            _mean([value for value in precisions if value is not None]),
            _mean([value for value in areas if value is not None]),
        )

    @property
    def score(self) -> float:
        """What the best model has most of."""
        return self.mean_average_precision

    def log_values(self) -> dict[str, float]:
        """Return the columns of the log."""
        return {
            "val_loss": self.loss,
            "val_accuracy": self.accuracy,
            "val_map": self.mean_average_precision,
            "val_roc_auc": self.mean_roc_auc,
        }


def _mean(values: object) -> float:
    array = np.asarray(values, np.float64)
    return float(array.mean()) if array.size else float("nan")


def balance_weights(targets: IntArray) -> FloatArray:
    """Return float32 (2, classes): the weights of images without and with each class.

    Both together have the same weight, and the mean over all known targets of a class is 1. A class that all or no
    images have keeps weights of 1.
    """
    counts = np.stack([(targets == value).sum(axis=0) for value in (0, 1)])
    weights = counts.sum(axis=0) / (2 * np.maximum(counts, 1))
    return np.where(counts.min(axis=0) > 0, weights, 1).astype(np.float32)
