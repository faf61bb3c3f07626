"""The network of a run: building it, freezing stages, and averaging weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from densenet_cli.engines import keras_ops
from densenet_cli.topology import DenseNetConfig
from densenet_cli.training import losses
from densenet_cli.training.settings import Settings
from densenet_cli.training.summary import is_frozen

if TYPE_CHECKING:
    from densenet_cli._types import FloatArray
    from densenet_cli.weights.contents import Arrays

BN_MOMENTUM = 0.9
"""Momentum of the moving statistics of batch normalization.

With Keras' default of 0.99, a third of the initial statistics would remain after 100 steps. The averaged weights
average these statistics as well.
"""

AVERAGING_INTERVAL = 8
"""Steps between two updates of the averaged weights. An average over hundreds of steps needs no more."""

AVERAGING_WARMUP = 9
"""Update n keeps at most ``n / (n + AVERAGING_WARMUP)`` of the average, so that the initial weights fade quickly."""


def build(config: DenseNetConfig, precision: str) -> keras.Model:
    """Build a network that outputs logits and computes in the Keras dtype policy ``precision``."""
    default_policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy(precision)
    try:
        network = keras_ops.build_model(config, "logits", _training_ops())
    finally:
        keras.config.set_dtype_policy(default_policy)
    for layer in network.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = BN_MOMENTUM
    return network


def _training_ops() -> keras_ops.KerasOps:
    """Return the fastest op set for the backend."""
    if keras.backend.backend() != "tensorflow":
        return keras_ops.KerasOps()
    from densenet_cli.training.tensorflow_ops import TensorFlowOps

    return TensorFlowOps()


def set_arrays(network: keras.Model, arrays: Arrays) -> None:
    """Set the weights of the layers in ``arrays``. Other layers keep theirs."""
    keras_ops.set_arrays(network, {**keras_ops.get_arrays(network), **arrays})


def freeze(network: keras.Model, stage: str, freeze_batch_norm: bool = False) -> None:
    """Freeze the layers up to and including ``stage`` (``conv1`` to ``convN``), with their batch norm statistics.

    An empty ``stage`` unfreezes all layers. ``freeze_batch_norm`` freezes all batch normalizations, so that the network
    computes the same in training as in inference.
    """
    for layer in network.layers:
        is_normalization = isinstance(layer, keras.layers.BatchNormalization)
        layer.trainable = not is_frozen(layer.name, stage) and not (is_normalization and freeze_batch_norm)


class FineTuningSGD(keras.optimizers.SGD):  # type: ignore[misc]  # keras has no annotations
    """SGD with a lower learning rate for the layers before the head. Weight decay is a term of the gradient.

    Updates are linear in the gradients, so the gradients are scaled instead of the learning rate.

    Args:
        settings: The settings of the run.
        **options: Options of ``keras.optimizers.SGD``, without clipping and weight decay.
    """

    def __init__(self, settings: Settings, **options: Any) -> None:
        super().__init__(settings.learning_rate, **options)
        self._settings = settings
        self._get_trained: Callable[[], Sequence[keras.Variable]] = tuple

    def build(self, variables: list[keras.Variable]) -> None:
        """Create the variables of the optimizer."""
        super().build(variables)
        # Keras adds variables in attributes to those of the optimizer, so that JAX would get them twice.
        self._get_trained = lambda: variables

    def apply(self, grads: Sequence[Any], trainable_variables: Sequence[keras.Variable] | None = None) -> Any:
        """Update the variables."""
        limit = self._settings.clip_norm
        if limit:
            norm = keras.ops.sqrt(sum(keras.ops.sum(keras.ops.square(gradient)) for gradient in grads))
            grads = [gradient * (limit / keras.ops.maximum(norm, limit)) for gradient in grads]
        scaled = []
        for gradient, variable in zip(grads, trainable_variables or self._get_trained(), strict=True):
            layer, _, name = variable.path.rpartition("/")
            if name == "kernel":
                gradient = gradient + self._settings.weight_decay * variable
            scaled.append(gradient if layer.endswith("predictions") else gradient * self._settings.backbone_rate)
        return super().apply(scaled, trainable_variables)


def compile_for_training(network: keras.Model, settings: Settings, balance: FloatArray | None = None) -> None:
    """Set the loss and a new optimizer for the trainable layers.

    ``balance`` are the weights of a multi-label loss, see ``losses.multi_label_loss``.

    In the paper's SGD, momentum amplifies the L2 term of the gradient by a factor of ``1 / (1 - momentum)``. Keras
    decouples weight decay from momentum, so the factor is applied here.
    """
    momentum = {"momentum": settings.momentum, "nesterov": settings.momentum > 0}
    if settings.backbone_rate == 1:
        decay = settings.weight_decay / (1 - settings.momentum) or None
        optimizer = keras.optimizers.SGD(
            settings.learning_rate, weight_decay=decay, global_clipnorm=settings.clip_norm or None, **momentum
        )
        if settings.weight_decay:
            optimizer.exclude_from_weight_decay(var_names=["gamma", "beta", "bias"])
    else:
        optimizer = FineTuningSGD(settings, **momentum)
    loss: Any = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=settings.label_smoothing)
    accuracy: Any = keras.metrics.categorical_accuracy
    if settings.multi_label:
        loss, accuracy = losses.multi_label_loss(settings.label_smoothing, balance), losses.multi_label_accuracy
    network.compile(
        optimizer,
        loss=loss,
        metrics=[keras.metrics.MeanMetricWrapper(accuracy, name="accuracy")],
        # On CPUs TensorFlow is a third slower with XLA. PyTorch does not have it. JAX needs it.
        jit_compile=keras.backend.backend() == "jax",
    )
    network.optimizer.build(network.trainable_variables)


class WeightAverage:
    """Exponential moving average of a network's arrays, including batch norm statistics.

    Args:
        weights: The initial weights.
        horizon: Number of steps to average over; 0 for no averaging.

    Attributes:
        weights: The averaged arrays.
        updates: Number of updates so far.
    """

    def __init__(self, weights: Sequence[FloatArray], horizon: int) -> None:
        self.weights = [np.array(weight) for weight in weights]
        self.updates = 0
        self._horizon = horizon

    def is_due(self, step: int) -> bool:
        """Return whether to call ``update`` after ``step`` steps."""
        return self._horizon > 0 and step % AVERAGING_INTERVAL == 0

    def update(self, weights: Sequence[FloatArray]) -> None:
        """Include the current weights in the average."""
        self.updates += 1
        keep = min(math.exp(-AVERAGING_INTERVAL / self._horizon), self.updates / (self.updates + AVERAGING_WARMUP))
        for mean, weight in zip(self.weights, weights, strict=True):
            mean += np.float32(1 - keep) * (weight - mean)
