"""Exported files in their own runtimes, without this package: probabilities, metadata, and the documented examples."""

from __future__ import annotations

import json
import re
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from densenet_cli import Classifier, variants
from densenet_cli.export import export
from densenet_cli.images.normalization import MEAN, STD
from densenet_cli.images.preprocessing import MODES
from densenet_cli.labels import ClassLabel
from densenet_cli.weights import checkpoint, safetensors
from densenet_cli.weights.contents import ModelMetadata
from tests.support import checkpoints as support
from tests.support.networks import TINY, probabilities_of, random_arrays

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "commands" / "export.md"
LABELS = tuple(ClassLabel(n * 3, f"n{n:08}", name) for n, name in enumerate(("café", *"abcdefghi")))
NAMES = [label.name for label in LABELS]
FILES = {"onnx": "m.onnx", "saved-model": "m", "tflite": "m.tflite", "keras": "m.keras", "safetensors": "m.safetensors"}

SLOW = pytest.mark.slow
SAVED_MODEL = KERAS = [True, pytest.param(False, marks=SLOW)]
TFLITE = [False, pytest.param(True, marks=SLOW)]
"""Values of ``with_preprocessing``. TensorFlow takes seconds for each; the page's examples cover the fast ones."""


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "my-model 2.safetensors"
    metadata = ModelMetadata(LABELS, "crop", training={"epochs": 3}, accuracy={"top1": 0.5})
    safetensors.write(path, random_arrays(TINY, top=0.15), TINY, metadata)
    return path


@pytest.fixture(scope="module")
def exported(weights, tmp_path_factory):
    """Return the exported file for a format, with or without preprocessing. Each is exported once."""
    paths: dict[tuple[str, bool], Path] = {}

    def get(format_: str, with_preprocessing: bool = False) -> Path:
        if (format_, with_preprocessing) not in paths:
            path = tmp_path_factory.mktemp("exported") / FILES[format_]
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("DENSENET_CACHE", str(path.parent / "cache"))
                result = export(Classifier(weights=weights), path, format_, with_preprocessing=with_preprocessing)
            assert 0 <= result.max_difference < 1e-5 and result.images == 4
            paths[format_, with_preprocessing] = path
        return paths[format_, with_preprocessing]

    return get


@pytest.fixture
def expected(weights, photographs):
    """The model's probabilities for the photographs, (photographs, classes)."""
    return np.stack(probabilities_of(Classifier(weights=weights, exact=True), photographs))


def documented_prepare():
    """Return the ``prepare`` function of the documentation, which needs only Pillow and NumPy."""
    block = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)[0]
    namespace: dict[str, object] = {}
    exec(block, namespace)
    return namespace["prepare"]


def assert_same_probabilities(predict, preprocessing, photographs, expected, channels_first=False):
    """The model's probabilities in any batch size, from images prepared as the file's description says."""
    prepare = documented_prepare()
    batch = np.concatenate([prepare(path, preprocessing) for path in photographs])
    assert batch.dtype == (np.uint8 if preprocessing["normalization_included"] else np.float32)
    if channels_first:
        batch = batch.transpose(0, 3, 1, 2)
    for part in (slice(0, 1), slice(1, 4), slice(None)):
        np.testing.assert_allclose(np.asarray(predict(batch[part])), expected[part], atol=1e-5)
    # The photographs have different probabilities, so a mix-up would be noticed.
    assert np.ptp(expected, axis=0).max() > 0.02


@pytest.mark.parametrize("mode", ["crop", "pad"])
def test_grayscale(mode, tmp_path, photographs):
    config = replace(TINY, channels=1)
    metadata = ModelMetadata(LABELS, mode, mean=(0.4,), std=(0.2,))
    noise = np.random.default_rng(1).normal(0, 1, (1, 32, 32, 1)).astype(np.float32)
    safetensors.write(tmp_path / "gray.safetensors", random_arrays(config, image=noise, top=0.15), config, metadata)
    classifier = Classifier(weights=tmp_path / "gray.safetensors", exact=True)
    expected = np.stack(probabilities_of(classifier, photographs))
    for with_preprocessing in (False, True):
        path = tmp_path / f"{with_preprocessing}.onnx"
        export(classifier, path, "onnx", with_preprocessing=with_preprocessing)
        session = onnxruntime.InferenceSession(path)
        preprocessing = json.loads(session.get_modelmeta().custom_metadata_map["preprocessing"])
        assert_same_probabilities(
            lambda batch, session=session: session.run(["probabilities"], {"pixels": batch})[0],
            preprocessing,
            photographs,
            expected,
            channels_first=not with_preprocessing,
        )


@pytest.mark.parametrize("with_preprocessing", [False, True])
def test_onnx(exported, photographs, expected, with_preprocessing):
    session = onnxruntime.InferenceSession(exported("onnx", with_preprocessing))
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["labels"]) == NAMES
    assert json.loads(metadata["wordnet_ids"]) == [label.id for label in LABELS]
    assert metadata["model"] == "my-model 2"
    (pixels,) = session.get_inputs()
    assert pixels.name == "pixels"
    assert (pixels.type, pixels.shape) == (
        ("tensor(uint8)", ["batch", 32, 32, 3]) if with_preprocessing else ("tensor(float)", ["batch", 3, 32, 32])
    )
    assert [output.name for output in session.get_outputs()] == ["probabilities", "logits"]

    def predict(batch):
        probabilities, logits = session.run(None, {"pixels": batch})
        weights = np.exp(logits - logits.max(axis=1, keepdims=True))
        np.testing.assert_allclose(weights / weights.sum(axis=1, keepdims=True), probabilities, atol=1e-6)
        return probabilities

    assert_same_probabilities(
        predict, json.loads(metadata["preprocessing"]), photographs, expected, channels_first=not with_preprocessing
    )


def test_an_onnx_graph_is_valid_and_has_no_unused_parts(exported):
    proto = onnx.load(exported("onnx"))
    onnx.checker.check_model(proto, full_check=True)
    assert (proto.producer_name, bool(proto.producer_version)) == ("densenet-cli", True)
    used = {name for node in proto.graph.node for name in node.input} | {"probabilities", "logits"}
    assert {name for node in proto.graph.node for name in node.output} <= used
    assert {array.name for array in proto.graph.initializer} <= used


@pytest.mark.parametrize("with_preprocessing", SAVED_MODEL)
def test_saved_model(exported, photographs, expected, with_preprocessing):
    import tensorflow as tf

    loaded = tf.saved_model.load(str(exported("saved-model", with_preprocessing)))
    metadata = json.loads(tf.io.read_file(loaded.description.asset_path).numpy())
    assert metadata["labels"] == NAMES
    assert metadata["producer"].startswith("densenet-cli ")
    assert Path(loaded.labels.asset_path.numpy().decode()).read_text(encoding="utf-8").splitlines() == NAMES
    serve = loaded.signatures["serving_default"]
    (spec,) = serve.structured_input_signature[1].values()
    assert (spec.name, spec.shape.as_list()) == ("pixels", [None, 32, 32, 3])
    assert_same_probabilities(
        lambda batch: serve(tf.constant(batch))["probabilities"], metadata["preprocessing"], photographs, expected
    )
    assert_same_probabilities(
        lambda batch: loaded(tf.constant(batch))["probabilities"], metadata["preprocessing"], photographs, expected
    )


@pytest.mark.parametrize("with_preprocessing", TFLITE)
def test_tflite(exported, photographs, expected, with_preprocessing):
    from ai_edge_litert.interpreter import Interpreter

    path = exported("tflite", with_preprocessing)
    metadata = json.loads(zipfile.ZipFile(path).read("densenet.json"))
    assert zipfile.ZipFile(path).read("labels.txt").decode().splitlines() == NAMES
    interpreter = Interpreter(str(path))
    (pixels,) = interpreter.get_input_details()
    assert pixels["shape"].tolist() == [1, 32, 32, 3]
    assert pixels["shape_signature"].tolist() == [-1, 32, 32, 3]
    runner = interpreter.get_signature_runner("serving_default")
    assert_same_probabilities(
        lambda batch: runner(pixels=batch)["probabilities"], metadata["preprocessing"], photographs, expected
    )


@pytest.mark.parametrize("with_preprocessing", TFLITE)
def test_tflite_metadata(exported, with_preprocessing):
    """Read by the slots of ``metadata_schema.fbs``, with flatbuffers only."""
    from flatbuffers import number_types as types
    from flatbuffers.table import Table
    from tensorflow.lite.python import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(exported("tflite", with_preprocessing).read_bytes())
    (entry,) = [entry for entry in model.metadata if entry.name == b"TFLITE_METADATA"]
    data = bytes(model.buffers[entry.buffer].data)
    assert data[4:8] == b"M001"

    def table_at(position, slot):
        table = Table(data, position)
        return table.Indirect(position + table.Offset(4 + 2 * slot))

    def tables_at(position, slot):
        table = Table(data, position)
        offset = table.Offset(4 + 2 * slot)
        start = table.Vector(offset)
        return [table.Indirect(start + 4 * n) for n in range(table.VectorLen(offset))]

    def floats_at(position, slot):
        table = Table(data, position)
        offset = table.Offset(4 + 2 * slot)
        start = table.Vector(offset)
        return [table.Get(types.Float32Flags, start + 4 * n) for n in range(table.VectorLen(offset))]

    def text_at(position, slot):
        table = Table(data, position)
        return table.String(position + table.Offset(4 + 2 * slot)).decode()

    root = int.from_bytes(data[:4], "little")
    assert text_at(root, 0) == "my-model 2"
    assert [text_at(file, 0) for file in tables_at(root, 6)] == ["densenet.json"]
    (graph,) = tables_at(root, 3)
    (pixels,), (probabilities,) = tables_at(graph, 2), tables_at(graph, 3)
    assert (text_at(pixels, 0), text_at(probabilities, 0)) == ("pixels", "probabilities")
    (unit,) = tables_at(pixels, 4)
    options = table_at(unit, 1)
    # Readers apply it to values from 0 to 255.
    np.testing.assert_allclose(floats_at(options, 0), [0] if with_preprocessing else np.multiply(MEAN, 255), rtol=1e-6)
    np.testing.assert_allclose(floats_at(options, 1), [1] if with_preprocessing else np.multiply(STD, 255), rtol=1e-6)
    (labels,) = tables_at(probabilities, 6)
    assert text_at(labels, 0) == "labels.txt"
    assert Table(data, labels).GetSlot(4 + 2 * 2, 0, types.Int8Flags) == 2  # TENSOR_AXIS_LABELS


@pytest.mark.parametrize("with_preprocessing", KERAS)
def test_keras(exported, photographs, expected, keras, with_preprocessing):
    path = exported("keras", with_preprocessing)
    metadata = json.loads(zipfile.ZipFile(path).read("densenet.json"))
    network = keras.models.load_model(path)
    assert network.input.shape == (None, 32, 32, 3)
    assert_same_probabilities(network, metadata["preprocessing"], photographs, expected)


def test_a_keras_file_is_a_checkpoint_too(exported, weights):
    """Its normalization layer has no weights, so the checkpoint is the network alone."""
    contents = checkpoint.read(exported("keras", True), TINY)
    support.assert_same(contents.arrays, checkpoint.read(weights).arrays, TINY)


@pytest.mark.parametrize("with_preprocessing", [False, True])
def test_a_keras_file_states_its_labels_and_preprocessing(exported, weights, expected, photographs, with_preprocessing):
    classifier = Classifier(weights=exported("keras", with_preprocessing), exact=True)
    original = Classifier(weights=weights, exact=True)
    assert [label.name for label in classifier.labels] == NAMES
    assert classifier.assumptions == ()
    assert classifier.preprocessing.resize_side == original.preprocessing.resize_side
    assert classifier.preprocessing.mode == original.preprocessing.mode
    np.testing.assert_allclose(np.stack(probabilities_of(classifier, photographs)), expected, atol=1e-5)


@pytest.mark.parametrize("std", [(0.002,) * 3, (0.0039215,) * 3, (1 / 255,) * 3, (0.002, 0.2, 0.3)], ids=str)
def test_a_keras_file_states_a_small_standard_deviation(tmp_path, photographs, std):
    """Without the description, such values would be those of pixels from 0 to 1."""
    metadata = ModelMetadata(LABELS, "crop", mean=(0.4, 0.5, 0.6), std=std)
    safetensors.write(tmp_path / "m.safetensors", random_arrays(TINY), TINY, metadata)
    with Classifier(weights=tmp_path / "m.safetensors", exact=True) as classifier:
        expected = probabilities_of(classifier, photographs)
        export(classifier, tmp_path / "m.keras", with_preprocessing=True)
    stated = checkpoint.read(tmp_path / "m.keras").metadata
    assert stated.mean == pytest.approx(metadata.mean, rel=1e-6) and stated.std == pytest.approx(std, rel=1e-6)
    assert stated.notes == ()
    with Classifier(weights=tmp_path / "m.keras", exact=True) as exported:
        np.testing.assert_allclose(probabilities_of(exported, photographs), expected, atol=1e-3)


def test_safetensors_equal_a_torch_state_dict(exported, weights, tmp_path):
    """Compared with the support module's writer of torchvision files, which shares only the names with the exporter."""
    arrays = checkpoint.read(weights).arrays
    support.write_torchvision(tmp_path / "torch.safetensors", arrays, TINY)
    expected, arrays_by_name = load_file(tmp_path / "torch.safetensors"), load_file(exported("safetensors"))
    assert set(arrays_by_name) == set(expected)
    for name, values in expected.items():
        assert (arrays_by_name[name].dtype, arrays_by_name[name].shape) == (values.dtype, values.shape), name
        if not name.endswith("num_batches_tracked"):
            np.testing.assert_array_equal(arrays_by_name[name], values, err_msg=name)
    variance = arrays_by_name["features.norm5.running_var"].astype(np.float64)
    np.testing.assert_allclose(
        variance + 1e-5, arrays["bn"]["moving_variance"].astype(np.float64) + 1.001e-5, rtol=1e-6
    )
    assert (variance > arrays["bn"]["moving_variance"]).any()
    assert arrays_by_name["classifier.weight"].shape == (10, arrays["bn"]["gamma"].size)


def test_safetensors_have_the_description_and_are_a_checkpoint(exported, expected, weights, photographs):
    path = exported("safetensors")
    with safe_open(path, "numpy") as file:
        metadata = file.metadata()
    assert metadata["format"] == "pt"
    assert json.loads(metadata["labels"]) == NAMES
    assert json.loads(metadata["densenet"])["bn_epsilon"] == 1e-5
    assert json.loads(metadata["preprocessing"])["mean"] == list(MEAN)
    contents, original = checkpoint.read(path), checkpoint.read(weights)
    assert contents.config == TINY
    assert contents.metadata == ModelMetadata(
        LABELS,
        "crop",
        32,
        original.metadata.training,
        original.metadata.accuracy,
        activation="softmax",
        mean=MEAN,
        std=STD,
        interpolation="bilinear",
    )
    for layer, arrays in original.arrays.items():
        for name, values in arrays.items():
            np.testing.assert_allclose(contents.arrays[layer][name], values, rtol=1e-6, atol=1e-12)
    probabilities = probabilities_of(Classifier(weights=path, exact=True), photographs)
    np.testing.assert_allclose(np.stack(probabilities), expected, atol=1e-5)


@pytest.mark.parametrize("name", [FILES["safetensors"], FILES["keras"]])
def test_small_variances(weights, tmp_path, photographs, name):
    """They are smaller than the difference between PyTorch's epsilon and Keras'."""
    support.write_small_variances(tmp_path / "torch", checkpoint.read(weights).arrays, TINY)
    with Classifier(weights=tmp_path / "torch", input_size=32, exact=True) as classifier:
        export(classifier, tmp_path / name)
        expected = probabilities_of(classifier, photographs)
    with Classifier(weights=tmp_path / name, exact=True) as exported:
        np.testing.assert_array_equal(probabilities_of(exported, photographs), expected)


def test_checkpoints_from_training_keep_the_epsilon_of_keras(weights):
    """The exporter's epsilon does not affect what ``densenet train`` writes."""
    with safe_open(weights, "numpy") as file:
        assert json.loads(file.metadata()["densenet"])["bn_epsilon"] == 1.001e-5
        assert not [name for name in file.keys() if name.endswith("num_batches_tracked")]  # noqa: SIM118
    np.testing.assert_array_equal(
        load_file(weights)["features.norm5.running_var"], checkpoint.read(weights).arrays["bn"]["moving_variance"]
    )


@pytest.mark.parametrize("mode", MODES)
def test_every_preprocessing_mode_is_described(weights, photographs, tmp_path, mode):
    """The documented ``prepare``, which reads only the description, leads to the model's probabilities."""
    classifier = Classifier(weights=weights, preprocess=mode, exact=True)
    export(classifier, tmp_path / "m.onnx", with_preprocessing=True)
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx")
    preprocessing = json.loads(session.get_modelmeta().custom_metadata_map["preprocessing"])
    assert preprocessing["mode"] == mode
    for path, expected in zip(photographs, probabilities_of(classifier, photographs), strict=True):
        pixels = documented_prepare()(path, preprocessing)
        np.testing.assert_allclose(session.run(["probabilities"], {"pixels": pixels})[0][0], expected, atol=1e-5)


def test_the_bundled_model(tmp_path, photographs):
    """A trained network, whose labels are a subset of ImageNet's."""
    classifier = Classifier("tiny", exact=True)
    result = export(classifier, tmp_path / "tiny.onnx")
    assert result.format == "onnx" and result.has_labels
    session = onnxruntime.InferenceSession(tmp_path / "tiny.onnx")
    metadata = session.get_modelmeta().custom_metadata_map
    preprocessing, names = json.loads(metadata["preprocessing"]), json.loads(metadata["labels"])
    assert (preprocessing["mode"], preprocessing["input_size"]) == (
        classifier.preprocessing.mode,
        classifier.preprocessing.input_size,
    )
    assert json.loads(metadata["config"]) == variants.get("tiny").config.to_dict()
    panda = next(path for path in photographs if path.stem == "red_panda")
    pixels = documented_prepare()(panda, preprocessing).transpose(0, 3, 1, 2)
    probabilities = session.run(["probabilities"], {"pixels": pixels})[0][0]
    (score,) = classifier.predict(panda, top_k=1).scores
    assert names[probabilities.argmax()] == score.label
    assert probabilities.max() == pytest.approx(score.probability, abs=1e-5)


def test_the_documented_examples_run(exported, tmp_path, monkeypatch, photographs, expected, capsys):
    """All Python examples of the page, in order, with the files that they name."""
    for format_, with_preprocessing in (("onnx", False), ("tflite", False), ("keras", True)):
        shutil.copy(exported(format_, with_preprocessing), tmp_path / f"model.{format_}")
    shutil.copytree(exported("saved-model", True), tmp_path / "served")
    cat = next(position for position, path in enumerate(photographs) if path.stem == "cat")
    shutil.copy(photographs[cat], tmp_path / "cat.jpg")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert len(blocks) == 5
    exec(compile("\n".join(blocks), str(PAGE), "exec"), {})
    assert capsys.readouterr().out.split() == [NAMES[expected[cat].argmax()]] * 4
