"""The contents of a checkpoint, independent of its format: data types shared by readers, validation, and writer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from densenet_cli.errors import CheckpointError
from densenet_cli.labels import ClassLabel, Labels
from densenet_cli.topology import BN_EPSILON, DenseNetConfig, HeadLayer, Resize

if TYPE_CHECKING:
    from pathlib import Path

    from densenet_cli._types import FloatArray

CONFIG_FILE = "config.json"
"""The description of a model, beside its checkpoint or in a ``.keras`` archive."""
MAX_BN_EPSILON = 1e3
"""Limit of the epsilon that a file states for a batch normalization."""

Arrays = dict[str, dict[str, "FloatArray"]]
"""Layer name -> array name -> values in Keras' layout.

A convolution kernel has shape (height, width, in, out), a dense kernel (in, out). The array names are ``kernel``,
``bias``, ``gamma``, ``beta``, ``moving_mean``, and ``moving_variance``.
"""


@dataclass(frozen=True)
class ModelMetadata:
    """What a checkpoint states about a model besides its network. Unknown values are None or empty.

    Attributes:
        labels: One label for each position of the head.
        preprocess: The preprocessing mode for images.
        input_size: The best image side length in pixels, if it differs from the configuration's.
        training: The settings of the training run.
        accuracy: The accuracies that were measured.
        activation: The function that turns the outputs into probabilities, ``softmax`` or ``sigmoid``.
        lacks_activation: Whether files of this kind state an activation, but this one does not.
        mean: The mean of each channel, for pixels in [0, 1].
        std: The standard deviation of each channel, for pixels in [0, 1].
        interpolation: How images are resized: ``bilinear``, ``bicubic``, or ``nearest``.
        crop_ratio: The fraction of the resized image's shorter side that ``crop`` mode keeps, in (0, 1].
        test_input_size: A larger input size that the publisher measured.
        test_crop_ratio: The crop ratio for ``test_input_size``.
        head_error: Why the head in the file is not supported. The network is read without it.
        notes: What the reader assumed or ignored, a sentence each.
        calibration: The result of ``Calibration.to_dict``, or None.
        uses_config_file: Whether a ``config.json`` beside the checkpoint states a part of this.
    """

    labels: Labels | None = None
    preprocess: str | None = None
    input_size: int | None = None
    training: dict[str, Any] = field(default_factory=dict)
    accuracy: dict[str, Any] = field(default_factory=dict)
    activation: str | None = None
    lacks_activation: bool = False
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    interpolation: str | None = None
    crop_ratio: float | None = None
    test_input_size: int | None = None
    test_crop_ratio: float | None = None
    head_error: str | None = None
    notes: tuple[str, ...] = ()
    calibration: dict[str, Any] | None = None
    uses_config_file: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as values for JSON."""
        labels = None if self.labels is None else [[label.index, label.id, label.name] for label in self.labels]
        return {**vars(self), "labels": labels}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ModelMetadata:
        """Restore the result of ``to_dict``. Raises ``TypeError`` or ``ValueError`` for other values."""
        labels = values["labels"]
        tuples = {name: tuple(values[name]) for name in ("mean", "std", "notes") if values.get(name) is not None}
        labels = None if labels is None else tuple(ClassLabel(*label) for label in labels)
        return cls(**{**values, **tuples, "labels": labels})


class Checkpoint(NamedTuple):
    """A valid checkpoint.

    Attributes:
        arrays: Exactly the layers and shapes of ``config``, as finite float32 values.
        config: The configuration of the network.
        metadata: What the file states besides it.
        variant: The name of the variant with this network (with any number of classes), or None.
    """

    arrays: Arrays
    config: DenseNetConfig
    metadata: ModelMetadata = ModelMetadata()
    variant: str | None = None


class StoredArray(NamedTuple):
    """An array in an open file. It is read only after all shapes are validated.

    Attributes:
        shape: The shape in Keras' layout.
        dtype: The numpy name of the element type.
        read: Returns the values as float32 in this shape.
    """

    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], FloatArray]


StoredLayers = dict[str, dict[str, StoredArray]]
"""Layer name -> array name -> array, in the order of the file."""


class CheckpointContents(NamedTuple):
    """The contents of an open file, not yet validated.

    Attributes:
        layers: The arrays.
        available_bytes: The size of the data that contains the arrays, and so the limit for their total size.
        config: The configuration that the file states, or None.
        metadata: What else the file states.
        bn_epsilon: The value that the network adds to the variances in the file.
        bn_epsilons: Layer name -> its own value, for layers that differ from ``bn_epsilon``.
        pooling: A key of ``topology.POOLINGS`` that the file states, or None.
        head: The layers after the pooling, if the file states them, else None. Dropout is left out.
        resize: The resizing that the network starts with, or None.
        stem: A key of ``topology.STEMS`` that the file states, or None.
    """

    layers: StoredLayers
    available_bytes: int
    config: DenseNetConfig | None = None
    metadata: ModelMetadata = ModelMetadata()
    bn_epsilon: float = BN_EPSILON
    bn_epsilons: Mapping[str, float] = MappingProxyType({})
    pooling: str | None = None
    head: tuple[HeadLayer, ...] | None = None
    resize: Resize | None = None
    stem: str | None = None


def config_path(checkpoint: Path) -> Path:
    """Return the path of the ``config.json`` beside a checkpoint. It need not exist."""
    return checkpoint.with_name(CONFIG_FILE)


def constant_array(shape: tuple[int, ...], value: float) -> StoredArray:
    """Return an array that is not stored, because the layer does not use it: a bias of 0, for example."""

    def read():  # type: ignore[no-untyped-def]
        import numpy as np

        return np.full(shape, value, np.float32)

    return StoredArray(shape, "float32", read)


def damaged_file_error(error: Exception | str) -> CheckpointError:
    """Return the error for a file that cannot be parsed, with the reason on one line."""
    reason = " ".join(str(error).split()) or type(error).__name__
    return CheckpointError(f"The file is damaged or truncated ({reason}).")
