"""``densenet export``: usage errors, output, interrupted runs, and rejected files."""

from __future__ import annotations

import os
import resource
import signal
import stat
import subprocess
import sys
import tomllib

import numpy as np
import onnxruntime
import pytest

from densenet_cli import Classifier
from densenet_cli.engines import keras_ops
from densenet_cli.errors import OutputError, UsageError
from densenet_cli.export import EXPORT_FORMATS, export, exporter, onnx
from densenet_cli.images.preprocessing import Preprocessing
from densenet_cli.labels import ClassLabel
from densenet_cli.output import atomic
from densenet_cli.weights import safetensors
from densenet_cli.weights.contents import ModelMetadata
from tests.conftest import ROOT
from tests.support import command
from tests.support.networks import TINY, random_arrays

LABELS = tuple(ClassLabel(n, None, f"kind {n}") for n in range(10))


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "mine.safetensors"
    safetensors.write(path, random_arrays(TINY, top=0.15), TINY, ModelMetadata(LABELS))
    return path


@pytest.fixture
def folder(tmp_path):
    """An empty folder to export to."""
    folder = tmp_path / "exported"
    folder.mkdir()
    return folder


def run(*arguments, **settings):
    return command.densenet("export", *arguments, **settings)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_output_names_the_file_and_the_difference(weights, folder):
    result = run("--weights", weights, "-o", folder / "mine.onnx")
    assert (result.status, result.out) == (0, "")
    assert str(folder / "mine.onnx") in result.err and "4 photographs" in result.err
    assert result.err.endswith(": 0\n")
    result = run("--weights", weights, "-o", folder / "mine.onnx", "--overwrite", "--quiet")
    assert (result.status, result.out, result.err) == (0, "", "")
    assert names(folder) == ["mine.onnx"]
    assert onnxruntime.InferenceSession(folder / "mine.onnx").get_inputs()[0].shape == ["batch", 3, 32, 32]


def test_a_model_without_labels(folder, tmp_path):
    path = tmp_path / "plain.safetensors"
    safetensors.write(path, random_arrays(TINY, top=0.15), TINY)
    result = run("--weights", path, "-o", folder / "plain.onnx")
    assert result.status == 0
    assert "plain has no labels" in result.err and "--labels" in result.err
    metadata = onnxruntime.InferenceSession(folder / "plain.onnx").get_modelmeta().custom_metadata_map
    assert set(metadata) == {"model", "config", "preprocessing"}
    labels = tmp_path / "names.txt"
    labels.write_text("".join(f"name {n}\n" for n in range(10)))
    result = run("--weights", path, "--labels", labels, "-o", folder / "plain.onnx", "--overwrite")
    assert result.status == 0 and "no labels" not in result.err
    metadata = onnxruntime.InferenceSession(folder / "plain.onnx").get_modelmeta().custom_metadata_map
    assert set(metadata) == {"model", "config", "preprocessing", "labels", "indices"}  # no WordNet ids


@pytest.mark.parametrize(
    ("arguments", "keywords"),
    [
        (["-o", "a.onnx", "--format", "keras"], ["a.onnx", "keras"]),
        (["-o", "a.h5"], ["a.h5", ".onnx, .tflite, .safetensors, or .keras"]),
        (["-o", ".onnx", "--format", "keras"], [".onnx", "keras"]),
        (["-o", "caf\udce9.onnx"], ["not UTF-8"]),
        (["-o", "a.safetensors", "--with-preprocessing"], ["safetensors", "preprocessing"]),
        (["-o", "there.onnx"], ["there.onnx exists", "overwrite"]),
        (["-o", "folder"], ["folder exists", "overwrite"]),
        (["-o", "folder", "--overwrite"], ["folder", "SavedModel"]),
        (["-o", "folder", "--format", "onnx", "--overwrite"], ["folder is a folder"]),
        (["-o", "file", "--overwrite"], ["file is a file"]),
        ([], ["Missing option '-o'"]),
    ],
)
def test_usage_errors_come_before_weights_are_needed(folder, monkeypatch, arguments, keywords):
    monkeypatch.chdir(folder)
    (folder / "there.onnx").write_bytes(b"old")
    (folder / "folder").mkdir()
    (folder / "folder" / "diary.txt").write_text("dear diary")
    (folder / "file").write_text("old")
    result = run("--variant", "121", "--offline", *arguments)  # without weights: status 3 otherwise
    assert result.status == 2
    assert all(keyword in result.err for keyword in keywords), result.err
    assert (folder / "there.onnx").read_bytes() == b"old"
    assert names(folder) == ["file", "folder", "there.onnx"] and names(folder / "folder") == ["diary.txt"]


def test_a_missing_optional_package(folder, monkeypatch):
    monkeypatch.setattr(
        "densenet_cli.output.checks.find_spec", lambda module: None if module == "ai_edge_litert" else object()
    )
    result = run("--variant", "121", "--offline", "-o", folder / "x.tflite")
    assert result.status == 2
    assert "pip install ai-edge-litert" in result.err
    assert names(folder) == []


def test_optional_packages_are_extras_of_this_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    optional = {format_.optional_package[1] for format_ in EXPORT_FORMATS.values() if format_.optional_package}
    assert optional == {"ai-edge-litert"}
    assert any("ai-edge-litert" in requirement for requirement in project["optional-dependencies"]["tflite"])
    required = " ".join(project["dependencies"])
    assert all(package in required for package in ("onnx", "onnxruntime", "tensorflow", "keras", "safetensors"))


def test_a_folder_that_is_missing_or_read_only(weights, folder, monkeypatch):
    result = run("--weights", weights, "-o", folder / "gone" / "a.onnx")
    assert (result.status, result.err.count("\n")) == (4, 1)
    assert str(folder / "gone") in result.err
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK)  # root may write anywhere
    result = run("--weights", weights, "-o", folder / "a.onnx")
    assert (result.status, result.err.count("\n")) == (4, 1)
    assert str(folder) in result.err


@pytest.mark.parametrize(
    "name",
    ["a.onnx", "a.safetensors", "a.keras", *(pytest.param(name, marks=pytest.mark.slow) for name in ("a.tflite", "a"))],
)
def test_a_full_disk(weights, folder, name, keras):
    """Simulated by a limit on the file size. Nothing is left, and the old file stays."""
    if name == "a":
        (folder / name).mkdir()  # an empty folder may be replaced
    else:
        (folder / name).write_bytes(b"old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    Classifier(weights=weights).predict(exporter.comparison_images()[0])  # caches the graph
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
        result = run("--weights", weights, "-o", folder / name, "--overwrite")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert result.status == 4
    if name == "a.tflite":  # the converter fails at its own temporary copy
        assert "could not convert the model" in result.err
    else:
        assert str(folder / name) in result.err and "File too large" in result.err
    assert names(folder) == [name]
    assert names(folder / name) == [] if name == "a" else (folder / name).read_bytes() == b"old"


def without_a_batch_norm(arrays):
    """The same network with one batch norm replaced by the identity."""
    identity = {name: np.zeros_like(values) for name, values in arrays["bn"].items()}
    identity["gamma"] += 1
    identity["moving_variance"] += 1
    return {**arrays, "bn": identity}


def assert_rejected(result, folder):
    assert result.status == 4
    assert "differ from the model's" in result.err and "not kept" in result.err
    assert (result.out, result.err.count("\n"), names(folder)) == ("", 1, [])


def test_a_wrong_onnx_file_is_rejected(weights, folder, monkeypatch):
    original = onnx.emit
    monkeypatch.setattr(onnx, "emit", lambda arrays, config: original(without_a_batch_norm(arrays), config))
    assert_rejected(run("--weights", weights, "-o", folder / "a.onnx"), folder)


def test_wrong_safetensors_are_rejected(weights, folder, monkeypatch):
    original = safetensors.serialize
    monkeypatch.setattr(
        safetensors,
        "serialize",
        lambda arrays, *args, **kw: original(without_a_batch_norm(arrays), *args, **kw),
    )
    assert_rejected(run("--weights", weights, "-o", folder / "a.safetensors"), folder)


@pytest.mark.parametrize("name", ["a.keras", pytest.param("a.tflite", marks=pytest.mark.slow)])
def test_a_wrong_keras_network_is_rejected(weights, folder, monkeypatch, name, keras):
    original = keras_ops.set_arrays
    monkeypatch.setattr(
        keras_ops, "set_arrays", lambda network, arrays: original(network, without_a_batch_norm(arrays))
    )
    assert_rejected(run("--weights", weights, "-o", folder / name), folder)


def test_a_wrong_normalization_is_rejected(weights, folder, monkeypatch):
    original = onnx._prepend_normalization
    wrong = Preprocessing(mean=(0.5, 0.5, 0.5))
    monkeypatch.setattr(onnx, "_prepend_normalization", lambda graph, preprocessing: original(graph, wrong))
    assert_rejected(run("--weights", weights, "-o", folder / "a.onnx", "--with-preprocessing"), folder)


@pytest.mark.parametrize(
    ("output", "keyword"),
    [(np.full((1, 10), np.nan), "by up to inf"), (np.zeros((1, 9)), "(1, 9)")],
    ids=["NaN", "wrong shape"],
)
def test_nan_and_wrong_shapes_are_rejected(output, keyword):
    pixels, expected = np.zeros((1, 32, 32, 3), np.uint8), np.full((1, 10), 0.1, np.float32)
    with pytest.raises(OutputError) as caught:
        exporter.max_difference(lambda batch: output, pixels, expected)
    assert keyword in str(caught.value)


def test_every_image_is_compared_alone_and_in_a_batch():
    """A file may be right for one batch size only."""
    pixels, expected = np.zeros((3, 4, 4, 3), np.uint8), np.full((3, 2), 0.5, np.float32)
    for wrong_size in (1, 3):

        def predict(batch, wrong_size=wrong_size):
            return expected[: len(batch)] + np.float32(2e-4 if len(batch) == wrong_size else 0)

        with pytest.raises(OutputError):
            exporter.max_difference(predict, pixels, expected)
    difference = exporter.max_difference(lambda batch: expected[: len(batch)] + 5e-5, pixels, expected)
    assert difference == pytest.approx(5e-5, rel=1e-3)


def test_the_comparison_images_are_four_small_photographs():
    sizes = [path.stat().st_size for path in exporter.comparison_images()]
    assert len(sizes) == 4 and sum(sizes) < 60_000
    pixels, probabilities = exporter.model_probabilities(Classifier("tiny"), exporter.comparison_images())
    assert pixels.std(axis=(1, 2, 3)).min() > 10
    assert len({int(row.argmax()) for row in probabilities}) > 1


def test_overwrite_follows_a_link(weights, folder, tmp_path):
    real = tmp_path / "real.onnx"
    real.write_bytes(b"old")
    (folder / "link.onnx").symlink_to(real)
    assert run("--weights", weights, "-o", folder / "link.onnx").status == 2
    assert run("--weights", weights, "-o", folder / "link.onnx", "--overwrite").status == 0
    assert (folder / "link.onnx").is_symlink() and real.stat().st_size > 10_000
    assert names(folder) == ["link.onnx"] and not list(tmp_path.glob(".*"))


MOMENTS = {
    "written, not compared": "from densenet_cli.export import exporter as module; name = 'max_difference'",
    "compared, not moved": "from densenet_cli.output import atomic as module; name = '_sync_tree'",
}


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("signal_", [signal.SIGKILL, signal.SIGTERM])
def test_killed_before_the_file_is_moved(weights, folder, moment, signal_):
    (folder / "a.onnx").write_bytes(b"old")
    code = (
        f"import os, sys, time; {MOMENTS[moment]}; from densenet_cli import cli\n"
        f"def end(*_, **__): os.kill(os.getpid(), {int(signal_)}); time.sleep(5)\n"
        "setattr(module, name, end); cli.main(sys.argv[1:])"
    )
    arguments = ["export", "--weights", weights, "-o", folder / "a.onnx", "--overwrite"]
    completed = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, check=False, timeout=60
    )
    assert completed.returncode == (-9 if signal_ == signal.SIGKILL else 130), completed.stderr
    assert (folder / "a.onnx").read_bytes() == b"old"
    if signal_ == signal.SIGTERM:
        assert names(folder) == ["a.onnx"]
    else:  # a hidden folder is left, which the next run removes
        assert names(folder) == [".a.onnx.part", "a.onnx"]
        assert run("--weights", weights, "-o", folder / "a.onnx", "--overwrite").status == 0
        assert names(folder) == ["a.onnx"]


def test_only_one_run_writes_a_path_at_a_time(weights, folder):
    temporary = folder / ".a.onnx.part"
    temporary.mkdir()
    code = (
        "import sys, time; from densenet_cli.output import atomic\n"
        "with open(sys.argv[1], 'w+b') as file: atomic.lock(file); print(flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code, temporary / "lock"], stdout=subprocess.PIPE) as other:
        try:
            other.stdout.readline()
            result = run("--weights", weights, "-o", folder / "a.onnx")
        finally:
            other.kill()
    assert (result.status, result.err.count("\n")) == (4, 1)
    assert "another run is writing it" in result.err
    assert names(folder) == [temporary.name] and names(temporary) == ["lock"]


def write_saved_model(path, mark):
    (path / "variables").mkdir(parents=True)
    (path / "saved_model.pb").write_text(mark)


def replacing(path, format, overwrite=False):
    return atomic.replace_path(path, lambda: exporter.check_export_path(path, format, overwrite))


def test_a_folder_is_replaced_atomically(folder, monkeypatch):
    with replacing(folder / "served", "saved-model") as temporary:
        write_saved_model(temporary, "first")
        assert names(folder) == [".served.part"]
    assert names(folder) == ["served"]
    with pytest.raises(UsageError, match="overwrite"), replacing(folder / "served", "saved-model"):
        pass
    with replacing(folder / "served", "saved-model", overwrite=True) as temporary:
        write_saved_model(temporary, "second")
    assert names(folder) == ["served"] and (folder / "served" / "saved_model.pb").read_text() == "second"
    assert stat.S_IMODE((folder / "served").stat().st_mode) & 0o500 == 0o500

    original = os.rename

    def fail_once(source, target, **settings):
        if os.fspath(target) == str(folder / "served") and ".part/" in os.fspath(source) and fail_once.armed:
            fail_once.armed = False
            raise OSError(5, "Input/output error")
        return original(source, target, **settings)

    fail_once.armed = True
    monkeypatch.setattr(os, "rename", fail_once)
    with (
        pytest.raises(OutputError, match="Input/output error"),
        replacing(folder / "served", "saved-model", overwrite=True) as temporary,
    ):
        write_saved_model(temporary, "third")
    assert names(folder) == ["served"] and (folder / "served" / "saved_model.pb").read_text() == "second"


def test_a_file_that_appears_during_the_export_is_not_replaced(folder):
    with pytest.raises(UsageError, match="exists"), replacing(folder / "a.onnx", "onnx") as temporary:
        temporary.write_bytes(b"mine")
        (folder / "a.onnx").write_bytes(b"somebody else's")
    assert names(folder) == ["a.onnx"] and (folder / "a.onnx").read_bytes() == b"somebody else's"


def test_everything_is_synced_before_it_is_moved(folder, monkeypatch):
    synced = []
    original = atomic.sync_path
    monkeypatch.setattr(atomic, "sync_path", lambda path: (synced.append(path.name), original(path))[1])
    with replacing(folder / "served", "saved-model") as temporary:
        write_saved_model(temporary, "x")
    assert synced.count("saved_model.pb") == 1 and {"variables", "served", "exported"} <= set(synced)
    assert synced[-1] == "exported"


def test_from_python(weights, folder):
    classifier = Classifier(weights=weights)
    result = export(classifier, folder / "a.onnx", with_preprocessing=True)
    assert (result.format, result.images, result.has_labels) == ("onnx", 4, True)
    assert result.size == (folder / "a.onnx").stat().st_size
    with pytest.raises(UsageError, match=r"pickle.*onnx, saved-model"):
        export(classifier, folder / "b", "pickle")
    with pytest.raises(UsageError, match="ten_crop"):
        export(Classifier(weights=weights, ten_crop=True), folder / "b.onnx")
    assert names(folder) == ["a.onnx"]


def test_unavailable_weights(folder):
    assert run("--variant", "121", "--offline", "-o", folder / "a.onnx").status == 3
    assert names(folder) == []


@pytest.mark.parametrize("name", ["a.onnx", "a.safetensors"])
def test_tensorflow_is_not_imported_for_formats_without_it(weights, folder, name):
    code = (
        "import sys\nfrom densenet_cli import cli\ntry: cli.main(sys.argv[1:])\n"
        "except SystemExit as e: print(e.code, 'tensorflow' in sys.modules, 'torch' in sys.modules)"
    )
    arguments = ["export", "--weights", weights, "-o", folder / name]
    completed = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, check=False, timeout=60
    )
    assert completed.stdout.splitlines()[-1] == "0 False False", completed.stderr
