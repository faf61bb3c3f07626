"""The layers for training on TensorFlow compute what Keras' layers compute."""

from __future__ import annotations

import numpy as np
import pytest

from tests.training.images import CONFIG, SETTINGS

RTOL, ATOL = 1e-4, 2e-5
"""Tolerance in float32 of outputs, gradients, and moving statistics of one layer. Measured: 5e-6."""


def pixels(seed: int = 0, shape: tuple[int, ...] = (4, 6, 5, 8)) -> np.ndarray:
    """Return random values whose channels have different means and standard deviations."""
    generator = np.random.default_rng(seed)
    scale = generator.uniform(0.1, 3, shape[-1])
    return (generator.normal(size=shape) * scale + 2 * generator.normal(size=shape[-1])).astype(np.float32)


def step(layer, x: np.ndarray, training: bool) -> dict[str, np.ndarray]:
    """Return a layer's output, the gradients of a weighted sum of it, and the layer's weights afterwards."""
    import tensorflow as tf

    inputs = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        outputs = layer(inputs, training=training)
        loss = tf.reduce_sum(tf.cast(outputs, "float32") * pixels(1, outputs.shape))
    variables = [variable.value for variable in layer.trainable_variables]
    gradients = tape.gradient(loss, [inputs, *variables])
    arrays = {f"gradient {n}": gradient.numpy() for n, gradient in enumerate(gradients)}
    return {"outputs": outputs.numpy(), **arrays, **{v.name: v.numpy() for v in layer.weights}}


def assert_close(actual: dict[str, np.ndarray], expected: dict[str, np.ndarray], scale: float = 1) -> None:
    assert actual.keys() == expected.keys()
    for name, array in actual.items():
        limit = ATOL * scale * max(1, np.abs(expected[name].astype(np.float32)).max())
        np.testing.assert_allclose(
            array.astype(np.float32), expected[name].astype(np.float32), RTOL * scale, limit, err_msg=name
        )


def batch_norms(keras, dtype: str = "float32"):
    """Return the fused layer and Keras' layer with the same weights."""
    from densenet_cli.training.tensorflow_ops import FusedBatchNormalization

    layers = []
    for kind in (FusedBatchNormalization, keras.layers.BatchNormalization):
        layer = kind(epsilon=1.001e-5, momentum=0.9, dtype=dtype)
        layer.build((None, None, None, 8))
        generator = np.random.default_rng(2)
        layer.set_weights([generator.uniform(0.5, 2, 8) for _ in layer.weights])
        layers.append(layer)
    return layers


@pytest.mark.parametrize("mode", ["training", "inference", "frozen"])
def test_the_fused_batch_norm_is_that_of_keras(keras, mode):
    fused, reference = batch_norms(keras)
    fused.trainable = reference.trainable = mode != "frozen"
    before = fused.moving_mean.numpy()
    results = [step(layer, pixels(), training=mode != "inference") for layer in (fused, reference)]
    assert_close(*results)
    assert (results[0]["moving_mean"] != before).any() == (mode == "training")


def test_the_moving_variance_is_biased(keras):
    """The kernel's own variance is larger by n / (n - 1), which a batch of two values shows best."""
    fused, reference = batch_norms(keras)
    x = pixels(shape=(2, 1, 1, 8))
    expected = 0.9 * fused.moving_variance.numpy() + 0.1 * x.var(axis=(0, 1, 2))
    for layer in (fused, reference):
        layer(x, training=True)
        np.testing.assert_allclose(layer.moving_variance.numpy(), expected, 1e-5)


@pytest.mark.parametrize(("dtype", "scale"), [("mixed_bfloat16", 400), ("mixed_float16", 50)])
@pytest.mark.parametrize("training", [True, False])
def test_the_fused_batch_norm_in_mixed_precision(keras, dtype, scale, training):
    fused, reference = batch_norms(keras, dtype)
    x = keras.ops.convert_to_numpy(keras.ops.cast(pixels(), fused.compute_dtype))
    results = [step(layer, x, training) for layer in (fused, reference)]
    assert results[0]["outputs"].dtype == results[1]["outputs"].dtype == fused.compute_dtype
    assert results[0]["gamma"].dtype == np.float32
    assert_close(*results, scale)


@pytest.mark.parametrize(("dtype", "scale"), [("float32", 1), ("mixed_bfloat16", 400)])
def test_the_pointwise_convolution_is_that_of_keras(keras, dtype, scale):
    from densenet_cli.training.tensorflow_ops import PointwiseConv2D

    layers = [kind(12, 1, use_bias=False, dtype=dtype) for kind in (PointwiseConv2D, keras.layers.Conv2D)]
    for layer in layers:
        layer.build((None, None, None, 8))
        layer.set_weights([pixels(3, (1, 1, 8, 12))])
    assert_close(*(step(layer, pixels(), True) for layer in layers), scale)


def test_a_network_takes_the_same_training_steps(keras):
    from densenet_cli.engines import keras_ops
    from densenet_cli.training import network

    models = [network.build(CONFIG, "float32"), keras_ops.build_model(CONFIG, "logits")]
    kinds = [{type(layer).__name__ for layer in model.layers} for model in models]
    assert "FusedBatchNormalization" in kinds[0] and "BatchNormalization" not in kinds[0]
    for layer in models[1].layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = network.BN_MOMENTUM
    models[1].set_weights(models[0].get_weights())
    assert [w.path.split("/")[-2:] for w in models[0].weights] == [w.path.split("/")[-2:] for w in models[1].weights]
    losses = []
    for model in models:
        network.compile_for_training(model, SETTINGS)
        targets = np.eye(10, dtype=np.float32)[np.arange(16) % 10]
        losses.append([model.train_on_batch(pixels(n, (16, 16, 16, 3)), targets)[0] for n in range(3)])
    np.testing.assert_allclose(losses[0], losses[1], 1e-3)
    for actual, expected in zip(models[0].get_weights(), models[1].get_weights(), strict=True):
        np.testing.assert_allclose(actual, expected, 1e-2, 1e-3)
