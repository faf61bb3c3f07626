"""PyTorch files: recorded ones (see ``tests/data/make_torch_files.py``) give the outputs that PyTorch computes."""

from __future__ import annotations

import json
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from densenet_cli.errors import CheckpointError
from densenet_cli.topology import BN_EPSILON, DenseNetConfig
from densenet_cli.weights import checkpoint
from densenet_cli.weights.pytorch import files as torch_files
from densenet_cli.weights.pytorch import names as torch_names
from densenet_cli.weights.pytorch.heads import ModuleClass
from densenet_cli.weights.pytorch.other_arrays import Normalization
from tests.support import checkpoints as support
from tests.support import torch_files as writer
from tests.support.checkpoints import error_message
from tests.support.networks import onnx_outputs, unscaled_arrays

DATA = Path(__file__).parents[2] / "data" / "torch"
CONFIG = DenseNetConfig((1, 2), growth_rate=2, stem_width=4, classes=3)
NO_NORMALIZATION = Normalization()
EXPECTED = np.load(DATA / "expected.npz")
HEAD_NORMS = ("module.classifier.0", "module.classifier.3.1")
"""The batch norms in the head of ``module-with-head.pth``."""
NAMES = sorted(name for name in EXPECTED.files if not name.startswith("images"))


def logits(path: Path, config: DenseNetConfig | None = None, output: str = "logits") -> np.ndarray:
    """Return the outputs of our network for the recorded images."""
    loaded = checkpoint.read(path, config)
    images = EXPECTED[f"images{loaded.config.channels}"].transpose(0, 2, 3, 1)
    if loaded.metadata.mean and loaded.metadata.std:
        images = ((images - loaded.metadata.mean) / loaded.metadata.std).astype(np.float32)
    size = images.shape[1]
    return onnx_outputs(loaded.arrays, replace(loaded.config, input_size=size), images, output)


@pytest.mark.parametrize("name", NAMES)
def test_outputs_equal_those_of_pytorch(name):
    config = replace(CONFIG, stem="deep") if name == "deep-stem.pth" else None
    if name == "headless.pth":
        features = logits(DATA / name, output="features")
        np.testing.assert_allclose(features, np.maximum(EXPECTED[name], 0), atol=1e-5)
    elif name in ("chexnet.pth.tar", "module-with-head.pth", "module-sequence.pth"):
        np.testing.assert_allclose(1 / (1 + np.exp(-logits(DATA / name))), EXPECTED[name], atol=1e-5)
    else:
        np.testing.assert_allclose(logits(DATA / name, config), EXPECTED[name], rtol=1e-5, atol=1e-5)


def test_a_wrong_reading_would_be_noticed(monkeypatch):
    """The weights that are not averaged, another epsilon, and another stem give other outputs."""
    expected = EXPECTED["timm-training.pth.tar"]
    monkeypatch.setattr("densenet_cli.weights.pytorch.state.STATE_KEYS", ("state_dict", "state_dict_ema"))
    assert np.abs(logits(DATA / "timm-training.pth.tar") - expected).max() > 1e-2
    config = replace(CONFIG, stem="deep-blur")
    assert np.abs(logits(DATA / "deep-stem.pth", config) - EXPECTED["deep-stem.pth"]).max() > 1e-4
    monkeypatch.setattr("densenet_cli.weights.pytorch.names._epsilon", lambda *_: {})
    assert np.abs(logits(DATA / "module-with-head.pth") - EXPECTED["module-with-head.pth"]).max() > 1e-2
    monkeypatch.setattr("densenet_cli.weights.pytorch.names.TORCH_EPSILON", BN_EPSILON + 1e-3)
    assert np.abs(logits(DATA / "zip.pth") - EXPECTED["zip.pth"]).max() > 1e-4


def test_what_was_assumed_is_noted():
    metadata = checkpoint.read(DATA / "timm-training.pth.tar").metadata
    assert metadata.activation is None
    assert "'state_dict_ema'" in metadata.notes[0]
    notes = " ".join(checkpoint.read(DATA / "lightning.ckpt").metadata.notes)
    for name in ("criterion.weight", "metrics.confmat", "perceptual.conv.weight"):
        assert name in notes
    for name in ("module.pth", "module-stream.pth"):
        assert "torchvision.models.densenet.DenseNet" in " ".join(checkpoint.read(DATA / name).metadata.notes)


def test_whole_models_state_their_head_and_pooling():
    config = checkpoint.read(DATA / "module-with-head.pth").config
    assert [layer.kind for layer in config.head] == ["batch_norm", "dense", "leaky_relu", "batch_norm", "dense"]
    assert config.head[2].alpha == 0.2 and config.activation == "sigmoid"
    assert checkpoint.read(DATA / "module-with-head.pth").metadata.activation == "sigmoid"
    assert checkpoint.read(DATA / "module-max-pool.pth").config.pooling == "max"
    assert checkpoint.read(DATA / "blurred-stem.pth").config.stem == "deep-blur"
    assert checkpoint.read(DATA / "module-deep-stem.pth").config.stem == "deep"
    assert checkpoint.read(DATA / "module-sequence.pth").metadata.activation == "sigmoid"
    assert checkpoint.read(DATA / "module-parts.pth").config.pooling == "max"


def test_a_batch_norm_of_the_head_without_scale_and_offset():
    """PyTorch's ``affine=False``: gamma is 1, and beta is 0."""
    with torch_files.open_tensors(DATA / "module-with-head.pth") as (tensors, state):
        unused = {f"{norm}.{array}" for norm in HEAD_NORMS for array in ("weight", "bias")}
        assert unused < tensors.keys()
        unscaled = {name: tensor for name, tensor in tensors.items() if name not in unused}
        expected = torch_names.contents(tensors, 1 << 20, classes=state.classes)
        actual = torch_names.contents(unscaled, 1 << 20, classes=state.classes)
        assert actual.metadata.head_error is None and actual.head == expected.head
        assert actual.layers.keys() == expected.layers.keys()
        for name in ("head_1", "head_4"):
            values = {array: stored.read() for array, stored in actual.layers[name].items()}
            np.testing.assert_array_equal(values["gamma"], np.ones_like(values["moving_mean"]))
            np.testing.assert_array_equal(values["beta"], np.zeros_like(values["moving_mean"]))


@pytest.mark.parametrize("missing", [["running_mean", "running_var"], ["running_var"], None, ["other"]], ids=str)
def test_the_backbone_of_a_model_with_an_incomplete_head_can_be_used(missing):
    """A batch norm without statistics (``track_running_stats=False``) uses those of the batch."""
    with torch_files.open_tensors(DATA / "module-with-head.pth") as (tensors, state):
        module = HEAD_NORMS[0]
        changed = {
            name: tensor
            for name, tensor in tensors.items()
            if not (name.startswith(f"{module}.") and (missing is None or name.rpartition(".")[2] in missing))
        }
        if missing == ["other"]:
            changed[f"{module}.weight_g"] = tensors[f"{module}.weight"]
        contents = torch_names.contents(changed, 1 << 20, classes=state.classes)
    assert repr(module) in contents.metadata.head_error
    assert "predictions" not in contents.layers and "bn" in contents.layers


@pytest.mark.parametrize(
    ("name", "module", "class_name", "is_supported"),
    [
        ("module-parts.pth", "module.1", None, False),
        ("module-parts.pth", "module.1", "Tanh", False),
        ("module-parts.pth", "module.3", "PReLU", False),
        ("module-parts.pth", "module.3", "AlphaDropout", True),
        ("module-sequence.pth", "1", "Hardtanh", False),
    ],
)
def test_modules_after_the_network_in_a_sequence(name, module, class_name, is_supported):
    with torch_files.open_tensors(DATA / name) as (tensors, state):
        assert module in state.classes
        classes = {key: value for key, value in state.classes.items() if key != module or class_name}
        if class_name:
            classes[module] = ModuleClass(class_name, {})
        assert (torch_names.contents(tensors, 1 << 20, classes=classes).metadata.head_error is None) == is_supported


def test_config_json_must_not_contradict_a_whole_model(tmp_path):
    shutil.copy(DATA / "module-deep-stem.pth", tmp_path / "model.pth")
    for name, is_valid in (("densenet264d", True), ("densenetblur121d", False)):
        configuration = {"architecture": name, "model_args": {"block_config": [1, 2]}, "num_classes": 3}
        (tmp_path / "config.json").write_text(json.dumps(configuration))
        if is_valid:
            assert checkpoint.read(tmp_path / "model.pth").config.stem == "deep"
        else:
            assert "deep-blur" in error_message(tmp_path / "model.pth")


def test_config_json_must_not_contradict_the_activation_of_a_whole_model(tmp_path):
    shutil.copy(DATA / "module-sequence.pth", tmp_path / "model.pth")
    configuration = {"architecture": "densenet121", "model_args": {"block_config": [1, 2]}, "num_classes": 3}
    for problem in (None, "multi_label_classification"):
        (tmp_path / "config.json").write_text(json.dumps({**configuration, "problem_type": problem}))
        assert checkpoint.read(tmp_path / "model.pth").config.activation == "sigmoid"
    configuration["problem_type"] = "single_label_classification"
    (tmp_path / "config.json").write_text(json.dumps(configuration))
    message = error_message(tmp_path / "model.pth")
    assert "softmax" in message and "sigmoid" in message


def test_a_wrong_normalization_would_be_noticed(monkeypatch):
    monkeypatch.setattr("densenet_cli.weights.pytorch.other_arrays.Normalization", lambda *_, **__: NO_NORMALIZATION)
    assert np.abs(logits(DATA / "normalized.pth") - EXPECTED["normalized.pth"]).max() > 1e-2


@pytest.mark.parametrize(
    ("module", "change"),
    [
        ("pool0", ModuleClass("Identity", {})),
        ("pool0", {"ceil_mode": True}),
        ("pool0", None),
        ("conv0", {"stride": (1, 1)}),
        ("conv0", {"padding": (0, 0)}),
        ("relu0", ModuleClass("LeakyReLU", {})),
        ("transition1.pool", ModuleClass("MaxPool2d", {})),
        ("denseblock2.denselayer2.conv2", {"dilation": (2, 2)}),
        ("extra", ModuleClass("Tanh", {})),
    ],
)
def test_modules_that_were_changed_are_refused(module, change):
    """Changes that leave all arrays as they are."""
    with torch_files.open_tensors(DATA / "module.pth") as (tensors, state):
        torch_names.contents(tensors, 1 << 20, classes=state.classes)
        name = f"features.{module}"
        classes = {key: value for key, value in state.classes.items() if key != name}
        if isinstance(change, dict):
            options = state.classes[name].options
            assert options.keys() >= change.keys()
            change = ModuleClass(state.classes[name].name, {**options, **change})
        if change:
            classes[name] = change
        with pytest.raises(CheckpointError, match=module):
            torch_names.contents(tensors, 1 << 20, classes=classes)


@pytest.mark.parametrize(
    ("name", "fact"),
    [
        ("refused-head.pth", "Hardswish"),
        ("refused-volumes.pt", "(7, 7, 7)"),
        ("refused-torchscript.pt", "TorchScript"),
        ("refused-optimizer.pth", "optimizer"),
        ("refused-other.pth", "'0.weight'"),
        ("refused-two-layers.pth", "'classifier.0', 'classifier.2'"),
    ],
)
def test_other_files_are_rejected_with_the_reason(name, fact):
    assert fact in error_message(DATA / name)


@pytest.mark.parametrize("member", ["x/archive_format", "serialized_exported_program.json"])
def test_exported_programs_are_rejected(tmp_path, member):
    with zipfile.ZipFile(tmp_path / "x.pt2", "w") as archive:
        for name in ("x/data/weights/weight_0", "x/models/model.json", member):
            archive.writestr(name, "pt2")
    assert "torch.export" in error_message(tmp_path / "x.pt2")


@pytest.mark.parametrize("name", NAMES)
def test_the_name_of_the_file_is_irrelevant(tmp_path, name):
    shutil.copy(DATA / name, tmp_path / "model.h5")
    config = replace(CONFIG, stem="deep") if name == "deep-stem.pth" else None
    assert (
        checkpoint.read(tmp_path / "model.h5", config).arrays.keys()
        == checkpoint.read(DATA / name, config).arrays.keys()
    )


def test_recorded_and_written_files_have_the_same_operations():
    """The writer of these tests writes what PyTorch writes, apart from the memo."""
    import pickletools
    import zipfile

    recorded = zipfile.ZipFile(DATA / "zip.pth").read("zip/data.pkl")
    stream = (DATA / "torchvision-old-names.pth").read_bytes()
    names = {argument for _, argument, _ in pickletools.genops(recorded) if isinstance(argument, str)}
    assert {"collections OrderedDict", "torch._utils _rebuild_tensor_v2", "torch FloatStorage", "storage"} <= names
    assert stream.startswith(checkpoint.TORCH_STREAM_HEADS[0])


@pytest.fixture(scope="module")
def arrays():
    return unscaled_arrays(CONFIG)


WRITERS = {"archive": writer.write_archive, "stream": writer.write_stream}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
@pytest.mark.parametrize("options", [{"protocol": 1}, {"protocol": 2}, {"protocol": 4}, {"python2": True}], ids=str)
def test_arrays_round_trip(tmp_path, arrays, write, options):
    state = writer.state_dict(arrays, CONFIG, device="cuda:1")
    write(tmp_path / "x.pth", state, **options)
    loaded = checkpoint.read(tmp_path / "x.pth")
    assert loaded.config == CONFIG
    assert_close(loaded.arrays, arrays)


def assert_close(actual, expected):
    assert support.shapes_of(actual) == support.shapes_of(expected)
    for layer, layer_arrays in expected.items():
        for name, values in layer_arrays.items():
            assert actual[layer][name].dtype == np.float32
            epsilon = BN_EPSILON if name == "moving_variance" else 0
            np.testing.assert_allclose(actual[layer][name] + epsilon, values + epsilon, rtol=1e-6)


def test_big_endian_archive(tmp_path, arrays):
    writer.write_archive(tmp_path / "x.pth", writer.state_dict(arrays, CONFIG), byte_order="big")
    assert_close(checkpoint.read(tmp_path / "x.pth").arrays, arrays)


def test_archive_larger_than_the_limit_of_keras_archives(tmp_path, arrays):
    """The directory has more than 256 kB, as in files with an optimizer."""
    others = [writer.tensor(np.zeros(1, np.float32)) for _ in range(4000)]
    writer.write_archive(
        tmp_path / "pytorch_model.bin", {"state_dict": writer.state_dict(arrays, CONFIG), "others": others}
    )
    assert_close(checkpoint.read(tmp_path / "pytorch_model.bin").arrays, arrays)


def state_with(arrays, name: str, tensor) -> dict:
    return {**writer.state_dict(arrays, CONFIG), name: tensor}


MATRIX = np.arange(3 * 9, dtype=np.float32).reshape(3, 9)


def test_views_are_read_as_pytorch_reads_them(tmp_path, arrays):
    features = arrays["predictions"]["kernel"].shape[0]
    values = np.random.default_rng(0).normal(0, 1, (3, features)).astype(np.float32)
    padded = np.zeros((5, 2 * features + 7), np.float32)
    padded[1:4, 3 : 3 + 2 * features : 2] = values
    storage = writer.Storage(padded.reshape(-1))
    width = padded.shape[1]
    state = state_with(arrays, "classifier.weight", writer.view(storage, width + 3, values.shape, (width, 2)))
    for write in WRITERS.values():
        write(tmp_path / "x.pth", state)
        np.testing.assert_array_equal(checkpoint.read(tmp_path / "x.pth").arrays["predictions"]["kernel"], values.T)


def test_functions_of_older_and_newer_versions(tmp_path, arrays):
    kernel = np.ascontiguousarray(arrays["predictions"]["kernel"].T)
    arguments = writer.view_arguments(writer.Storage(kernel.reshape(-1)), 0, kernel.shape, (kernel.shape[1], 1))
    function = writer.named("torch._utils", "_rebuild_tensor_v2")
    type_ = writer.named("my.package", "Subclass")
    for tensor in (
        writer.Call("torch._utils", "_rebuild_tensor", *arguments[:4]),
        writer.Call("torch._tensor", "_rebuild_from_type_v2", function, type_, arguments, {"attribute": 1}),
        writer.Call("torch._utils", "_rebuild_parameter", writer.tensor(kernel), True, {}),
        writer.Call("torch._utils", "_rebuild_parameter_with_state", writer.tensor(kernel), True, {}, {"a": 1}),
    ):
        writer.write_archive(tmp_path / "x.pth", state_with(arrays, "classifier.weight", tensor))
        np.testing.assert_array_equal(checkpoint.read(tmp_path / "x.pth").arrays["predictions"]["kernel"], kernel.T)
    unknown = writer.Call("torch._utils", "_rebuild_qtensor", *arguments)
    writer.write_archive(tmp_path / "x.pth", state_with(arrays, "classifier.weight", unknown))
    assert "_rebuild_qtensor" in error_message(tmp_path / "x.pth")
    quantized_layer = state_with(arrays, "classifier._packed_params._packed_params", (unknown, None))
    del quantized_layer["classifier.weight"], quantized_layer["classifier.bias"]
    writer.write_archive(tmp_path / "x.pth", quantized_layer)
    assert "_rebuild_qtensor" in error_message(tmp_path / "x.pth")


def test_views_of_storages_in_streams_of_old_versions(tmp_path, arrays):
    kernel = np.ascontiguousarray(arrays["predictions"]["kernel"].T)
    values = np.concatenate([np.full(5, 9, np.float32), kernel.reshape(-1), np.full(4, 9, np.float32)])
    for start, size, is_valid in ((5, kernel.size, True), (5, kernel.size - 1, False), (5, values.size, False)):
        storage = writer.Storage(values, view=(start, size))
        state = state_with(arrays, "classifier.weight", writer.view(storage, 0, kernel.shape, (kernel.shape[1], 1)))
        writer.write_stream(tmp_path / "x.pth", state)
        if is_valid:
            np.testing.assert_array_equal(checkpoint.read(tmp_path / "x.pth").arrays["predictions"]["kernel"], kernel.T)
        else:
            assert "damaged" in error_message(tmp_path / "x.pth")


@pytest.mark.parametrize(
    ("offset", "shape", "strides"),
    [
        (0, (3, 9), (9, 2)),
        (1, (3, 9), (9, 1)),
        (0, (3, 9), (1 << 40, 1)),
        (1 << 62, (3, 9), (9, 1)),
        (-1, (3, 9), (9, 1)),
        (26, (3, 9), (-9, 1)),
        (0, (-3, -9), (9, 1)),
        (0, (3, 9), (9,)),
        (0, (3, 9.0), (9, 1)),
        (0, (3, True), (9, 1)),
        (0, (1,) * 9, (1,) * 9),
        (0, (1 << 70, 1), (0, 0)),
    ],
)
@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_view_outside_its_storage_is_rejected(tmp_path, arrays, write, offset, shape, strides):
    storage = writer.Storage(MATRIX.reshape(-1))
    write(tmp_path / "x.pth", state_with(arrays, "classifier.weight", writer.view(storage, offset, shape, strides)))
    assert "damaged" in error_message(tmp_path / "x.pth")


def test_view_that_repeats_a_value_billions_of_times_is_rejected(tmp_path, arrays):
    storage = writer.Storage(MATRIX.reshape(-1))
    state = state_with(arrays, "classifier.weight", writer.view(storage, 0, (1 << 20, 1 << 20), (0, 0)))
    writer.write_archive(tmp_path / "x.pth", state)
    assert "more than it contains" in error_message(tmp_path / "x.pth")


def test_many_views_of_one_large_storage_are_rejected(tmp_path, arrays):
    storage = writer.Storage(np.zeros(200_000, np.float32))
    state = writer.state_dict(arrays, CONFIG)
    state.update({f"x{number}": writer.view(storage, 0, (2,), (199_999,)) for number in range(100)})
    writer.write_archive(tmp_path / "x.pth", state)
    assert "views of" in error_message(tmp_path / "x.pth")


def test_archive_with_two_roots_or_without_a_storage(tmp_path, arrays):
    path = tmp_path / "x.pth"
    writer.write_archive(path, writer.state_dict(arrays, CONFIG))
    members = read_members(path)
    write_zip(path, {**members, "other/data.pkl": members["archive/data.pkl"]})
    assert "one folder" in error_message(path)
    del members["archive/data/3"]
    write_zip(path, members)
    assert "storage '3' is missing" in error_message(path)
    with pytest.warns(UserWarning):
        write_zip(path, {**members, "archive/data/3": b"1234"}, twice="archive/data/3")
    assert "one folder" in error_message(path)


def test_compressed_archive_is_rejected(tmp_path, arrays):
    import zipfile

    path = tmp_path / "x.pth"
    writer.write_archive(path, writer.state_dict(arrays, CONFIG))
    write_zip(path, read_members(path), compression=zipfile.ZIP_DEFLATED)
    assert "compressed" in error_message(path)
    write_zip(path, {"archive/data.pkl": bytes(200 << 20)}, compression=zipfile.ZIP_DEFLATED)
    error_message(path)


def test_archive_without_checksums(tmp_path, arrays):
    path = tmp_path / "x.pth"
    writer.write_archive(path, writer.state_dict(arrays, CONFIG))
    path.write_bytes(writer.without_checksums(path.read_bytes()))
    assert_close(checkpoint.read(path).arrays, arrays)


def test_changed_byte_is_noticed_in_an_archive(tmp_path, arrays):
    path = tmp_path / "x.pth"
    writer.write_archive(path, writer.state_dict(arrays, CONFIG))
    data = bytearray(path.read_bytes())
    kernel = arrays["conv1_conv"]["kernel"].transpose(3, 2, 0, 1)
    position = data.index(np.ascontiguousarray(kernel).tobytes())
    data[position] ^= 1
    path.write_bytes(data)
    assert "checksum" in error_message(path)


def read_members(path: Path) -> dict[str, bytes]:
    import zipfile

    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write_zip(path: Path, members: dict[str, bytes], compression: int = 0, twice: str | None = None) -> None:
    import zipfile

    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
        if twice:
            archive.writestr(twice, b"")


def test_storage_with_another_size_in_a_stream_is_rejected(tmp_path, arrays):
    path = tmp_path / "x.pth"
    writer.write_stream(path, writer.state_dict(arrays, CONFIG))
    data = path.read_bytes()
    kernel = np.ascontiguousarray(arrays["conv1_conv"]["kernel"].transpose(3, 2, 0, 1))
    position = data.index(kernel.tobytes()) - 8
    for size in (kernel.size - 1, -1, 1 << 61):
        path.write_bytes(data[:position] + size.to_bytes(8, "little", signed=True) + data[position + 8 :])
        assert f"items, expected {kernel.size}" in error_message(path)


def test_model_of_torchxrayvision_is_rejected(tmp_path, arrays):
    module = {"_parameters": writer.state_dict(arrays, CONFIG), "_buffers": {}, "_modules": {}}
    model = writer.Call("torchxrayvision.models", "DenseNet", state=module)
    for value in (
        model,
        {"model": model},
        writer.Call("torch.nn", "DataParallel", state={"_modules": {"module": model}}),
    ):
        writer.write_archive(tmp_path / "x.pt", value)
        assert "-1024 to 1024" in error_message(tmp_path / "x.pt")


def test_model_that_contains_itself_is_rejected(tmp_path):
    for name in ("Sequential", "DataParallel"):
        modules: dict = {}
        model = writer.Call("torch.nn", name, state={"_modules": modules})
        modules["0"] = modules["module"] = model
        writer.write_archive(tmp_path / "x.pt", model)
        assert "too many modules" in error_message(tmp_path / "x.pt")


@pytest.mark.parametrize(
    ("content", "fact"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 32342954\n", "Git LFS pointer"),
        (b"\n<!DOCTYPE html>\n<html>", "web page"),
        (b"<HTML><head>", "web page"),
        (bytes(257) + b"ustar" + bytes(300), "tar archive"),
        (b"\x80\x02K\x01.", "not a file of torch.save"),
    ],
)
def test_other_kinds_of_files_are_named(tmp_path, content, fact):
    (tmp_path / "densenet121.pth").write_bytes(content)
    assert fact in error_message(tmp_path / "densenet121.pth")


ONE = writer.Call("torch.nn", "Linear", state={"_modules": {}, "_parameters": {"weight": writer.tensor(MATRIX)}})
LINEAR = writer.Call("torch.nn", "Linear", state={"_modules": {}, "_parameters": {"bias": writer.tensor(MATRIX[0])}})
FLAT = writer.Call("torch.nn", "Linear", state={"_modules": {}, "_parameters": {"weight": writer.tensor(MATRIX[0])}})
HOSTILE_CLASSES = [
    {"fc": writer.Call("torch.nn", "Sequential", state={"_modules": {"0": LINEAR, "1": ONE}})},
    {"fc": writer.Call("torch.nn", "Sequential", state={"_modules": {"0": FLAT, "1": ONE}})},
    {"fc": writer.Call("torch.nn", "Sequential", state={"_modules": {"0": ONE, "1": ONE}})},
    {"classifier": writer.Call("torch.nn", "Sequential", state={"_modules": {}})},
    {"classifier": writer.Call("builtins", "eval", "1", state={"_modules": {}, "_parameters": {"weight": 5}})},
    {
        "global_pool": writer.Call(
            "timm.layers", "SelectAdaptivePool2d", state={"_modules": {}, "pool_type": "catavgmax"}
        )
    },
    {"global_pool": writer.Call("timm.layers", "SelectAdaptivePool2d", state={"_modules": {}, "pool_type": ["avg"]})},
]


def test_other_activation_in_the_backbone_of_a_whole_model(tmp_path, arrays):
    relu = writer.Call("torch.nn.modules.activation", "SiLU", state={"_modules": {}})
    features = writer.Call("torch.nn", "Sequential", state={"_modules": {"relu0": relu}})
    model = {"_modules": {"features": features}, "_parameters": writer.state_dict(arrays, CONFIG)}
    writer.write_archive(tmp_path / "x.pt", writer.Call("torchvision.models.densenet", "DenseNet", state=model))
    assert "'features.relu0' of class 'SiLU'" in error_message(tmp_path / "x.pt")


def test_long_names_are_rejected(tmp_path, arrays):
    name = "a." * 200_000
    state = {name + key: value for key, value in writer.state_dict(arrays, CONFIG).items()}
    writer.write_archive(tmp_path / "x.pt", {"b.weight": writer.tensor(MATRIX), **state})
    assert "1,000 characters" in error_message(tmp_path / "x.pt")
    child = writer.Call("torch.nn", "Linear", state={"_modules": {}})
    modules = {name: writer.Call("torch.nn", "Linear", state={"_modules": {str(n): child for n in range(10_000)}})}
    writer.write_archive(tmp_path / "x.pt", writer.Call("torch.nn", "Sequential", state={"_modules": modules}))
    assert "1,000 characters" in error_message(tmp_path / "x.pt")


@pytest.mark.parametrize("modules", HOSTILE_CLASSES, ids=range(len(HOSTILE_CLASSES)))
def test_invalid_modules(tmp_path, arrays, modules):
    state = writer.state_dict(arrays, CONFIG)
    if "fc" in modules:
        del state["classifier.weight"], state["classifier.bias"]
    model = {"_modules": {**modules}, "_parameters": state, "_buffers": {}}
    writer.write_archive(tmp_path / "x.pt", writer.Call("torchvision.models.densenet", "DenseNet", state=model))
    error_message(tmp_path / "x.pt")


def test_unknown_storage_types(tmp_path, arrays):
    unknown = writer.Storage(np.zeros(3, np.float32), "QUInt4x2Storage")
    state = {"state_dict": writer.state_dict(arrays, CONFIG), "other": writer.view(unknown, 0, (3,), (1,))}
    writer.write_archive(tmp_path / "x.pth", state)
    assert_close(checkpoint.read(tmp_path / "x.pth").arrays, arrays)
    state["state_dict"]["classifier.bias"] = state["other"]
    writer.write_archive(tmp_path / "x.pth", state)
    assert "QUInt4x2Storage" in error_message(tmp_path / "x.pth")


def test_only_listed_functions_are_implemented():
    """A new function must not do more than describe an array."""
    assert set(torch_files.FUNCTIONS) == {
        "torch.Size",
        "torch._tensor._rebuild_from_type_v2",
        "torch._utils._rebuild_parameter",
        "torch._utils._rebuild_parameter_with_state",
        "torch._utils._rebuild_tensor",
        "torch._utils._rebuild_tensor_v2",
    }
