"""Small DenseNets of ``keras.applications`` with non-trivial weights, as people fine-tune them.

Works with Keras 3 and with tf_keras (Keras 2), so that ``tests/data/make_keras.py`` can use it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tests.support.networks import random_batch_norm

SIZE = 64
BLOCKS = [1, 2, 1, 1]


def backbone(keras: Any, shape: tuple[int | None, ...] = (SIZE, SIZE, 3), **arguments: Any) -> Any:
    """Return a DenseNet without a head."""
    if keras.__name__ == "keras":
        from keras.src.applications.densenet import DenseNet
    else:
        from tf_keras.src.applications.densenet import DenseNet
    return DenseNet(BLOCKS, include_top=False, weights=None, input_shape=shape, **arguments)


def randomize(model: Any, seed: int = 0, *, skip: tuple[str, ...] = ("Normalization",)) -> Any:
    """Give every layer random weights that reveal a skipped layer or a wrong epsilon, and return the model."""
    rng = np.random.default_rng(seed)
    # Maxima of feature maps are larger than means.
    gain = 0.3 if any(type(layer).__name__ == "GlobalMaxPooling2D" for layer in layers_of(model)) else 1.5
    for layer in layers_of(model):
        if not layer.weights or type(layer).__name__ in skip:
            continue
        if type(layer).__name__ == "BatchNormalization":
            epsilon_scale = layer.epsilon / 1.001e-5
            arrays = random_batch_norm(rng, layer.weights[-1].shape[0])
            arrays["moving_variance"] = arrays["moving_variance"] * epsilon_scale
            arrays["gamma"] = arrays["gamma"] * np.sqrt(epsilon_scale)
            names = [*(["gamma"] if layer.scale else []), *(["beta"] if layer.center else [])]
            layer.set_weights([arrays[name] for name in (*names, "moving_mean", "moving_variance")])
        else:
            kernel, *bias = layer.get_weights()
            scale = np.sqrt((2 if kernel.ndim == 4 else gain) / np.prod(kernel.shape[:-1]))
            layer.set_weights([rng.normal(0, scale, kernel.shape), *(rng.normal(0, 0.3, b.shape) for b in bias)])
    return model


def layers_of(model: Any) -> list[Any]:
    """Return all layers, also those of nested models."""
    layers = []
    for layer in model.layers:
        layers += layers_of(layer) if hasattr(layer, "layers") else [layer]
    return layers


def setups(keras: Any) -> dict[str, Callable[[], Any]]:
    """Return name -> function that builds a model for raw pixels from 0 to 255, or as its name says."""
    layers, losses = keras.layers, keras.losses
    preprocess_input = keras.applications.densenet.preprocess_input

    def head(x: Any, *added: Any) -> Any:
        for layer in added:
            x = layer(x)
        return x

    def nested_preprocess_input() -> Any:
        inputs = keras.Input((SIZE, SIZE, 3))
        x = layers.RandomRotation(0.1)(layers.RandomFlip()(inputs))
        x = backbone(keras)(preprocess_input(x), training=False)
        x = head(x, layers.GlobalAveragePooling2D(), layers.Dropout(0.2), layers.Dense(5, activation="softmax"))
        return compiled(keras.Model(inputs, x), "categorical_crossentropy")

    def flat_max_logits() -> Any:
        base = backbone(keras, (128, 128, 3), pooling="max")
        x = layers.Dense(6)(base.output)
        return compiled(keras.Model(base.input, x), losses.SparseCategoricalCrossentropy(from_logits=True))

    def sequential_mlp() -> Any:
        model = keras.Sequential(
            [
                keras.Input((SIZE, SIZE, 3)),
                layers.Rescaling(1 / 127.5, offset=-1),
                backbone(keras),
                layers.GlobalAveragePooling2D(),
                layers.Dense(16, use_bias=False),
                layers.BatchNormalization(),
                layers.ReLU(),
                layers.Dropout(0.5),
                layers.Dense(12, activation="elu"),
                layers.BatchNormalization(epsilon=1e-4, center=False),
                layers.LeakyReLU(0.1),
                layers.Dense(4),
                layers.Activation("softmax"),
            ]
        )
        return compiled(model, "categorical_crossentropy")

    def one_sigmoid() -> Any:
        inputs = keras.Input((SIZE, SIZE, 3))
        augmentation = keras.Sequential([layers.RandomFlip("horizontal"), layers.RandomContrast(0.1)])
        x = layers.Rescaling([1 / 255, 1 / 250, 1 / 260], offset=[-0.4, -0.5, -0.6])(augmentation(inputs))
        x = head(backbone(keras, (None, None, 3), pooling="avg")(x), layers.Dense(1, activation="sigmoid"))
        return compiled(keras.Model(inputs, x), "binary_crossentropy")

    def fourteen_sigmoids_flatten() -> Any:
        inputs = keras.Input((SIZE, SIZE, 3))
        x = backbone(keras)(layers.Rescaling(1 / 255)(inputs))
        x = head(x, layers.SpatialDropout2D(0.1), layers.Flatten(), layers.Dense(14))
        return compiled(keras.Model(inputs, x), losses.BinaryCrossentropy(from_logits=True))

    def grayscale_adapted() -> Any:
        normalization = layers.Normalization()
        normalization.adapt(np.random.default_rng(3).uniform(0, 230, (4, SIZE, SIZE, 1)).astype(np.float32))
        inputs = keras.Input((SIZE, SIZE, 1))
        x = backbone(keras, (SIZE, SIZE, 1))(normalization(inputs))
        x = head(x, layers.GlobalMaxPooling2D(), layers.Dense(3), layers.Softmax())
        return compiled(keras.Model(inputs, x), "categorical_crossentropy")

    def fixed_normalization_resized() -> Any:
        inputs = keras.Input((96, 96, 3))
        x = layers.Resizing(SIZE, SIZE)(layers.Rescaling(1 / 255)(inputs))
        x = layers.Normalization(mean=[0.5, 0.4, 0.3], variance=[0.04, 0.05, 0.06])(x)
        x = head(backbone(keras)(x), layers.GlobalAveragePooling2D(), layers.Dense(8, activation="gelu"))
        x = layers.Dense(3, activation="softmax")(x)
        return keras.Model(inputs, x)

    def raw_pixels() -> Any:
        base = backbone(keras, pooling="avg")
        return keras.Sequential([base, layers.BatchNormalization(), layers.Dense(7, "softmax")])

    def headless() -> Any:
        return backbone(keras)

    def arithmetic() -> Any:
        inputs = keras.Input((SIZE, SIZE, 3))
        x = (inputs * (1 / 255.0) - 0.45) / np.array([0.2, 0.25, 0.3], np.float32)
        x = head(backbone(keras)(1.0 - x), layers.GlobalAveragePooling2D(), layers.Dense(3, activation="softmax"))
        return keras.Model(inputs, x)

    functions = (
        *(nested_preprocess_input, flat_max_logits, sequential_mlp, one_sigmoid, fourteen_sigmoids_flatten),
        *(grayscale_adapted, fixed_normalization_resized, raw_pixels, headless, arithmetic),
    )
    return {function.__name__: function for function in functions}


def compiled(model: Any, loss: Any) -> Any:
    model.compile("sgd", loss)
    return model
