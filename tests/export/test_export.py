"""``densenet export``, the command: what it refuses, what it says, and that nothing half or wrong is left."""

from __future__ import annotations

import os
import resource
import signal
import stat
import subprocess
import sys

import numpy as np
import onnxruntime
import pytest

from densenet_cli import Classifier
from densenet_cli.engines import keras_ops
from densenet_cli.errors import OutputError, UsageError
from densenet_cli.export import FORMATS, check, export, formats, onnx
from densenet_cli.labels import ClassLabel
from densenet_cli.output import atomic
from densenet_cli.output.destination import Destination
from densenet_cli.weights import safetensors
from densenet_cli.weights.contents import ModelMetadata
from tests.support import command
from tests.support.networks import TINY, random_arrays

LABELS = tuple(ClassLabel(n, None, f"kind {n}") for n in range(10))


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "mine.safetensors"
    safetensors.write(path, random_arrays(TINY, top=0.15), TINY, ModelMetadata(LABELS))
    return path


@pytest.fixture
def place(tmp_path):
    """A folder that holds nothing but what is exported."""
    folder = tmp_path / "place"
    folder.mkdir()
    return folder


def run(*arguments, **settings):
    return command.densenet("export", *arguments, **settings)


def held(folder):
    return sorted(path.name for path in folder.iterdir())


def test_it_says_what_it_wrote_and_how_far_it_is_off(weights, place):
    result = run("--weights", weights, "-o", place / "mine.onnx")
    assert (result.status, result.err) == (0, "")
    name, words = result.out.split(": ", 1)
    assert name == str(place / "mine.onnx")
    assert words == "onnx, 0.0 MB; largest difference of a probability from the model's, on 4 photographs: 0\n"
    assert held(place) == ["mine.onnx"]
    assert onnxruntime.InferenceSession(place / "mine.onnx").get_inputs()[0].shape == ["batch", 3, 32, 32]


def test_a_model_without_labels_is_said_and_has_none(place, tmp_path):
    path = tmp_path / "plain.safetensors"
    safetensors.write(path, random_arrays(TINY, top=0.15), TINY)
    result = run("--weights", path, "-o", place / "plain.onnx")
    assert result.status == 0
    assert result.err == "plain has no labels, so the file names no classes; --labels FILE gives it some.\n"
    said = onnxruntime.InferenceSession(place / "plain.onnx").get_modelmeta().custom_metadata_map
    assert set(said) == {"model", "config", "preprocessing"}
    names = tmp_path / "names.txt"
    names.write_text("".join(f"name {n}\n" for n in range(10)))
    result = run("--weights", path, "--labels", names, "-o", place / "plain.onnx", "--overwrite")
    assert (result.status, result.err) == (0, "")
    said = onnxruntime.InferenceSession(place / "plain.onnx").get_modelmeta().custom_metadata_map
    assert set(said) == {"model", "config", "preprocessing", "labels"}  # labels without ids: none are made up


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-o", "a.onnx", "--format", "keras"], "a.onnx is a name for onnx, but --format says keras"),
        (["-o", "a.h5"], "doesn't tell the format: end it in .onnx, .tflite, .safetensors, .keras, or give --format"),
        (["-o", ".onnx", "--format", "keras"], ".onnx is a name for onnx, but --format says keras"),
        (["-o", "caf\udce9.onnx"], "is not UTF-8, which the tools that open it can't do without"),
        (["-o", "a.safetensors", "--with-preprocessing"], "no preprocessing goes in"),
        (["-o", "there.onnx"], "there.onnx exists; replace it by --overwrite, or name another"),
        (["-o", "folder"], "folder exists; replace it by --overwrite"),
        (["-o", "folder", "--overwrite"], "folder holds more than a SavedModel and is not replaced"),
        (["-o", "folder", "--format", "onnx", "--overwrite"], "folder is a folder and can't be replaced by a file"),
        (["-o", "file", "--overwrite"], "file is a file and can't be replaced by a folder"),
        ([], "Missing option '-o'"),
    ],
)  # fmt: skip
def test_wrong_usage_is_found_before_weights_are_looked_for(place, monkeypatch, arguments, words):
    monkeypatch.chdir(place)
    (place / "there.onnx").write_bytes(b"old")
    (place / "folder").mkdir()
    (place / "folder" / "diary.txt").write_text("dear diary")
    (place / "file").write_text("old")
    result = run("--variant", "121", "--offline", *arguments)  # no weights: that would be status 3
    assert result.status == 2
    assert words in result.err
    assert (place / "there.onnx").read_bytes() == b"old"
    assert held(place) == ["file", "folder", "there.onnx"] and held(place / "folder") == ["diary.txt"]


@pytest.mark.parametrize("name", FORMATS)
def test_a_missing_library_is_named_with_what_to_install(place, monkeypatch, name):
    for module, package in FORMATS[name].needs.items():
        monkeypatch.setattr(formats, "find_spec", lambda asked, gone=module: None if asked == gone else object())
        result = run("--variant", "121", "--offline", "-o", place / "x", "--format", name)
        assert result.status == 2
        assert result.err == f"Error: The format {name} needs one more package: pip install '{package}'.\n"
    assert held(place) == []


def test_the_extra_is_one_of_the_package(tmp_path):
    import tomllib
    from pathlib import Path

    extras = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    packages = {package for row in FORMATS.values() for package in row.needs.values()}
    named = {package.removeprefix("densenet-cli[").removesuffix("]") for package in packages if "[" in package}
    assert named == {"tflite"} <= set(extras["optional-dependencies"])
    installed = " ".join(extras["dependencies"])
    assert all(package in installed for package in packages if "[" not in package)


def test_a_folder_that_cant_be_written(weights, place, monkeypatch):
    result = run("--weights", weights, "-o", place / "gone" / "a.onnx")
    assert (result.status, result.err.count("\n")) == (4, 1)
    assert f"there is no folder {place / 'gone'}" in result.err
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)  # root may write anywhere
    result = run("--weights", weights, "-o", place / "a.onnx")
    assert (result.status, result.err.count("\n")) == (4, 1)
    assert f"the folder {place} is read-only" in result.err


@pytest.mark.parametrize(
    "name",
    ["a.onnx", "a.safetensors", "a.keras", *(pytest.param(name, marks=pytest.mark.slow) for name in ("a.tflite", "a"))],
)
def test_a_full_disk(weights, place, name, keras):
    """As a file that may not grow: the system's own words, nothing left, and what was there stays."""
    if name == "a":
        (place / name).mkdir()  # an empty folder may be replaced
    else:
        (place / name).write_bytes(b"old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    Classifier(weights=weights).predict(check.images()[0])  # its graph is in the cache then
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
        result = run("--weights", weights, "-o", place / name, "--overwrite")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert result.status == 4
    if name == "a.tflite":  # the converter stumbles over its own temporary copy
        assert "couldn't convert the network" in result.err and "room for a copy" in result.err
    else:
        assert result.err == f"Error: {place / name} can't be written: File too large.\n"
    assert held(place) == [name]
    assert held(place / name) == [] if name == "a" else (place / name).read_bytes() == b"old"


def without_a_batch_norm(arrays):
    """The same network with one batch norm that lets everything pass as it is."""
    kept = {name: np.zeros_like(values) for name, values in arrays["bn"].items()}
    kept["gamma"] += 1
    kept["moving_variance"] += 1
    return {**arrays, "bn": kept}


def assert_refused(result, place):
    assert result.status == 4
    assert "differ from the model's by up to" in result.err and "so it was not kept" in result.err
    assert (result.out, result.err.count("\n"), held(place)) == ("", 1, [])


def test_a_wrong_onnx_file_is_noticed(weights, place, monkeypatch):
    right = onnx.emit
    monkeypatch.setattr(onnx, "emit", lambda arrays, config: right(without_a_batch_norm(arrays), config))
    assert_refused(run("--weights", weights, "-o", place / "a.onnx"), place)


def test_wrong_safetensors_are_noticed(weights, place, monkeypatch):
    right = safetensors.serialize
    monkeypatch.setattr(safetensors, "serialize", lambda arrays, *a, **b: right(without_a_batch_norm(arrays), *a, **b))
    assert_refused(run("--weights", weights, "-o", place / "a.safetensors"), place)


@pytest.mark.parametrize("name", ["a.keras", pytest.param("a.tflite", marks=pytest.mark.slow)])
def test_a_wrong_keras_network_is_noticed(weights, place, monkeypatch, name, keras):
    right = keras_ops.set_arrays
    monkeypatch.setattr(keras_ops, "set_arrays", lambda network, arrays: right(network, without_a_batch_norm(arrays)))
    assert_refused(run("--weights", weights, "-o", place / name), place)


def test_a_wrong_normalization_is_noticed(weights, place, monkeypatch):
    monkeypatch.setattr(onnx, "MEAN", (0.5, 0.5, 0.5))
    assert_refused(run("--weights", weights, "-o", place / "a.onnx", "--with-preprocessing"), place)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (np.full((1, 10), np.nan), "differ from the model's by up to inf"),
        (np.zeros((1, 9)), "an answer of shape (1, 9) instead of (1, 10)"),
    ],
)
def test_no_number_and_another_shape_are_no_answers(answer, words):
    pixels, expected = np.zeros((1, 32, 32, 3), np.uint8), np.full((1, 10), 0.1, np.float32)
    with pytest.raises(OutputError, match=r"so it was not kept") as caught:
        check.largest_difference(lambda batch: answer, pixels, expected, normalized=False)
    assert words in str(caught.value)


def test_one_image_of_many_and_one_batch_size_are_enough_to_fail():
    """Right one by one and wrong together: a fixed batch."""
    pixels, expected = np.zeros((3, 4, 4, 3), np.uint8), np.full((3, 2), 0.5, np.float32)
    for wrong_at in (1, 3):

        def answer(batch, wrong_at=wrong_at):
            return expected[: len(batch)] + np.float32(2e-4 if len(batch) == wrong_at else 0)

        with pytest.raises(OutputError):
            check.largest_difference(answer, pixels, expected, normalized=False)
    close = check.largest_difference(lambda batch: expected[: len(batch)] + 5e-5, pixels, expected, normalized=False)
    assert close == pytest.approx(5e-5, rel=1e-3)


def test_the_images_are_four_real_ones_and_small():
    sizes = [path.stat().st_size for path in check.images()]
    assert len(sizes) == 4 and sum(sizes) < 60_000
    classifier = Classifier("tiny")
    pixels, probabilities = check.answers(classifier, check.images())
    assert pixels.std(axis=(1, 2, 3)).min() > 10
    assert len({int(row.argmax()) for row in probabilities}) > 1


def test_overwrite_replaces_a_file_behind_a_link_too(weights, place, tmp_path):
    real = tmp_path / "real.onnx"
    real.write_bytes(b"old")
    (place / "link.onnx").symlink_to(real)
    assert run("--weights", weights, "-o", place / "link.onnx").status == 2
    assert run("--weights", weights, "-o", place / "link.onnx", "--overwrite").status == 0
    assert (place / "link.onnx").is_symlink() and real.stat().st_size > 10_000
    assert held(place) == ["link.onnx"] and not list(tmp_path.glob(".*"))


MOMENTS = {
    "written, not checked": "from densenet_cli.export import check as there; name = 'largest_difference'",
    "checked, not in its place": "from densenet_cli.output import destination as there; name = '_sync'",
}


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("mode", [signal.SIGKILL, signal.SIGTERM])
def test_ended_at_the_worst_moment(weights, place, moment, mode):
    (place / "a.onnx").write_bytes(b"old")
    code = (
        f"import os, sys, time; {MOMENTS[moment]}; from densenet_cli import cli\n"
        f"def ended(*_, **__): os.kill(os.getpid(), {int(mode)}); time.sleep(5)\n"
        "setattr(there, name, ended); cli.main(sys.argv[1:])"
    )
    arguments = ["export", "--weights", weights, "-o", place / "a.onnx", "--overwrite"]
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == (-9 if mode == signal.SIGKILL else 130), done.stderr
    assert (place / "a.onnx").read_bytes() == b"old"
    if mode == signal.SIGTERM:
        assert held(place) == ["a.onnx"]
    else:  # a hidden folder is left, and the next one tidies it
        assert held(place) == [".a.onnx.being-exported", "a.onnx"]
        assert run("--weights", weights, "-o", place / "a.onnx", "--overwrite").status == 0
        assert held(place) == ["a.onnx"]


def test_two_at_once_are_refused_to_the_second(weights, place):
    aside = place / ".a.onnx.being-exported"
    aside.mkdir()
    code = (
        "import sys, time; from densenet_cli.output import atomic\n"
        "with open(sys.argv[1], 'w+b') as file: atomic.lock(file); print(flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code, aside / "lock"], stdout=subprocess.PIPE) as other:
        try:
            other.stdout.readline()
            result = run("--weights", weights, "-o", place / "a.onnx")
        finally:
            other.kill()
    assert (result.status, result.err.count("\n")) == (4, 1)
    assert "another run is writing it" in result.err
    assert held(place) == [aside.name] and held(aside) == ["lock"]


def a_saved_model(path, mark):
    (path / "variables").mkdir(parents=True)
    (path / "saved_model.pb").write_text(mark)


def test_a_folder_is_replaced_whole(place, monkeypatch):
    destination = Destination(place / "served", is_folder=True, overwrite=False)
    with destination.writing() as aside:
        a_saved_model(aside, "first")
        assert held(place) == [".served.being-exported"]
    assert held(place) == ["served"]
    with pytest.raises(UsageError, match="--overwrite"), destination.writing():
        pass
    again = Destination(place / "served", is_folder=True, overwrite=True)
    with again.writing() as aside:
        a_saved_model(aside, "second")
    assert held(place) == ["served"] and (place / "served" / "saved_model.pb").read_text() == "second"
    assert stat.S_IMODE((place / "served").stat().st_mode) & 0o500 == 0o500

    right = os.rename

    def failing(source, target, **settings):
        if os.fspath(target) == str(place / "served") and "being-exported" in os.fspath(source) and failing.armed:
            failing.armed = False
            raise OSError(5, "Input/output error")
        return right(source, target, **settings)

    failing.armed = True
    monkeypatch.setattr(os, "rename", failing)
    with pytest.raises(OutputError, match="Input/output error"), again.writing() as aside:
        a_saved_model(aside, "third")
    assert held(place) == ["served"] and (place / "served" / "saved_model.pb").read_text() == "second"


def test_what_appears_meanwhile_is_not_replaced(place):
    destination = Destination(place / "a.onnx", is_folder=False, overwrite=False)
    with pytest.raises(UsageError, match="exists"), destination.writing() as aside:
        aside.write_bytes(b"mine")
        (place / "a.onnx").write_bytes(b"somebody else's")
    assert held(place) == ["a.onnx"] and (place / "a.onnx").read_bytes() == b"somebody else's"


def test_everything_is_on_the_disk_before_it_gets_its_name(place, monkeypatch):
    synced = []
    right = atomic.sync_path
    monkeypatch.setattr(atomic, "sync_path", lambda path: (synced.append(path.name), right(path))[1])
    with Destination(place / "served", is_folder=True, overwrite=False).writing() as aside:
        a_saved_model(aside, "x")
    assert synced.count("saved_model.pb") == 1 and {"variables", "served", "place"} <= set(synced)
    assert synced[-1] == "place"


def test_from_python(weights, place):
    classifier = Classifier(weights=weights)
    done = export(classifier, place / "a.onnx", with_preprocessing=True)
    assert (done.format, done.images, done.has_labels) == ("onnx", 4, True)
    assert done.size == (place / "a.onnx").stat().st_size
    with pytest.raises(UsageError, match="There is no format 'pickle'; there are onnx, saved-model"):
        export(classifier, place / "b", "pickle")
    with pytest.raises(UsageError, match="one crop"):
        export(Classifier(weights=weights, ten_crop=True), place / "b.onnx")
    assert held(place) == ["a.onnx"]


def test_no_weights_is_status_3_and_leaves_nothing(place):
    assert run("--variant", "121", "--offline", "-o", place / "a.onnx").status == 3
    assert held(place) == []


@pytest.mark.parametrize("name", ["a.onnx", "a.safetensors"])
def test_tensorflow_is_not_imported_for_what_needs_none(weights, place, name):
    code = (
        "import sys\nfrom densenet_cli import cli\ntry: cli.main(sys.argv[1:])\n"
        "except SystemExit as e: print(e.code, 'tensorflow' in sys.modules, 'torch' in sys.modules)"
    )
    arguments = ["export", "--weights", weights, "-o", place / name]
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.stdout.splitlines()[-1] == "0 False False", done.stderr
