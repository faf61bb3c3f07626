"""Damaged and malicious checkpoints: a clear error, little memory, and no code run."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import sys
import zipfile

import h5py
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from densenet_cli.errors import CheckpointError
from densenet_cli.weights import checkpoint, safetensors, zip_archives
from densenet_cli.weights.keras import hdf5
from densenet_cli.weights.pytorch import files as torch_files
from tests.support import checkpoints as support
from tests.support.networks import unscaled_arrays
from tests.weights.fuzz_checkpoints import CONFIG, LAYOUTS, RECORDED, run_in_process


@pytest.fixture(scope="module")
def arrays():
    return unscaled_arrays(CONFIG)


@pytest.fixture
def legacy(tmp_path, arrays):
    path = tmp_path / "x.h5"
    support.write_legacy_h5(path, arrays, CONFIG)
    return path


def error_message(path) -> str:
    """Return the message of the error that reading ``path`` raises: one line with the path."""
    with pytest.raises(CheckpointError) as caught:
        checkpoint.read(path)
    message = str(caught.value)
    assert str(path) in message and "\n" not in message and message.endswith(".")
    return message


def replace_dataset(path, make) -> None:
    """Replace the kernel of the stem, (7, 7, 3, 4), by what ``make`` creates."""
    with h5py.File(path, "a") as file:
        kernel = file["conv1/conv/conv1/conv/kernel:0"][()]
        group = file["conv1/conv/conv1/conv"]
        del group["kernel:0"]
        make(group, kernel)


def soft_link(group, kernel):
    group.file["elsewhere"] = kernel
    group["kernel:0"] = h5py.SoftLink("/elsewhere")


def external_link(group, kernel):
    with h5py.File(group.file.filename + ".other", "w") as other:
        other["kernel"] = kernel
    group["kernel:0"] = h5py.ExternalLink(group.file.filename + ".other", "/kernel")


def external_storage(group, kernel):
    path = group.file.filename + ".raw"
    kernel.tofile(path)
    group.create_dataset("kernel:0", kernel.shape, np.float32, external=[(path, 0, kernel.nbytes)])


def virtual_dataset(group, kernel):
    group.file["elsewhere"] = kernel
    layout = h5py.VirtualLayout(kernel.shape, np.float32)
    layout[...] = h5py.VirtualSource(group.file["elsewhere"])
    group.create_virtual_dataset("kernel:0", layout)


def compressed(group, kernel):
    group.create_dataset("kernel:0", data=kernel, compression="gzip")


def never_written(group, kernel):
    group.create_dataset("kernel:0", kernel.shape, np.float32)


def huge_and_unallocated(group, kernel):
    group.create_dataset("kernel:0", (7, 7, 3, 1 << 40), np.float32, chunks=(7, 7, 3, 1024))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (soft_link, "conv1/conv/conv1/conv/kernel:0 is a soft or external link"),
        (external_link, "conv1/conv/conv1/conv/kernel:0 is a soft or external link"),
        (external_storage, "one uncompressed block"),
        (virtual_dataset, "one uncompressed block"),
        (compressed, "one uncompressed block"),
        (never_written, "one uncompressed block"),
        (huge_and_unallocated, "one uncompressed block"),
    ],
)
def test_only_contiguous_datasets_of_the_file_itself_are_read(legacy, make, message):
    replace_dataset(legacy, make)
    assert message in error_message(legacy)


def test_group_that_contains_itself(legacy):
    with h5py.File(legacy, "a") as file:
        for number in range(40):
            file["conv1"][f"again{number}"] = file["conv1"]
    message = error_message(legacy)
    assert "50,000 groups and datasets" in message or "levels deep" in message


def test_many_links_to_one_dataset(legacy, arrays):
    with h5py.File(legacy, "a") as file:
        head = file["fc1000/fc1000"]
        big = file.create_dataset("big", data=np.zeros(2_000_000, np.float32))
        for number in range(1000):
            head[f"more{number}"] = big
    assert "arrays of 8,000" in error_message(legacy)


@pytest.fixture
def numbered(tmp_path, arrays):
    path = tmp_path / "x.weights.h5"
    support.write_numbered_h5(path, arrays, CONFIG)
    return path


def test_layer_name_with_a_declared_length_of_gigabytes(numbered):
    data = numbered.read_bytes()
    heap = data.index(b"GCOL")
    name = b"conv1_conv"
    # HDF5 refers to a string by its length, the address of the heap, and the index of the object.
    reference = next(at for at in range(len(data) - 16) if data[at : at + 12] == struct.pack("<IQ", len(name), heap))
    broken = data[:reference] + struct.pack("<I", 0xFFFFFFF0) + data[reference + 4 :]
    numbered.write_bytes(broken)
    assert "a string of 4,294,967,280 bytes" in error_message(numbered)


def test_heap_without_an_end(numbered):
    data = bytearray(numbered.read_bytes())
    first = data.index(b"GCOL") + 16
    data[first : first + 32] = bytes(32)
    numbered.write_bytes(data)
    assert "a string is missing in the global heap" in error_message(numbered)


def test_layer_names_equal_those_that_h5py_reads(numbered):
    data = numbered.read_bytes()
    with h5py.File(numbered) as file:
        for group in file["layers"].values():
            address = h5py.h5o.get_info(group["vars"].id).addr
            assert hdf5.read_string_attribute(data, address, "name") == group["vars"].attrs["name"]


@pytest.mark.parametrize("value", [np.bytes_("é plain".encode()), "variable é", "x" * 1000])
def test_fixed_and_variable_length_strings(tmp_path, value):
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        group = file.create_group("group")
        for number in range(20):
            group.attrs[f"number{number}"] = np.arange(number)
        group.attrs["name"] = value
        address = h5py.h5o.get_info(group.id).addr
    expected = value.decode() if isinstance(value, bytes) else value
    assert hdf5.read_string_attribute(path.read_bytes(), address, "name") == expected
    with pytest.raises(ValueError, match="is not a string"):
        hdf5.read_string_attribute(path.read_bytes(), address, "number3")
    with pytest.raises(ValueError, match="not found"):
        hdf5.read_string_attribute(path.read_bytes(), address, "nam")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("layout", sorted(LAYOUTS.keys() - RECORDED.keys()))
def test_nonfinite_values_are_rejected(tmp_path, arrays, layout, value):
    broken = {name: dict(layer_arrays) for name, layer_arrays in arrays.items()}
    broken["bn"]["beta"] = np.where(np.arange(broken["bn"]["beta"].size) == 1, value, broken["bn"]["beta"])
    path = tmp_path / "x"
    if layout == "ours":
        support.write_torchvision(path, broken, CONFIG)
    else:
        LAYOUTS[layout](path, broken)
    assert "Layer bn: beta contains NaN or infinite values" in error_message(path)


def test_negative_variance_is_rejected(tmp_path, arrays):
    broken = {**arrays, "bn": {**arrays["bn"], "moving_variance": -arrays["bn"]["moving_variance"]}}
    path = tmp_path / "x.h5"
    support.write_legacy_h5(path, broken, CONFIG)
    assert "Layer bn: moving_variance" in error_message(path)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_truncated_file_is_rejected(tmp_path, arrays, layout):
    path = tmp_path / "x"
    LAYOUTS[layout](path, arrays)
    data = path.read_bytes()
    for share in (0.0005, 0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99, 0.9999):
        path.write_bytes(data[: int(len(data) * share)])
        error_message(path)
    path.write_bytes(data[:-1])
    error_message(path)


class Malicious:
    """Creates a folder when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickle_is_never_run(tmp_path, protocol):
    path = tmp_path / "densenet121.pth"
    data = pickle.dumps(
        {"state_dict": Malicious(tmp_path / "harm"), "optimizer": Malicious(tmp_path / "harm")}, protocol
    )
    path.write_bytes(data)
    error_message(path)
    magic = [pickle.dumps(value, 2) for value in (torch_files.MAGIC_NUMBER, torch_files.STREAM_VERSION, {})]
    path.write_bytes(b"".join(magic) + data + pickle.dumps([], 2))
    assert "an optimizer but no model" in error_message(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", data)
    assert "an optimizer but no model" in error_message(path)
    assert not (tmp_path / "harm").exists()


def test_code_in_an_archive_is_never_run(tmp_path, arrays):
    path = tmp_path / "x.keras"
    code = {"class_name": "Lambda", "config": {"function": "__import__('os').mkdir('harm')"}, "module": "os"}
    layers = {"class_name": "Sequential", "config": {"name": "model", "layers": [code]}}
    for configuration in (None, code, layers):
        text = configuration and json.dumps(configuration)
        support.write_keras_archive(path, arrays, CONFIG, configuration=text)
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr("../outside.py", "raise SystemExit")
            archive.writestr("data.pkl", pickle.dumps(Malicious(tmp_path / "harm")))
        if configuration:
            assert "Lambda" in error_message(path)
        else:
            support.assert_same(checkpoint.read(path).arrays, arrays, CONFIG)
        assert [entry.name for entry in tmp_path.iterdir()] == ["x.keras"]


def test_zip_bomb_is_rejected(tmp_path):
    path = tmp_path / "x.keras"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(zip_archives.KERAS_WEIGHTS, bytes(100 << 20))
    assert "104,857,600 bytes" in error_message(path)


def test_archive_with_a_wrong_size_is_rejected(tmp_path, arrays):
    path = tmp_path / "x.keras"
    support.write_keras_archive(path, arrays, CONFIG, compression=zipfile.ZIP_DEFLATED)
    with zipfile.ZipFile(path) as archive:
        size = archive.getinfo(zip_archives.KERAS_WEIGHTS).file_size
    data = path.read_bytes()
    for declared in (100, size - 1, size + 1):
        path.write_bytes(data.replace(struct.pack("<I", size), struct.pack("<I", declared)))
        error_message(path)


def test_archive_with_a_huge_directory_is_rejected(tmp_path):
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for number in range(6000):
            archive.writestr(f"{number}", b"")
    path = tmp_path / "x.keras"
    path.write_bytes(data.getvalue())
    assert "directory of the zip archive" in error_message(path)


def test_archive_without_weights_is_rejected(tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, a=np.zeros(3))
    assert "model.weights.h5" in error_message(path)


def header(text: bytes, size: int | None = None) -> bytes:
    return struct.pack("<Q", len(text) if size is None else size) + text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (header(b"{}", 1 << 62), "header declares"),
        (header(b"{}", 90 << 20), "header declares"),
        (header(b'{"a":' + b"[" * 100_000), "damaged or truncated"),
        (header(b"{}", 5), "damaged or truncated"),
        (
            header(b'{"classifier.bias":{"dtype":"F32","shape":[4611686018427387904],"data_offsets":[0,4]}}') + b"1234",
            "",
        ),
        (header(b'{"classifier.bias":{"dtype":"F32","shape":[1],"data_offsets":[0,9999999]}}') + b"1234", ""),
        (header(b'{"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}') + b"1234", "torchvision"),
        (header(b"{}"), "contains no layers"),
    ],
)
def test_malicious_safetensors_header_is_rejected(tmp_path, content, message):
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    assert message in error_message(path)


VALID_METADATA = {
    "labels": None,
    "preprocess": None,
    "input_size": None,
    "bn_epsilon": 1e-5,
    "training": {},
    "accuracy": {},
}


@pytest.mark.parametrize(
    "change",
    [
        {"config": None},
        {"config": {**CONFIG.to_dict(), "blocks": [10**9]}},
        {"config": {**CONFIG.to_dict(), "growth_rate": 10**9}},
        {"config": {**CONFIG.to_dict(), "growth_rate": 1e400}},
        {"config": {**CONFIG.to_dict(), "classes": "five"}},
        {"config": {**CONFIG.to_dict(), "stem": ["imagenet"]}},
        {"config": {**CONFIG.to_dict(), "compression": float("nan")}},
        {"config": {**CONFIG.to_dict(), "input_size": 10**12}},
        {"config": {**CONFIG.to_dict(), "input_size": 2.5}},
        {"config": {**CONFIG.to_dict(), "surplus": 1}},
        {"config": {**CONFIG.to_dict(), "channels": 2}},
        {"config": {**CONFIG.to_dict(), "channels": 3.0}},
        {"config": {**CONFIG.to_dict(), "channels": True}},
        {"config": {**CONFIG.to_dict(), "pooling": "sum"}},
        {"config": {**CONFIG.to_dict(), "pooling": ["avg"]}},
        {"config": {**CONFIG.to_dict(), "activation": "relu"}},
        {"config": {**CONFIG.to_dict(), "activation": None}},
        {"config": {**CONFIG.to_dict(), "resize": [64.5, "bilinear"]}},
        {"config": {**CONFIG.to_dict(), "resize": [64, "cubic"]}},
        {"config": {**CONFIG.to_dict(), "resize": 5}},
        {"config": {**CONFIG.to_dict(), "head": 5}},
        {"config": {**CONFIG.to_dict(), "head": [5]}},
        {"config": {**CONFIG.to_dict(), "head": [{}]}},
        {"config": {**CONFIG.to_dict(), "head": [{"kind": "dense", "units": 4}]}},
        {"config": {**CONFIG.to_dict(), "head": [{"kind": "dense", "units": 3.0}]}},
        {"config": {**CONFIG.to_dict(), "head": [{"kind": "exec", "units": 3}]}},
        {"config": {**CONFIG.to_dict(), "head": [{"kind": ["dense"], "units": 3}]}},
        {"config": {**CONFIG.to_dict(), "head": [{"kind": "dense", "units": 3, "alpha": "x"}]}},
        {"config": {**CONFIG.to_dict(), "head": [{"kind": "dense", "units": 3, "alpha": float("nan")}]}},
        {"config": {**CONFIG.to_dict(), "head": [{"kind": "dense", "units": 10**9}, {"kind": "dense", "units": 3}]}},
        {"config": {**CONFIG.to_dict(), "head": [{"kind": "dense", "units": 3}] * 1000}},
        {"mean": 0.5},
        {"mean": [0.5, 0.5]},
        {"mean": ["0.5", "0.5", "0.5"]},
        {"mean": [0.5, 0.5, None]},
        {"mean": [0.5, 0.5, float("nan")]},
        {"mean": [0.5]},
        {"std": [0.5, 0.5, 0]},
        {"interpolation": "cubic"},
        {"interpolation": ["bicubic"]},
        {"crop_ratio": 0},
        {"crop_ratio": 1.5},
        {"crop_ratio": "0.9"},
        {"crop_ratio": True},
        {"test_input_size": 10**9},
        {"test_input_size": 288.0},
        {"test_crop_ratio": -1},
        {"labels": 5},
        {"labels": [[0, None, "a"]]},
        {"labels": [[index, None, "\x1b[31mred"] for index in range(CONFIG.classes)]},
        {"labels": [[index, None, "\ud800"] for index in range(CONFIG.classes)]},
        {"labels": [[index, None, ["a"]] for index in range(CONFIG.classes)]},
        {"labels": [[index, 7, "name"] for index in range(CONFIG.classes)]},
        {"labels": [["0", None, "name"] for index in range(CONFIG.classes)]},
        {"labels": [[index, None, None] for index in range(CONFIG.classes)]},
        {"preprocess": ["crop"]},
        {"input_size": 10**9},
        {"input_size": True},
        {"bn_epsilon": "much"},
        {"bn_epsilon": float("nan")},
        {"bn_epsilon": -1},
        {"training": []},
        {"accuracy": "good"},
    ],
)
def test_malicious_metadata_is_rejected(tmp_path, arrays, change):
    path = tmp_path / "x.safetensors"
    safetensors.write(path, arrays, CONFIG)
    metadata = json.dumps({"config": CONFIG.to_dict(), **VALID_METADATA, **change})
    save_file(load_file(path), path, {"densenet": metadata})
    assert "metadata" in error_message(path)


def test_metadata_of_earlier_versions(tmp_path, arrays):
    """They stated neither the head nor the preprocessing, and meant softmax."""
    path = tmp_path / "x.safetensors"
    safetensors.write(path, arrays, CONFIG)
    names = ("blocks", "growth_rate", "stem", "stem_width", "compression", "classes", "input_size")
    config = {name: CONFIG.to_dict()[name] for name in names}
    save_file(load_file(path), path, {"densenet": json.dumps({"config": config, **VALID_METADATA})})
    loaded = checkpoint.read(path)
    assert loaded.config == CONFIG
    assert loaded.metadata.activation == "softmax" and loaded.metadata.interpolation == "bilinear"


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 100_000, "{}", '{"config": {}}'])
def test_malformed_metadata_is_rejected(tmp_path, arrays, text):
    path = tmp_path / "x.safetensors"
    safetensors.write(path, arrays, CONFIG)
    save_file(load_file(path), path, {"densenet": text})
    assert "metadata is malformed" in error_message(path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"PK",
        b"PK\3\4",
        b"\x89HDF\r\n\x1a\n",
        b"\x89HDF\r\n\x1a\n" + b"\xff" * 500,
        b"<html>not found</html>",
        bytes(9),
    ],
)
def test_other_file_is_rejected(tmp_path, content):
    path = tmp_path / "x.h5"
    path.write_bytes(content)
    error_message(path)


def test_missing_irregular_and_huge_files_are_rejected(tmp_path):
    assert "No such file or directory" in error_message(tmp_path / "none.h5")
    assert "not a regular file" in error_message(tmp_path)
    os.mkfifo(tmp_path / "fifo")
    assert "not a regular file" in error_message(tmp_path / "fifo")
    with open(tmp_path / "huge.h5", "wb") as file:
        file.truncate(3 << 30)
    assert "3,221,225,472 bytes" in error_message(tmp_path / "huge.h5")


def test_hdf5_file_without_layers_is_rejected(tmp_path):
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        file["data"] = np.zeros(3)
    assert "does not contain the layers" in error_message(path)
    with h5py.File(path, "a") as file:
        file["layers"] = np.zeros(3)
    assert "layers is not a group" in error_message(path)
    with h5py.File(path, "a") as file:
        file["model_weights"] = np.zeros(3)
    assert "model_weights is not a group" in error_message(path)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_fuzzing(layout):
    """Each damaged file raises an error or, if only values changed, is loaded. See ``fuzz_checkpoints``."""
    report = run_in_process(layout, seed=1, files=200)
    assert report["files"] == 200 and report["rejected"] > 20
    assert report["memory_mb"] < 200 if sys.platform == "linux" else True
