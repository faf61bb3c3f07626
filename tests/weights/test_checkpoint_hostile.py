"""Checkpoints that are damaged or made to do harm: one clear error each, little memory, nothing run."""

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
from densenet_cli.weights import checkpoint, hdf5_attributes, keras_archive, safetensors
from tests.support import checkpoints as support
from tests.support.networks import uncalibrated
from tests.weights.fuzz_checkpoints import CONFIG, LAYOUTS, run_apart


@pytest.fixture(scope="module")
def arrays():
    return uncalibrated(CONFIG)


@pytest.fixture
def legacy(tmp_path, arrays):
    path = tmp_path / "x.h5"
    support.write_legacy_h5(path, arrays, CONFIG)
    return path


def refusal(path) -> str:
    """The message with which ``path`` is refused: one sentence that names the file."""
    with pytest.raises(CheckpointError) as caught:
        checkpoint.read(path)
    message = str(caught.value)
    assert str(path) in message and "\n" not in message and message.endswith(".")
    return message


def replace_dataset(path, make) -> None:
    """Put what ``make(file)`` makes in the place of the stem's kernel, (7, 7, 3, 4)."""
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


def packed(group, kernel):
    group.create_dataset("kernel:0", data=kernel, compression="gzip")


def nothing_written(group, kernel):
    group.create_dataset("kernel:0", kernel.shape, np.float32)


def huge_and_empty(group, kernel):
    group.create_dataset("kernel:0", (7, 7, 3, 1 << 40), np.float32, chunks=(7, 7, 3, 1024))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (soft_link, "conv1/conv/conv1/conv/kernel:0 is a link to elsewhere"),
        (external_link, "conv1/conv/conv1/conv/kernel:0 is a link to elsewhere"),
        (external_storage, "does not lie in the file in one uncompressed piece"),
        (virtual_dataset, "does not lie in the file in one uncompressed piece"),
        (packed, "does not lie in the file in one uncompressed piece"),
        (nothing_written, "does not lie in the file in one uncompressed piece"),
        (huge_and_empty, "does not lie in the file in one uncompressed piece"),
    ],
)
def test_only_what_lies_in_the_file_as_it_is_is_read(legacy, make, message):
    replace_dataset(legacy, make)
    assert message in refusal(legacy)


def test_a_group_that_holds_itself_has_an_end(legacy):
    with h5py.File(legacy, "a") as file:
        for number in range(40):
            file["conv1"][f"again{number}"] = file["conv1"]
    assert "50000 groups and datasets" in refusal(legacy) or "neither a group nor a dataset" in refusal(legacy)


def test_the_same_bytes_under_many_names_cannot_add_up(legacy, arrays):
    with h5py.File(legacy, "a") as file:
        head = file["fc1000/fc1000"]
        big = file.create_dataset("big", data=np.zeros(2_000_000, np.float32))
        for number in range(1000):
            head[f"more{number}"] = big
    assert "arrays of 8000" in refusal(legacy) and "more than lie in it" in refusal(legacy)


@pytest.fixture
def numbered(tmp_path, arrays):
    path = tmp_path / "x.weights.h5"
    support.write_numbered_h5(path, arrays, CONFIG)
    return path


def test_a_name_that_claims_gigabytes_is_refused(numbered):
    data = numbered.read_bytes()
    heap = data.index(b"GCOL")
    name = b"conv1_conv"
    # Length, address of the heap and number of the object: how HDF5 refers to a string.
    reference = next(at for at in range(len(data) - 16) if data[at : at + 12] == struct.pack("<IQ", len(name), heap))
    broken = data[:reference] + struct.pack("<I", 0xFFFFFFF0) + data[reference + 4 :]
    numbered.write_bytes(broken)
    assert "a string does not lie in a heap of the file" in refusal(numbered)


def test_a_heap_without_an_end_is_refused(numbered):
    data = bytearray(numbered.read_bytes())
    first = data.index(b"GCOL") + 16
    data[first : first + 32] = bytes(32)
    numbered.write_bytes(data)
    assert "a string is missing in its heap" in refusal(numbered)


def test_names_are_those_that_h5py_reads(numbered):
    data = numbered.read_bytes()
    with h5py.File(numbered) as file:
        for group in file["layers"].values():
            address = h5py.h5o.get_info(group["vars"].id).addr
            assert hdf5_attributes.string(data, address, "name") == group["vars"].attrs["name"]


@pytest.mark.parametrize("value", [np.bytes_("é plain".encode()), "variable é", "x" * 1000])
def test_strings_of_either_kind_among_other_attributes(tmp_path, value):
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        group = file.create_group("group")
        for number in range(20):
            group.attrs[f"number{number}"] = np.arange(number)
        group.attrs["name"] = value
        address = h5py.h5o.get_info(group.id).addr
    expected = value.decode() if isinstance(value, bytes) else value
    assert hdf5_attributes.string(path.read_bytes(), address, "name") == expected
    with pytest.raises(ValueError, match="is no string"):
        hdf5_attributes.string(path.read_bytes(), address, "number3")
    with pytest.raises(ValueError, match="not where it should be"):
        hdf5_attributes.string(path.read_bytes(), address, "nam")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_values_that_are_not_finite_are_refused(tmp_path, arrays, layout, value):
    broken = {name: dict(held) for name, held in arrays.items()}
    broken["bn"]["beta"] = np.where(np.arange(broken["bn"]["beta"].size) == 1, value, broken["bn"]["beta"])
    path = tmp_path / "x"
    if layout == "ours":
        support.write_torchvision(path, broken, CONFIG)
    else:
        LAYOUTS[layout](path, broken)
    assert "layer bn has beta with values that are not finite" in refusal(path)


def test_a_negative_variance_is_refused(tmp_path, arrays):
    broken = {**arrays, "bn": {**arrays["bn"], "moving_variance": -arrays["bn"]["moving_variance"]}}
    path = tmp_path / "x.h5"
    support.write_legacy_h5(path, broken, CONFIG)
    assert "layer bn has a negative variance" in refusal(path)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_file_cut_short_anywhere_is_refused(tmp_path, arrays, layout):
    path = tmp_path / "x"
    LAYOUTS[layout](path, arrays)
    data = path.read_bytes()
    for share in (0.0005, 0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99, 0.9999):
        path.write_bytes(data[: int(len(data) * share)])
        refusal(path)
    path.write_bytes(data[:-1])
    refusal(path)


class Harm:
    """Unpickled, it makes a folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_is_refused_and_never_run(tmp_path, protocol):
    path = tmp_path / "densenet121.pth"
    path.write_bytes(pickle.dumps(Harm(tmp_path / "harm"), protocol))
    assert "is a pickle" in refusal(path) and "timm" in refusal(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Harm(tmp_path / "harm"), protocol))
    assert "is a pickle" in refusal(path)
    assert not (tmp_path / "harm").exists()


def test_code_in_an_archive_is_never_opened(tmp_path, arrays):
    path = tmp_path / "x.keras"
    code = {"class_name": "Lambda", "config": {"function": "__import__('os').mkdir('harm')"}, "module": "os"}
    support.write_keras_archive(path, arrays, CONFIG, configuration=json.dumps(code))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("../outside.py", "raise SystemExit")
        archive.writestr("data.pkl", pickle.dumps(Harm(tmp_path / "harm")))
    support.assert_same(checkpoint.read(path).arrays, arrays, CONFIG)
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.keras"]


def test_an_archive_that_swells_is_refused(tmp_path):
    path = tmp_path / "x.keras"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(keras_archive.MEMBER, bytes(100 << 20))
    assert "claims 104857600 bytes" in refusal(path)


def test_an_archive_that_lies_about_its_size_is_refused(tmp_path, arrays):
    path = tmp_path / "x.keras"
    support.write_keras_archive(path, arrays, CONFIG, compression=zipfile.ZIP_DEFLATED)
    with zipfile.ZipFile(path) as archive:
        size = archive.getinfo(keras_archive.MEMBER).file_size
    data = path.read_bytes()
    for claimed in (100, size - 1, size + 1):
        path.write_bytes(data.replace(struct.pack("<I", size), struct.pack("<I", claimed)))
        refusal(path)


def test_an_archive_with_a_huge_directory_is_refused(tmp_path):
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for number in range(6000):
            archive.writestr(f"{number}", b"")
    path = tmp_path / "x.keras"
    path.write_bytes(data.getvalue())
    assert "a directory of more than" in refusal(path)


def test_an_archive_of_something_else_is_refused(tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, a=np.zeros(3))
    assert "a zip archive without model.weights.h5" in refusal(path)


def header(text: bytes, size: int | None = None) -> bytes:
    return struct.pack("<Q", len(text) if size is None else size) + text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (header(b"{}", 1 << 62), "header claims"),
        (header(b"{}", 90 << 20), "header claims"),
        (header(b'{"a":' + b"[" * 100_000), "damaged or cut short"),
        (header(b"{}", 5), "damaged or cut short"),
        (
            header(b'{"classifier.bias":{"dtype":"F32","shape":[4611686018427387904],"data_offsets":[0,4]}}') + b"1234",
            "",
        ),
        (header(b'{"classifier.bias":{"dtype":"F32","shape":[1],"data_offsets":[0,9999999]}}') + b"1234", ""),
        (header(b'{"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}') + b"1234", "no array of torchvision"),
        (header(b"{}"), "none of its layers is a DenseNet's (it has none)"),
    ],
)
def test_a_hostile_safetensors_header_is_refused(tmp_path, content, message):
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    assert message in refusal(path)


GOOD = {"labels": None, "preprocess": None, "input_size": None, "bn_epsilon": 1e-5, "training": {}, "accuracy": {}}


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
        {"labels": 5},
        {"labels": [[0, None, "a"]]},
        {"labels": [[index, None, "\x1b[31mred"] for index in range(CONFIG.classes)]},
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
def test_hostile_metadata_are_refused(tmp_path, arrays, change):
    path = tmp_path / "x.safetensors"
    safetensors.write(path, arrays, CONFIG)
    said = json.dumps({"config": CONFIG.to_dict(), **GOOD, **change})
    save_file(load_file(path), path, {"densenet": said})
    assert "metadata" in refusal(path)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 100_000, "{}", '{"config": {}}'])
def test_metadata_that_are_no_metadata_are_refused(tmp_path, arrays, text):
    path = tmp_path / "x.safetensors"
    safetensors.write(path, arrays, CONFIG)
    save_file(load_file(path), path, {"densenet": text})
    assert "its metadata are malformed" in refusal(path)


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
def test_what_is_no_checkpoint_is_refused(tmp_path, content):
    path = tmp_path / "x.h5"
    path.write_bytes(content)
    refusal(path)


def test_what_is_no_file_is_refused_at_once(tmp_path):
    assert "No such file or directory" in refusal(tmp_path / "none.h5")
    assert "it is no file" in refusal(tmp_path)
    os.mkfifo(tmp_path / "fifo")
    assert "it is no file" in refusal(tmp_path / "fifo")
    with open(tmp_path / "huge.h5", "wb") as file:
        file.truncate(3 << 30)
    assert "more than any DenseNet needs" in refusal(tmp_path / "huge.h5")


def test_an_hdf5_file_of_something_else_is_refused(tmp_path):
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        file["data"] = np.zeros(3)
    assert "without a Keras model's layers" in refusal(path)
    with h5py.File(path, "a") as file:
        file["layers"] = np.zeros(3)
    assert "layers is no group" in refusal(path)
    with h5py.File(path, "a") as file:
        file["model_weights"] = np.zeros(3)
    assert "model_weights is no group" in refusal(path)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_few_hundred_damaged_files(layout):
    """Each ends as an error or, where only values were hit, as a checkpoint: see ``fuzz_checkpoints``."""
    report = run_apart(layout, seed=1, files=200)
    assert report["files"] == 200 and report["refused"] > 20
    assert report["memory_mb"] < 200 if sys.platform == "linux" else True
