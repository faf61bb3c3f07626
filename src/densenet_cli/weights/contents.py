"""What a checkpoint holds, whatever its format: the words that readers, checker and writer share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from densenet_cli.labels import ClassLabel, Labels
from densenet_cli.topology import BN_EPSILON, DenseNetConfig

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Array = npt.NDArray[np.float32]

Arrays = dict[str, dict[str, "Array"]]
"""Layer -> array -> values, laid out as Keras does: a kernel is (height, width, in, out), a dense one (in, out).

The arrays are called ``kernel``, ``bias``, ``gamma``, ``beta``, ``moving_mean`` and ``moving_variance``.
"""


@dataclass(frozen=True)
class ModelMetadata:
    """What a model says of itself beside its network; None or empty where it says nothing.

    Attributes:
        labels: what its outputs mean, one a class.
        preprocess: name of the way in which its images are prepared.
        input_size: side in pixels of the image that it sees best, where that isn't the configuration's.
        training: settings that it was trained with.
        accuracy: what was measured with it.
    """

    labels: Labels | None = None
    preprocess: str | None = None
    input_size: int | None = None
    training: dict[str, Any] = field(default_factory=dict)
    accuracy: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values; ``from_dict`` reads it back."""
        labels = None if self.labels is None else [[label.index, label.id, label.name] for label in self.labels]
        return {**vars(self), "labels": labels}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ModelMetadata:
        """The inverse of ``to_dict``. Raises ``TypeError`` or ``ValueError`` for anything else."""
        labels = values["labels"]
        return cls(**{**values, "labels": None if labels is None else tuple(ClassLabel(*label) for label in labels)})


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was read and found whole.

    Attributes:
        arrays: exactly the layers and shapes of ``config``, finite float32.
        config: the network.
        metadata: what the file says beside it.
        variant: name of the registered variant with these layers (the head's width aside); None if there is none.
    """

    arrays: Arrays
    config: DenseNetConfig
    metadata: ModelMetadata = field(default_factory=ModelMetadata)
    variant: str | None = None


@dataclass(frozen=True, slots=True)
class StoredArray:
    """An array in an open file, not yet read: its shape (as Keras lays it out) is checked first.

    ``dtype`` is the element's name as numpy has it; ``read`` gives float32 of that shape.
    """

    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], Array]


StoredLayers = dict[str, dict[str, StoredArray]]
"""Layer -> array, in the file's order. Layers have Keras' names, or those that ``naming.by_order`` replaces."""


@dataclass(frozen=True)
class Contents:
    """An open checkpoint, as a format's reader hands it over.

    Attributes:
        layers: its arrays.
        size: bytes in which they lie; together they can't have more.
        named: False where the file has no names and ``layers`` is in the order of creation, class by class.
        config: the network that the file says it is; not yet believed.
        metadata: what else it says.
        bn_epsilon: what is to be added to its variances.
    """

    layers: StoredLayers
    size: int
    named: bool = True
    config: DenseNetConfig | None = None
    metadata: ModelMetadata = field(default_factory=ModelMetadata)
    bn_epsilon: float = BN_EPSILON
