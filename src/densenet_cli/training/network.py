"""The network of a run: built, started from other weights, frozen in part, and given its optimizer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import keras

from densenet_cli import variants
from densenet_cli.engines import keras_ops
from densenet_cli.labels import Labels
from densenet_cli.topology import DenseNetConfig
from densenet_cli.training.settings import Settings

if TYPE_CHECKING:
    from densenet_cli.weights.contents import Arrays

HEAD = "predictions"
BN_MOMENTUM = 0.9
"""What a batch norm keeps of its moving statistics at a step. With Keras' 0.99 a third of those that a run begins with
would be left after 100 steps. The averaged weights average these as well."""

AFTER_ALL = 1_000
"""The stage of what follows the last block: never frozen."""


def build(config: DenseNetConfig, precision: str) -> keras.Model:
    """A network that puts out logits, computing in Keras' dtype policy ``precision``."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(precision)
    try:
        network = keras_ops.model(config, "logits")
    finally:
        keras.config.set_dtype_policy(before)
    for layer in network.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = BN_MOMENTUM
    return network


def start_arrays(start: str, config: DenseNetConfig, labels: Labels, offline: bool = False) -> Arrays:
    """The arrays of a variant, or of the checkpoint in a file, to start from.

    The head is left out unless the checkpoint's labels are just ``labels``: then its training goes on. Raises
    ``WeightsError`` where they can't be had or are another network's.
    """
    from densenet_cli.weights import checkpoint, store

    variant = variants.VARIANTS.get(start)
    read = checkpoint.read(store.get_file(variant, offline=offline) if variant else Path(start), config)
    arrays = dict(read.arrays)
    if read.metadata.labels != labels:
        del arrays[HEAD]
    return arrays


def put(network: keras.Model, arrays: Arrays) -> None:
    """Give ``network`` these arrays; layers that they lack keep what they have."""
    keras_ops.set_arrays(network, {**keras_ops.get_arrays(network), **arrays})


def freeze(network: keras.Model, stage: str) -> None:
    """Keep the layers up to the end of ``stage`` (``conv1`` to ``convN``) as they are, their BN statistics too.

    With an empty ``stage`` every layer learns.
    """
    last = int(stage.removeprefix("conv")) if stage else 0
    for layer in network.layers:
        layer.trainable = _stage_of(layer.name) > last


def _stage_of(layer: str) -> int:
    """The stage a layer belongs to; a transition to the one that it follows, the head to none."""
    name = layer.partition("_")[0].removeprefix("conv").removeprefix("pool")
    return int(name) if name.isdigit() else AFTER_ALL


def compile_for_training(network: keras.Model, settings: Settings) -> None:
    """Give ``network`` its loss and a new optimizer, for the layers that are to learn.

    Keras keeps weight decay out of the momentum, where a step multiplies it by ``1 / (1 - momentum)``; so does this.
    """
    optimizer = keras.optimizers.SGD(
        settings.learning_rate,
        momentum=settings.momentum,
        nesterov=settings.momentum > 0,
        weight_decay=settings.weight_decay / (1 - settings.momentum) or None,
    )
    if settings.weight_decay:
        optimizer.exclude_from_weight_decay(var_names=["gamma", "beta", "bias"])
    network.compile(
        optimizer,
        loss=keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=settings.label_smoothing),
        metrics=["categorical_accuracy"],
        # TensorFlow on processors is a third slower with XLA, PyTorch has none, and JAX is nothing without it.
        jit_compile=keras.backend.backend() == "jax",
    )
    network.optimizer.build(network.trainable_variables)
