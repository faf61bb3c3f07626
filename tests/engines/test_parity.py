"""Both engines against ``keras.applications`` with the same arrays, on real photographs.

The arrays come from a file in the published layout. What the comparison would notice is shown below it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from densenet_cli import Classifier, engines, variants
from densenet_cli.engines import keras_ops, onnx_graph
from densenet_cli.output.embedding import width_of
from tests.support.checkpoints import write_legacy_h5
from tests.support.networks import onnx_outputs, random_arrays

VARIANTS = ("121", "169", "201")
PROBABILITY = 1e-5
LOGIT = EMBEDDING = 1e-4
"""Allowed differences: of a probability, and of a logit or a number of a vector as a share of all their range."""


@dataclass
class Reference:
    """What keras.applications says of the photographs, and the arrays and the file that say the same."""

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
    theirs, headless = network(weights=None), network(weights=None, include_top=False, pooling="avg")
    for model in (theirs, headless):
        keras_ops.set_arrays(model, arrays)
    both = keras.Model(theirs.input, [theirs.get_layer("avg_pool").output, theirs.output])
    pooled, probabilities = both.predict(batch, verbose=0)
    head = arrays["predictions"]
    logits = pooled @ head["kernel"] + head["bias"]
    return Reference(arrays, file, batch, logits, probabilities, headless.predict(batch, verbose=0))


def test_the_arrays_show_mistakes(reference):
    assert 0.2 <= reference.probabilities.max(axis=1)[0] <= 0.9
    variances = np.concatenate([parts["moving_variance"] for parts in reference.arrays.values() if "gamma" in parts])
    assert (variances <= 1e-5).mean() > 0.4
    assert not np.allclose(reference.probabilities[0], reference.probabilities[1], atol=1e-3)


@pytest.mark.parametrize("engine", engines.ENGINES)
def test_engine_equals_keras_applications(reference, engine, request):
    name = request.node.callspec.params["reference"]
    running = engines.create(engine, reference.file, variants.get(name).config, threads=2)
    probabilities = running.run(reference.batch)
    logits = running.run(reference.batch, "logits")
    assert np.abs(probabilities - reference.probabilities).max() <= PROBABILITY
    spread = np.ptp(reference.logits, axis=1, keepdims=True)
    assert (np.abs(logits - reference.logits) / spread).max() <= LOGIT
    for mine, theirs in zip(probabilities, reference.probabilities, strict=True):
        np.testing.assert_array_equal(np.argsort(-mine)[:5], np.argsort(-theirs)[:5])


@pytest.mark.parametrize("engine", engines.ENGINES)
def test_features_and_head_make_the_logits(reference, engine, request):
    """What the head averages, channels last, with the head's arrays: keras.applications' logits again."""
    config = variants.get(request.node.callspec.params["reference"]).config
    running = engines.create(engine, reference.file, config, threads=2)
    kernel, bias = running.head()
    probabilities, features = running.run_all(reference.batch, ("probabilities", "features"))
    assert features.shape == (len(reference.batch), 7, 7, len(kernel))
    assert features.min() == 0
    assert features.dtype == kernel.dtype == bias.dtype == np.float32
    logits = features.mean(axis=(1, 2)) @ kernel + bias
    spread = np.ptp(reference.logits, axis=1, keepdims=True)
    assert (np.abs(logits - reference.logits) / spread).max() <= LOGIT
    if engine == "onnx":  # asked for with others or alone, one image or several, by one thread or two: the same bits
        np.testing.assert_array_equal(probabilities, running.run(reference.batch))
        alone = engines.create(engine, reference.file, config, threads=1)
        for image, expected in zip(reference.batch, features, strict=True):
            np.testing.assert_array_equal(alone.run(image[None], "features")[0], expected)


@pytest.mark.parametrize("engine", engines.ENGINES)
def test_embeddings_equal_keras_applications(reference, engine, photographs):
    """From files to vectors, beside ``include_top=False, pooling="avg"``."""
    classifier = Classifier(weights=reference.file, engine=engine, preprocess="keras", batch_size=3)
    embeddings = list(classifier.embed_many(photographs))
    assert [one.source for one in embeddings] == list(map(str, photographs))
    got = np.stack([one.vector for one in embeddings])
    assert got.dtype == np.float32
    assert got.shape == reference.embeddings.shape == (len(photographs), width_of(classifier.config))
    assert np.abs(got - reference.embeddings).max() <= EMBEDDING * np.ptp(reference.embeddings)


def test_the_second_start_gives_the_same_bits(reference, request):
    """From memory, from the graph just cached, and from the cached graph found again."""
    name = request.node.callspec.params["reference"]
    config = variants.get(name).config
    first = engines.create("onnx", reference.file, config, threads=2).run(reference.batch)
    second = engines.create("onnx", reference.file, config, threads=1).run(reference.batch)
    np.testing.assert_array_equal(first, second)
    alone = np.concatenate(
        [engines.create("onnx", reference.file, config, 1).run(row[None]) for row in reference.batch]
    )
    np.testing.assert_array_equal(first, alone)


MISTAKES = ("swapped channels", "epsilon of torchvision", "epsilon of Keras", "skipped batch norm", "skipped ReLU")


@pytest.mark.parametrize("reference", ["121"], indirect=True)
@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_comparison_notices(reference, mistake, monkeypatch):
    """Each of these mistakes in the network moves a probability by more than is allowed."""
    batch = reference.batch[:1]
    config = variants.get("121").config
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
            onnx_graph.OnnxOps, "relu", lambda ops, x, name: x if name == "conv3_block2_1_relu" else relu(ops, x, name)
        )
    wrong = onnx_outputs(reference.arrays, config, batch, "probabilities")
    assert np.abs(wrong - reference.probabilities[:1]).max() > 10 * PROBABILITY


relu = onnx_graph.OnnxOps.relu
