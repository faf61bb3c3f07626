"""Labeled images, and what all datasets have in common.

Paths are strings, as in ``images.sources``, because results contain them exactly as they were given.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from densenet_cli.images.sources import Source


@dataclass(frozen=True, slots=True)
class LabeledSource(Source):
    """An image whose class is known.

    Attributes:
        target: Position of its class in the model's output.
    """

    target: int = -1


class DatasetOptions(NamedTuple):
    """How to read a dataset.

    Attributes:
        suffixes: File name extensions of images in class folders, in addition to the known ones.
        path_column: Name of a table's column of paths; None to recognize it.
        label_column: Name of a table's column of labels; None to recognize it.
        offline: Whether object storage must not be accessed, to find members of archives there.
    """

    suffixes: tuple[str, ...] = ()
    path_column: str | None = None
    label_column: str | None = None
    offline: bool = False


class Dataset(ABC):
    """Images with class names.

    Attributes:
        folder: The folder that paths start from.
        description: What the class names are, for messages, such as "class folders in val".
        classes: The class names, sorted.
    """

    folder: str
    description: str
    classes: tuple[str, ...]

    @abstractmethod
    def images(self) -> Iterator[tuple[str, Source]]:
        """Yield the class name of each image and the image lazily, always in the same order."""

    @abstractmethod
    def warnings(self) -> list[str]:
        """Return sentences about what was ignored. They are complete after ``images``."""

    def sources(self, targets: Mapping[str, int]) -> Iterator[LabeledSource]:
        """Yield the images with their targets.

        Args:
            targets: The target of each class name.
        """
        for name, source in self.images():
            yield LabeledSource(
                source.name, source.origin, source.kind, source.error, source.page, target=targets[name]
            )
