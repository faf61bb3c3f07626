"""Both engines compared with ``keras.applications`` on photographs, with the same random weights.

The weights are read from a file in the published format. Further tests show which mistakes the comparison detects.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from densenet_cli import Classifier, engines, variants
from densenet_cli.engines import keras_ops, onnx_graph
from densenet_cli.layers import embedding_size
from densenet_cli.topology import DenseNetConfig
from tests.support.checkpoints import write_legacy_h5
from tests.support.networks import onnx_outputs, random_arrays

VARIANTS = ("121", "169", "201")
PROBABILITY_TOLERANCE = 1e-5
LOGIT_TOLERANCE = EMBEDDING_TOLERANCE = 1e-4
"""Tolerances: absolute for probabilities, relative to the range of values for logits and embeddings."""


@dataclass
class Reference:
    """The outputs of keras.applications for the photographs, and the weights as arrays and as a file."""

    config: DenseNetConfig
    arrays: Any
    file: Any
    batch: np.ndarray
    logits: np.ndarray
    probabilities: np.ndarray
    embeddings: np.ndarray


@pytest.fixture(scope="module")
def batch(keras, photographs):
    load_img, to_array = keras.utils.load_img, keras.utils.img_to_array
    images = np.stack([to_array(load_img(path, target_size=(224, 224))) for path in photographs])
    return keras.applications.densenet.preprocess_input(images)


@pytest.fixture(scope="module", params=VARIANTS)
def reference(request, keras, batch, tmp_path_factory):
    config = variants.get(request.param).config
    arrays = random_arrays(config, image=batch[:1])
    file = tmp_path_factory.mktemp("published") / f"{request.param}.h5"
    write_legacy_h5(file, arrays, config)
    network = getattr(keras.applications, f"DenseNet{request.param}")
    full, headless = network(weights=None), network(weights=None, include_top=False, pooling="avg")
    for model in (full, headless):
        keras_ops.set_arrays(model, arrays)
    two_outputs = keras.Model(full.input, [full.get_layer("avg_pool").output, full.output])
    pooled, probabilities, embeddings = map(
        keras.ops.convert_to_numpy, (*two_outputs(batch, training=False), headless(batch, training=False))
    )
    head = arrays["predictions"]
    logits = pooled @ head["kernel"] + head["bias"]
    return Reference(config, arrays, file, batch, logits, probabilities, embeddings)


@pytest.fixture(scope="module")
def create(reference):
    """Return a function that creates an engine by name, once: TensorFlow takes seconds to build one."""
    return functools.cache(lambda engine: engines.create(engine, reference.file, reference.config, threads=2))


def test_random_weights_are_sensitive_to_mistakes(reference):
    assert 0.2 <= reference.probabilities.max(axis=1)[0] <= 0.9
    variances = np.concatenate([parts["moving_variance"] for parts in reference.arrays.values() if "gamma" in parts])
    assert (variances <= 1e-5).mean() > 0.4
    assert not np.allclose(reference.probabilities[0], reference.probabilities[1], atol=1e-3)


@pytest.mark.parametrize("engine", engines.ENGINES)
def test_outputs_equal_keras_applications(reference, create, engine):
    outputs = create(engine).run(reference.batch, ("probabilities", "logits"))
    assert np.abs(outputs["probabilities"] - reference.probabilities).max() <= PROBABILITY_TOLERANCE
    ranges = np.ptp(reference.logits, axis=1, keepdims=True)
    assert (np.abs(outputs["logits"] - reference.logits) / ranges).max() <= LOGIT_TOLERANCE
    for actual, expected in zip(outputs["probabilities"], reference.probabilities, strict=True):
        np.testing.assert_array_equal(np.argsort(-actual)[:5], np.argsort(-expected)[:5])


@pytest.mark.parametrize("engine", engines.ENGINES)
def test_features_and_head_give_the_logits(reference, create, engine):
    tested = create(engine)
    kernel, bias = (tested.head()["predictions"][name] for name in ("kernel", "bias"))
    outputs = tested.run(reference.batch, ("probabilities", "features"))
    features = outputs["features"]
    assert features.shape == (len(reference.batch), 7, 7, len(kernel))
    assert features.min() == 0
    assert features.dtype == kernel.dtype == bias.dtype == np.float32
    logits = features.mean(axis=(1, 2)) @ kernel + bias
    ranges = np.ptp(reference.logits, axis=1, keepdims=True)
    assert (np.abs(logits - reference.logits) / ranges).max() <= LOGIT_TOLERANCE
    if engine == "onnx":  # the same bits for other sets of outputs, batch sizes, and numbers of threads
        np.testing.assert_array_equal(outputs["probabilities"], tested.run(reference.batch)["probabilities"])
        single_threaded = engines.create(engine, reference.file, reference.config, threads=1)
        for image, expected in zip(reference.batch, features, strict=True):
            np.testing.assert_array_equal(single_threaded.run(image[None], ("features",))["features"][0], expected)


@pytest.mark.parametrize("engine", engines.ENGINES)
def test_embeddings_equal_keras_applications(reference, engine, photographs):
    """Compare the whole path from files to vectors with ``include_top=False, pooling="avg"``."""
    classifier = Classifier(weights=reference.file, engine=engine, preprocess="keras", batch_size=3)
    embeddings = list(classifier.embed_many(photographs))
    assert [embedding.source for embedding in embeddings] == list(map(str, photographs))
    got = np.stack([embedding.vector for embedding in embeddings])
    assert got.dtype == np.float32
    assert got.shape == reference.embeddings.shape == (len(photographs), embedding_size(classifier.config))
    assert np.abs(got - reference.embeddings).max() <= EMBEDDING_TOLERANCE * np.ptp(reference.embeddings)


def test_cached_graph_gives_the_same_bits(reference):
    """Compare the engine that creates the graph with engines that load it, for a batch and for single images."""

    def probabilities(batch, threads):
        return engines.create("onnx", reference.file, reference.config, threads).run(batch)["probabilities"]

    first = probabilities(reference.batch, threads=2)
    np.testing.assert_array_equal(first, probabilities(reference.batch, threads=1))
    single_images = [probabilities(image[None], threads=1) for image in reference.batch]
    np.testing.assert_array_equal(first, np.concatenate(single_images))


MISTAKES = ("swapped channels", "epsilon of torchvision", "epsilon of Keras", "skipped batch norm", "skipped ReLU")


@pytest.mark.parametrize("reference", ["121"], indirect=True)
@pytest.mark.parametrize("mistake", MISTAKES)
def test_comparison_detects_mistake(reference, mistake, monkeypatch):
    """Each mistake in the network changes a probability by more than 10 times the tolerance."""
    batch = reference.batch[:1]
    config = reference.config
    if mistake == "swapped channels":
        batch = batch[..., ::-1]
    elif mistake.startswith("epsilon"):
        monkeypatch.setattr(onnx_graph, "BN_EPSILON", 1e-5 if mistake.endswith("torchvision") else 1e-3)
    elif mistake == "skipped batch norm":
        original = onnx_graph.OnnxOps.batch_norm
        monkeypatch.setattr(
            onnx_graph.OnnxOps,
            "batch_norm",
            lambda ops, x, name: x if name == "conv4_block3_0_bn" else original(ops, x, name),
        )
    else:
        monkeypatch.setattr(
            onnx_graph.OnnxOps,
            "activation",
            lambda ops, x, name, **kw: x if name == "conv3_block2_1_relu" else activation(ops, x, name, **kw),
        )
    wrong = onnx_outputs(reference.arrays, config, batch, "probabilities")
    assert np.abs(wrong - reference.probabilities[:1]).max() > 10 * PROBABILITY_TOLERANCE


activation = onnx_graph.OnnxOps.activation
