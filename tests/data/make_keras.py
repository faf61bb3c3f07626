"""Create ``keras2.zip`` or ``keras3.zip``, which contain models that Keras saved.

    python -m tests.data.make_keras 2

needs tf_keras 2.21 (which is Keras 2) and TensorFlow 2.21; with 3, Keras 3. ``keras.applications``' DenseNet is made
smaller by patching its module. ``outputs.npz`` in ``keras2.zip`` contains images and their probabilities.
"""

from __future__ import annotations

import importlib
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from tests.support import keras_models

VERSION = sys.argv[1]
PACKAGE = {"2": "tf_keras", "3": "keras"}[VERSION]
keras = importlib.import_module(PACKAGE)
densenet = importlib.import_module(f"{PACKAGE}.src.applications.densenet")
ARCHIVE = Path(__file__).with_name(f"keras{VERSION}.zip")
SAMPLES = Path(__file__).parents[2] / "sample_images"
SIZE = 64
layers = keras.layers


class SmallLayers:
    """Keras' layers, but with 4 instead of 64 feature maps in the stem."""

    def __getattr__(self, name: str):
        return getattr(layers, name)

    def Conv2D(self, filters: int, kernel: int, **arguments):
        return layers.Conv2D(4 if kernel == 7 else filters, kernel, **arguments)


def dense_block(x, blocks: int, name: str):
    for number in range(1, blocks + 1):
        x = densenet.conv_block(x, 2, name=f"{name}_block{number}")
    return x


def backbone(**arguments):
    densenet.layers, densenet.dense_block = SmallLayers(), dense_block
    shape = arguments.pop("input_shape", (SIZE, SIZE, 3))
    return densenet.DenseNet([1, 2, 1, 1], include_top=False, weights=None, input_shape=shape, **arguments)


def nested():
    """Functional, ``preprocess_input``, augmentation, batch normalization, and logits."""
    inputs = keras.Input((SIZE, SIZE, 3))
    x = keras.Sequential([layers.RandomFlip(), layers.RandomRotation(0.1)])(inputs)
    x = backbone()(keras.applications.densenet.preprocess_input(x), training=False)
    x = layers.Dropout(0.2)(layers.BatchNormalization()(layers.GlobalMaxPooling2D()(x)))
    model = keras.Model(inputs, layers.Dense(5)(x))
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def sequential():
    """Sequential, an adapted Normalization, and several dense layers."""
    normalization = layers.Normalization()
    normalization.adapt(np.random.default_rng(0).uniform(-1, 0.8, (8, SIZE, SIZE, 3)).astype(np.float32))
    model = keras.Sequential(
        [
            keras.Input((SIZE, SIZE, 3)),
            layers.Rescaling(1 / 127.5, offset=-1),
            normalization,
            backbone(pooling="avg"),
            layers.Dense(8, use_bias=False),
            layers.BatchNormalization(),
            layers.LeakyReLU(0.2),
            layers.Dense(3, activation="softmax"),
        ]
    )
    model.compile("sgd", "categorical_crossentropy")
    return model


def flat():
    """No nested model, Flatten, and one sigmoid."""
    base = backbone(input_tensor=layers.Rescaling(1 / 255)(keras.Input((SIZE, SIZE, 3))))
    model = keras.Model(base.input, layers.Dense(1, activation="sigmoid")(layers.Flatten()(base.output)))
    model.compile("sgd", "binary_crossentropy")
    return model


def arithmetic():
    """Operations on pixels, and independent sigmoids."""
    inputs = keras.Input((SIZE, SIZE, 3))
    x = backbone()((1.0 - inputs / 255.0) * 2 - 0.5)
    model = keras.Model(inputs, layers.Dense(4)(layers.GlobalAveragePooling2D()(x)))
    model.compile("sgd", keras.losses.BinaryCrossentropy(from_logits=True))
    return model


def write(folder: Path) -> None:
    images = [Image.open(SAMPLES / f"{name}.jpg").convert("RGB").resize((SIZE, SIZE)) for name in ("bison", "cat")]
    batch = np.stack([np.asarray(image) for image in images])
    results = {"images": batch}
    for build in (nested, sequential, flat, arithmetic) if VERSION == "2" else (sequential,):
        name = build.__name__
        model = keras_models.randomize(build())
        outputs = np.asarray(model(batch.astype(np.float32), training=False), np.float64)
        if name == "nested":
            exponentials = np.exp(outputs - outputs.max(axis=1, keepdims=True))
            outputs = exponentials / exponentials.sum(axis=1, keepdims=True)
        if name == "arithmetic":
            outputs = 1 / (1 + np.exp(-outputs))
        results[name] = np.hstack([1 - outputs, outputs]) if name == "flat" else outputs
        model.save(folder / f"{name}.keras")
        if name != "arithmetic":
            model.save(folder / f"{name}.h5")
        if name in ("nested", "flat"):
            model.save_weights(folder / f"{name}.weights.h5")
            model.save_weights(folder / f"{name}-legacy.h5")
    if VERSION == "2":
        np.savez(folder / "outputs.npz", **results)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(ARCHIVE, "w", zipfile.ZIP_DEFLATED) as archive:
        write(Path(folder))
        for path in sorted(Path(folder).iterdir()):
            archive.write(path, path.name)


if __name__ == "__main__":
    main()
