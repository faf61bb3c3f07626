"""Exported files in the runtimes that they are for, with nothing of ours: what they answer, and what they say."""

from __future__ import annotations

import json
import re
import shutil
import zipfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from densenet_cli import Classifier, variants
from densenet_cli.export import export
from densenet_cli.images.preprocessing import MEAN, MODES, STD
from densenet_cli.labels import ClassLabel
from densenet_cli.weights import checkpoint, safetensors
from densenet_cli.weights.contents import ModelMetadata
from tests.support import checkpoints as support
from tests.support.networks import TINY, random_arrays

PAGE = Path(__file__).parents[2] / "docs" / "export.md"
LABELS = tuple(ClassLabel(n * 3, f"n{n:08}", name) for n, name in enumerate(("café", *"abcdefghi")))
NAMES = [label.name for label in LABELS]
FILES = {"onnx": "m.onnx", "saved-model": "m", "tflite": "m.tflite", "keras": "m.keras", "safetensors": "m.safetensors"}

SLOW = pytest.mark.slow
SAVED_MODEL = KERAS = [True, pytest.param(False, marks=SLOW)]
TFLITE = [False, pytest.param(True, marks=SLOW)]
"""Which have the preprocessing inside. TensorFlow needs seconds for each, and the page's examples run the same ones."""


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "mine.safetensors"
    metadata = ModelMetadata(LABELS, "crop", training={"epochs": 3}, accuracy={"top1": 0.5})
    safetensors.write(path, random_arrays(TINY, top=0.15), TINY, metadata)
    return path


@pytest.fixture(scope="module")
def exported(weights, tmp_path_factory):
    """A file of the model, made once: by format, and whether the preprocessing is inside."""
    made: dict[tuple[str, bool], Path] = {}

    def get(format_: str, inside: bool = False) -> Path:
        if (format_, inside) not in made:
            path = tmp_path_factory.mktemp("exported") / FILES[format_]
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("DENSENET_CACHE", str(path.parent / "cache"))
                done = export(Classifier(weights=weights), path, format_, with_preprocessing=inside)
            assert 0 <= done.difference < 1e-5 and done.images == 4
            made[format_, inside] = path
        return made[format_, inside]

    return get


@pytest.fixture
def expected(weights, photographs):
    """What the model itself says of the photographs."""
    found = dict(Classifier(weights=weights, exact=True).probabilities(photographs))
    return np.stack([found[str(path)] for path in photographs])


def documented_prepare():
    """The function with which the page prepares an image, in Pillow and NumPy."""
    block = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)[0]
    space: dict[str, object] = {}
    exec(block, space)
    return space["prepare"]


def assert_answers(run, how, photographs, expected, channels_first=False):
    """The same probabilities, whatever the batch, from images prepared as the file itself says."""
    prepare = documented_prepare()
    batch = np.concatenate([prepare(path, how) for path in photographs])
    assert batch.dtype == (np.uint8 if how["normalization_inside"] else np.float32)
    if channels_first:
        batch = batch.transpose(0, 3, 1, 2)
    for part in (slice(0, 1), slice(1, 4), slice(None)):
        found = np.asarray(run(batch[part]))
        np.testing.assert_allclose(found, expected[part], atol=1e-5)
    # The network tells images apart, so a mistake in one of them would show.
    assert np.ptp(expected, axis=0).max() > 0.02


@pytest.mark.parametrize("inside", [False, True])
def test_onnx(exported, photographs, expected, inside):
    session = onnxruntime.InferenceSession(exported("onnx", inside))
    said = session.get_modelmeta().custom_metadata_map
    assert json.loads(said["labels"]) == NAMES
    assert json.loads(said["wordnet_ids"]) == [label.id for label in LABELS]
    assert said["model"] == "mine"
    (pixels,) = session.get_inputs()
    assert pixels.name == "pixels"
    assert (pixels.type, pixels.shape) == (
        ("tensor(uint8)", ["batch", 32, 32, 3]) if inside else ("tensor(float)", ["batch", 3, 32, 32])
    )
    assert [output.name for output in session.get_outputs()] == ["probabilities", "logits"]

    def run(batch):
        probabilities, logits = session.run(None, {"pixels": batch})
        weights = np.exp(logits - logits.max(axis=1, keepdims=True))
        np.testing.assert_allclose(weights / weights.sum(axis=1, keepdims=True), probabilities, atol=1e-6)
        return probabilities

    assert_answers(run, json.loads(said["preprocessing"]), photographs, expected, channels_first=not inside)


def test_an_onnx_file_is_a_sound_graph_without_loose_ends(exported):
    proto = onnx.load(exported("onnx"))
    onnx.checker.check_model(proto, full_check=True)
    assert (proto.producer_name, bool(proto.producer_version)) == ("densenet-cli", True)
    read = {name for node in proto.graph.node for name in node.input} | {"probabilities", "logits"}
    assert {name for node in proto.graph.node for name in node.output} <= read
    assert {array.name for array in proto.graph.initializer} <= read


@pytest.mark.parametrize("inside", SAVED_MODEL)
def test_saved_model(exported, photographs, expected, inside):
    import tensorflow as tf

    loaded = tf.saved_model.load(str(exported("saved-model", inside)))
    said = json.loads(tf.io.read_file(loaded.description.asset_path).numpy())
    assert said["labels"] == NAMES
    assert said["producer"].startswith("densenet-cli ")
    assert Path(loaded.labels.asset_path.numpy().decode()).read_text(encoding="utf-8").splitlines() == NAMES
    serve = loaded.signatures["serving_default"]
    (spec,) = serve.structured_input_signature[1].values()
    assert (spec.name, spec.shape.as_list()) == ("pixels", [None, 32, 32, 3])
    assert_answers(
        lambda batch: serve(tf.constant(batch))["probabilities"], said["preprocessing"], photographs, expected
    )
    assert_answers(
        lambda batch: loaded(tf.constant(batch))["probabilities"], said["preprocessing"], photographs, expected
    )


@pytest.mark.parametrize("inside", TFLITE)
def test_tflite(exported, photographs, expected, inside):
    from ai_edge_litert.interpreter import Interpreter

    path = exported("tflite", inside)
    said = json.loads(zipfile.ZipFile(path).read("densenet.json"))
    assert zipfile.ZipFile(path).read("labels.txt").decode().splitlines() == NAMES
    interpreter = Interpreter(str(path))
    (pixels,) = interpreter.get_input_details()
    assert pixels["shape"].tolist() == [1, 32, 32, 3]
    assert pixels["shape_signature"].tolist() == [-1, 32, 32, 3]
    runner = interpreter.get_signature_runner("serving_default")
    assert_answers(lambda batch: runner(pixels=batch)["probabilities"], said["preprocessing"], photographs, expected)


@pytest.mark.parametrize("inside", TFLITE)
def test_tflite_metadata(exported, inside):
    """By the slots of ``metadata_schema.fbs``, read with flatbuffers alone."""
    from flatbuffers import number_types as types
    from flatbuffers.table import Table
    from tensorflow.lite.python import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(exported("tflite", inside).read_bytes())
    (entry,) = [entry for entry in model.metadata if entry.name == b"TFLITE_METADATA"]
    data = bytes(model.buffers[entry.buffer].data)
    assert data[4:8] == b"M001"

    def below(position, slot):
        found = Table(data, position)
        return found.Indirect(position + found.Offset(4 + 2 * slot))

    def members(position, slot):
        found = Table(data, position)
        offset = found.Offset(4 + 2 * slot)
        start = found.Vector(offset)
        return [found.Indirect(start + 4 * n) for n in range(found.VectorLen(offset))]

    def floats(position, slot):
        found = Table(data, position)
        offset = found.Offset(4 + 2 * slot)
        start = found.Vector(offset)
        return [found.Get(types.Float32Flags, start + 4 * n) for n in range(found.VectorLen(offset))]

    def text(position, slot):
        found = Table(data, position)
        return found.String(position + found.Offset(4 + 2 * slot)).decode()

    root = int.from_bytes(data[:4], "little")
    assert text(root, 0) == "mine"
    assert [text(file, 0) for file in members(root, 6)] == ["densenet.json"]
    (graph,) = members(root, 3)
    (pixels,), (probabilities,) = members(graph, 2), members(graph, 3)
    assert (text(pixels, 0), text(probabilities, 0)) == ("pixels", "probabilities")
    (unit,) = members(pixels, 4)
    options = below(unit, 1)
    # The tools apply it to levels from 0 to 255.
    np.testing.assert_allclose(floats(options, 0), [0] if inside else np.multiply(MEAN, 255), rtol=1e-6)
    np.testing.assert_allclose(floats(options, 1), [1] if inside else np.multiply(STD, 255), rtol=1e-6)
    (labels,) = members(probabilities, 6)
    assert text(labels, 0) == "labels.txt"
    assert Table(data, labels).GetSlot(4 + 2 * 2, 0, types.Int8Flags) == 2  # TENSOR_AXIS_LABELS


@pytest.mark.parametrize("inside", KERAS)
def test_keras(exported, photographs, expected, keras, inside):
    path = exported("keras", inside)
    said = json.loads(zipfile.ZipFile(path).read("densenet.json"))
    network = keras.models.load_model(path)
    assert network.input.shape == (None, 32, 32, 3)
    assert_answers(network, said["preprocessing"], photographs, expected)


def test_a_keras_file_is_a_checkpoint_too(exported, weights):
    """Its own normalization has no weights, and nobody normalizes twice."""
    read = checkpoint.read(exported("keras", True), TINY)
    support.assert_same(read.arrays, checkpoint.read(weights).arrays, TINY)


def test_safetensors_are_what_torch_writes(exported, weights, tmp_path):
    """Against the support module's writer of torchvision's files, which shares nothing with ours but the names."""
    arrays = checkpoint.read(weights).arrays
    support.write_torchvision(tmp_path / "torch.safetensors", arrays, TINY)
    theirs, mine = load_file(tmp_path / "torch.safetensors"), load_file(exported("safetensors"))
    assert set(mine) == set(theirs)
    for name, values in theirs.items():
        assert (mine[name].dtype, mine[name].shape) == (values.dtype, values.shape), name
        if not name.endswith("num_batches_tracked"):
            np.testing.assert_array_equal(mine[name], values, err_msg=name)
    variance = mine["features.norm5.running_var"].astype(np.float64)
    np.testing.assert_allclose(
        variance + 1e-5, arrays["bn"]["moving_variance"].astype(np.float64) + 1.001e-5, rtol=1e-6
    )
    assert (variance > arrays["bn"]["moving_variance"]).any()
    assert mine["classifier.weight"].shape == (10, arrays["bn"]["gamma"].size)


def test_safetensors_say_all_and_are_a_checkpoint(exported, expected, weights, photographs):
    path = exported("safetensors")
    with safe_open(path, "numpy") as file:
        said = file.metadata()
    assert said["format"] == "pt"
    assert json.loads(said["labels"]) == NAMES
    assert json.loads(said["densenet"])["bn_epsilon"] == 1e-5
    assert json.loads(said["preprocessing"])["mean"] == list(MEAN)
    read, before = checkpoint.read(path), checkpoint.read(weights)
    assert read.config == TINY
    assert read.metadata == ModelMetadata(LABELS, "crop", 32, before.metadata.training, before.metadata.accuracy)
    for layer, held in before.arrays.items():
        for name, values in held.items():
            np.testing.assert_allclose(read.arrays[layer][name], values, rtol=1e-6, atol=1e-12)
    found = dict(Classifier(weights=path, exact=True).probabilities(photographs))
    np.testing.assert_allclose(np.stack(list(found.values())), expected, atol=1e-5)


def test_our_own_checkpoints_keep_keras_epsilon(weights):
    """What ``densenet train`` writes has not changed with the exporter's."""
    with safe_open(weights, "numpy") as file:
        assert json.loads(file.metadata()["densenet"])["bn_epsilon"] == 1.001e-5
        assert not [name for name in file.keys() if name.endswith("num_batches_tracked")]  # noqa: SIM118
    np.testing.assert_array_equal(
        load_file(weights)["features.norm5.running_var"], checkpoint.read(weights).arrays["bn"]["moving_variance"]
    )


@pytest.mark.parametrize("mode", MODES)
def test_every_way_of_preprocessing_is_described(weights, photographs, tmp_path, mode):
    """With the page's preparation, which reads nothing but the description, the model's own answers."""
    classifier = Classifier(weights=weights, preprocess=mode, exact=True)
    export(classifier, tmp_path / "m.onnx", with_preprocessing=True)
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx")
    how = json.loads(session.get_modelmeta().custom_metadata_map["preprocessing"])
    assert how["mode"] == mode
    for path, expected in classifier.probabilities(photographs):
        pixels = documented_prepare()(path, how)
        np.testing.assert_allclose(session.run(["probabilities"], {"pixels": pixels})[0][0], expected, atol=1e-5)


def test_tiny_of_the_package(tmp_path, photographs):
    """A real network with a real answer, and labels that are some of ImageNet's."""
    classifier = Classifier("tiny", exact=True)
    done = export(classifier, tmp_path / "tiny.onnx")
    assert done.format == "onnx" and done.has_labels
    session = onnxruntime.InferenceSession(tmp_path / "tiny.onnx")
    said = session.get_modelmeta().custom_metadata_map
    how, names = json.loads(said["preprocessing"]), json.loads(said["labels"])
    assert (how["mode"], how["input_size"]) == (classifier.preprocessing.mode, classifier.preprocessing.input_size)
    assert json.loads(said["config"]) == variants.get("tiny").config.to_dict()
    panda = next(path for path in photographs if path.stem == "red_panda")
    pixels = documented_prepare()(panda, how).transpose(0, 3, 1, 2)
    probabilities = session.run(["probabilities"], {"pixels": pixels})[0][0]
    (score,) = classifier.predict(panda, top_k=1).predictions
    assert names[probabilities.argmax()] == score.label
    assert probabilities.max() == pytest.approx(score.probability, abs=1e-5)


def test_the_page_runs(exported, tmp_path, monkeypatch, photographs, expected, capsys):
    """Every Python example, one after the other, on the files that it names."""
    for format_, inside in (("onnx", False), ("tflite", False), ("keras", True)):
        shutil.copy(exported(format_, inside), tmp_path / f"model.{format_}")
    shutil.copytree(exported("saved-model", True), tmp_path / "served")
    cat = next(position for position, path in enumerate(photographs) if path.stem == "cat")
    shutil.copy(photographs[cat], tmp_path / "cat.jpg")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert len(blocks) == 5
    exec(compile("\n".join(blocks), str(PAGE), "exec"), {})
    assert capsys.readouterr().out.split() == [NAMES[expected[cat].argmax()]] * 4
