"""From a classifier to a file that was checked: what is wrong with the request is found before anything runs."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from densenet_cli.errors import UsageError
from densenet_cli.export.formats import FORMATS, choose
from densenet_cli.output.destination import Destination

if TYPE_CHECKING:
    from densenet_cli.classifier import Classifier
    from densenet_cli.export.model import ExportedModel


@dataclass(frozen=True)
class Export:
    """What was written.

    Attributes:
        path: the file or folder.
        format: a name in ``FORMATS``.
        size: its bytes.
        difference: the largest difference of a probability from the model's own.
        images: how many photographs it was compared on.
        has_labels: whether the file names its classes.
    """

    path: Path
    format: str
    size: int
    difference: float
    images: int
    has_labels: bool


@dataclass(frozen=True)
class Plan:
    """An export that was asked for.

    Attributes:
        path: the file or folder to write.
        format: a name in ``FORMATS``; None to tell it from the path.
        with_preprocessing: whether the file is to take uint8 pixels and normalize them itself.
        overwrite: whether what is there is replaced.
    """

    path: Path
    format: str | None = None
    with_preprocessing: bool = False
    overwrite: bool = False

    def check(self) -> str:
        """The format's name. Raises ``UsageError`` or ``OutputError`` for a request that can't be carried out."""
        name = choose(self.path, self.format)
        chosen = FORMATS[name]
        if self.with_preprocessing and not chosen.with_preprocessing:
            raise UsageError(f"The format {name} holds arrays alone, so no preprocessing goes in: take another format.")
        self._destination(name).check()
        chosen.check_libraries(name)
        return name

    def carry_out(self, classifier: Classifier) -> Export:
        """Write the classifier's network and compare the file with it. See ``export``."""
        from densenet_cli.export import check

        name = self.check()
        if classifier.preprocessing.ten_crop:
            raise UsageError("An exported file answers for one crop: export a classifier without ten_crop.")
        writer = FORMATS[name].writer()
        paths = check.images()
        pixels, expected = check.answers(classifier, paths)
        model = _model(classifier, self.with_preprocessing)
        with self._destination(name).writing() as aside:
            writer.write(model, aside)
            run = writer.load(model, aside)
            difference = check.largest_difference(run, pixels, expected, normalized=not self.with_preprocessing)
            del run  # it may map the file
            size = _size(aside)
        return Export(self.path, name, size, difference, len(paths), model.labels is not None)

    def _destination(self, name: str) -> Destination:
        return Destination(self.path, FORMATS[name].is_folder, self.overwrite)


def export(
    classifier: Classifier,
    path: str | os.PathLike[str],
    format: str | None = None,
    *,
    with_preprocessing: bool = False,
    overwrite: bool = False,
) -> Export:
    """Write a classifier's network for other tools, and run the file beside it on real images.

    Args:
        classifier: the model, without ``ten_crop``; its labels and its preprocessing are described in the file.
        path: the file, or the folder for ``saved-model``.
        format: a name in ``FORMATS``; None to tell it from the path's suffix (none is a SavedModel's folder).
        with_preprocessing: whether it takes uint8 RGB, (batch, height, width, 3), and normalizes by itself.
        overwrite: whether what is there is replaced.

    Raises:
        UsageError: a format, a path or a combination that can't be, or a missing library.
        OutputError: the file can't be written, or its probabilities differ from the model's by more than 1e-4.
            Then ``path`` is as it was before.
    """
    return Plan(Path(path), format, with_preprocessing, overwrite).carry_out(classifier)


def _model(classifier: Classifier, with_preprocessing: bool) -> ExportedModel:
    from densenet_cli.export.model import ExportedModel, labels_of
    from densenet_cli.weights import checkpoint

    read = checkpoint.read(classifier.weights, classifier.config)
    return ExportedModel(
        classifier.model,
        read.arrays,
        read.config,
        classifier.preprocessing,
        labels_of(classifier.labels),
        read.metadata,
        with_preprocessing,
    )


def _size(path: Path) -> int:
    return sum(file.stat().st_size for file in (path, *path.rglob("*")) if file.is_file())
