"""Random weights that reveal mistakes in a network.

With Keras' default initialization, every class gets a probability of 0.001, and batch norm statistics of 0 and 1 hide a
wrong epsilon or a skipped layer. Here the statistics are random, half of the variances are 1e-5 or less, signals keep
their magnitude through any depth, and the head is scaled to give the best class of a photo a moderate probability.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from densenet_cli.images.sources import from_object
from densenet_cli.layers import array_shapes
from densenet_cli.topology import BN_EPSILON, DenseNetConfig
from densenet_cli.variants import Variant

TINY = DenseNetConfig((1, 2), growth_rate=4, stem_width=8, classes=10, input_size=32)
"""A network for tests of everything else. It takes well under a millisecond per image."""


def tiny_variant(name: str = "test-tiny", **settings) -> Variant:
    return Variant(name, TINY, **settings)


def random_batch_norm(rng: np.random.Generator, channels: int) -> dict[str, np.ndarray]:
    variance = np.where(rng.random(channels) < 0.5, rng.uniform(1e-7, 1e-5, channels), rng.uniform(0.5, 1.5, channels))
    gamma = np.sqrt(variance + BN_EPSILON) * rng.uniform(0.7, 1.4, channels)
    return {
        "gamma": gamma,
        "beta": rng.normal(0, 0.3, channels),
        "moving_mean": rng.normal(0, 0.3, channels),
        "moving_variance": variance,
    }


def unscaled_arrays(config: DenseNetConfig, seed: int = 0) -> dict[str, dict[str, np.ndarray]]:
    """Return random arrays of ``config`` without scaling the head."""
    rng = np.random.default_rng(seed)
    arrays: dict[str, dict[str, np.ndarray]] = {}
    for layer, shapes in array_shapes(config).items():
        if "gamma" in shapes:
            values = random_batch_norm(rng, shapes["gamma"][0])
        else:
            values = {
                name: rng.normal(0, np.sqrt(2 / np.prod(shape[:-1])), shape) if name == "kernel" else np.zeros(shape)
                for name, shape in shapes.items()
            }
        arrays[layer] = {name: value.astype(np.float32) for name, value in values.items()}
    return arrays


def random_arrays(config: DenseNetConfig, seed: int = 0, image: np.ndarray | None = None, top: float = 0.5):
    """Return random arrays of ``config``, with a scaled head: the best class of ``image`` has the probability ``top``.

    ``image`` is a batch of one image with normalized pixels, or None for a random one.
    """
    arrays = unscaled_arrays(config, seed)
    if image is None:
        image = np.random.default_rng(1).normal(0, 1, (1, config.input_size, config.input_size, 3))
    logits = onnx_outputs(arrays, config, image.astype(np.float32))[0].astype(np.float64)
    low, high = 0.0, 1e4 / np.ptp(logits)
    for _ in range(60):
        scale = (low + high) / 2
        weights = np.exp(scale * (logits - logits.max()))
        low, high = (scale, high) if weights.max() / weights.sum() < top else (low, scale)
    head = arrays["predictions"]
    head["kernel"] = (head["kernel"] * scale).astype(np.float32)
    head["bias"] = np.random.default_rng(seed + 1).normal(0, 0.01, head["bias"].shape).astype(np.float32)
    return arrays


def onnx_outputs(arrays, config: DenseNetConfig, batch: np.ndarray, output: str = "logits") -> np.ndarray:
    """Return an output of the emitted graph, without a file or the graph cache."""
    import onnxruntime

    from densenet_cli.engines import onnx_graph

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(onnx_graph.emit(arrays, config), options, providers=["CPUExecutionProvider"])
    return session.run([output], {"pixels": np.ascontiguousarray(batch.transpose(0, 3, 1, 2))})[0]


@cache
def tiny_weights(folder: Path, seed: int = 0) -> Path:
    """Write a checkpoint of ``TINY`` that states its settings to ``folder`` and return its path."""
    from densenet_cli.weights import safetensors
    from densenet_cli.weights.contents import ModelMetadata

    path = folder / f"tiny{seed}.safetensors"
    safetensors.write(path, random_arrays(TINY, seed, top=0.15), TINY, ModelMetadata(input_size=224))
    return path


def probabilities_of(classifier, images) -> list[np.ndarray]:
    """Return the probabilities of each image, float32 of shape (classes,)."""
    return [result.outputs["probabilities"] for result in classifier.stream(map(from_object, images))]


FINDINGS = ("Edema", "Mass", "Nodule", "Effusion", "Hernia")


@cache
def multi_label_weights(folder: Path) -> Path:
    """Write a multi-label checkpoint of ``TINY`` with the classes ``FINDINGS`` to ``folder`` and return its path.

    The logits of each class are spread around -1, so that some images have no label and others several.
    """
    from densenet_cli.labels import from_class_names
    from densenet_cli.weights import safetensors
    from densenet_cli.weights.contents import ModelMetadata

    config = replace(TINY, classes=len(FINDINGS), activation="sigmoid")
    arrays = random_arrays(config, seed=3)
    rng = np.random.default_rng(7)
    levels = rng.normal(0, 1, (24, 1, 1, 3)) + rng.normal(0, 1, (24, 32, 32, 3)) * rng.uniform(0, 1, (24, 1, 1, 1))
    logits = np.concatenate([onnx_outputs(arrays, config, image[None].astype(np.float32)) for image in levels])
    head, scale = arrays["predictions"], 2 / logits.std(axis=0)
    head["kernel"] *= scale
    head["bias"] = (head["bias"] - logits.mean(axis=0)) * scale - 1
    labels = from_class_names(FINDINGS)
    metadata = ModelMetadata(labels=labels, preprocess="squash", input_size=32, activation="sigmoid")
    path = folder / "findings.safetensors"
    safetensors.write(path, arrays, config, metadata)
    return path


def probabilities_in(folder: Path, weights: Path, cache: Path) -> np.ndarray:
    """Return the probabilities of the images in a folder by name, float32 of shape (images, classes).

    ``cache`` is the folder of the graph cache. It lets fixtures that are wider than a test call this.
    """
    from densenet_cli import Classifier

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DENSENET_CACHE", str(cache))
        return np.array(probabilities_of(Classifier(weights=weights), map(str, sorted(folder.iterdir()))))
