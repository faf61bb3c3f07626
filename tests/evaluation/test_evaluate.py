"""``densenet evaluate`` from end to end, with a tiny network, compared with scikit-learn."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image
from sklearn import metrics

from densenet_cli import Classifier
from densenet_cli.datasets import LabeledSource
from densenet_cli.evaluation import ImageOutcome, evaluate
from densenet_cli.evaluation.files import PLOTS, mistakes_to_csv
from densenet_cli.images import walking
from densenet_cli.labels import ClassLabel, imagenet
from densenet_cli.weights import safetensors
from densenet_cli.weights.contents import ModelMetadata
from tests.support.command import densenet, restore_sigint
from tests.support.networks import TINY, probabilities_of, random_arrays

LABELS = ("ant", "Bee", "sea cow", "dog", "elk", "fox", "gnu", "hen", "ibis", "jay")
TARGETS = {"sea_cow": 2, "ELK": 4, "gnu": 6, "hen": 7}
"""Class folder -> position of its class."""


def write_model(path, labels):
    metadata = ModelMetadata(labels=labels, preprocess="squash", input_size=32, training={}, accuracy={})
    safetensors.write(path, random_arrays(TINY), TINY, metadata)
    return path


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    labels = tuple(ClassLabel(index, None, name) for index, name in enumerate(LABELS))
    return write_model(tmp_path_factory.mktemp("weights") / "zoo.safetensors", labels)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Six images per class, half of them in a subfolder."""
    root = tmp_path_factory.mktemp("images") / "val"
    rng = np.random.default_rng(5)
    for name in TARGETS:
        for number in range(6):
            path = root / name / ("deeper" if number % 2 else ".") / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            noise = rng.normal(0, rng.integers(1, 256), (cells := rng.choice([1, 2, 8, 32]), cells, 3))
            pixels = np.clip(rng.integers(0, 256, 3) + noise, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).resize((40, 36)).save(path)
    return root


@pytest.fixture(scope="module")
def expected(weights, images, tmp_path_factory):
    """Paths, targets, and probabilities of the images, from the Python API."""
    paths = [str(path) for path in sorted(images.rglob("*.png"))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DENSENET_CACHE", str(tmp_path_factory.mktemp("cache")))
        probabilities = np.array(probabilities_of(Classifier(weights=weights), paths))
    targets = np.array([TARGETS[os.path.relpath(path, images).split("/")[0]] for path in paths])
    return paths, targets, probabilities


def report_of(*arguments, status=0):
    result = densenet("evaluate", *arguments, "--format", "json")
    assert result.status == status, result.err
    return json.loads(result.out)


def test_metrics_agree_with_scikit_learn(weights, images, expected):
    report = report_of(images, "--weights", weights)
    _, targets, probabilities = expected
    predicted = probabilities.argmax(axis=1)
    assert (report["images"], report["failed"], report["classes"], report["competing_classes"]) == (24, 0, 4, 10)
    assert report["top1"]["value"] == metrics.accuracy_score(targets, predicted)
    assert report["top5"]["value"] == metrics.top_k_accuracy_score(targets, probabilities, k=5, labels=range(10))
    assert 0 < report["top1"]["value"] < 1, "an accuracy of 0 or 1 would prove little"
    double = probabilities.astype(np.float64)
    loss = metrics.log_loss(targets, double / double.sum(axis=1, keepdims=True), labels=range(10))
    assert report["negative_log_likelihood"] == pytest.approx(loss, rel=1e-4)
    assert [row["label"] for row in report["per_class"]] == ["sea cow", "elk", "gnu", "hen"]
    matrix = np.zeros((10, 10), int)
    for target, prediction, count in report["confusion"]:
        matrix[target, prediction] = count
    np.testing.assert_array_equal(matrix, metrics.confusion_matrix(targets, predicted, labels=range(10)))
    assert report["settings"]["preprocess"] == "squash"
    assert len(report["settings"]["weights_md5"]) == 32


def test_engines_and_preprocessing(weights, images, keras):
    onnx = report_of(images, "--weights", weights, "--batch-size", 5, "--threads", 3)
    tensorflow = report_of(images, "--weights", weights, "--engine", "tensorflow")
    assert tensorflow["settings"]["engine"] == "tensorflow"
    assert (onnx["settings"]["engine"], onnx["settings"]["precision"]) == ("onnx", "float32")
    assert tensorflow["confusion"] == onnx["confusion"]
    assert tensorflow["negative_log_likelihood"] == pytest.approx(onnx["negative_log_likelihood"], rel=1e-4)
    crops = report_of(images, "--weights", weights, "--preprocess", "crop", "--ten-crop")
    assert crops["settings"]["ten_crop"] is True
    assert crops["negative_log_likelihood"] != onnx["negative_log_likelihood"]


def test_python_api(weights, expected):
    paths, targets, probabilities = expected
    sources = (LabeledSource(p, p, "path", target=int(t)) for p, t in zip(paths, targets, strict=True))
    report = evaluate(Classifier(weights=weights), sources)
    assert report.top1.successes == (probabilities.argmax(axis=1) == targets).sum()


def test_summary(weights, images):
    result = densenet("evaluate", images, "--weights", weights)
    assert result.status == 0
    assert result.err == ""
    for words in ("zoo", "24 images", "4 classes", "Top-1 accuracy", "95%", "sea cow"):
        assert words in result.out
    assert "Top-5" not in densenet("evaluate", images, "--weights", weights, "--restrict").out


def test_accuracies_and_their_intervals_are_on_one_line(weights, images, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    lines = densenet("evaluate", images, "--weights", weights).out.splitlines()
    for name in ("Top-1 accuracy", "Top-5 accuracy"):
        (line,) = (line for line in lines if name in line)
        assert line.count("%") == 4


def test_restrict(weights, images, expected):
    report = report_of(images, "--weights", weights, "--restrict")
    _, targets, probabilities = expected
    classes = [2, 4, 6, 7]
    assert report["competing_classes"] == 4
    assert report["top1"]["correct"] == (np.array(classes)[probabilities[:, classes].argmax(axis=1)] == targets).sum()


def test_csv(weights, images, tmp_path, expected):
    paths, targets, _ = expected
    folder_report = report_of(images, "--weights", weights)
    del folder_report["settings"]
    absolute = tmp_path / "absolute.csv"
    with absolute.open("w", encoding="utf-8-sig", newline="") as file:
        csv.writer(file).writerows(
            [("Label", "note", "PATH"), *((LABELS[t], "x", p) for p, t in zip(paths, targets, strict=True))]
        )
    relative = tmp_path / "relative.csv"
    lines = [f"{os.path.relpath(p, images)},{LABELS[t]}\n" for p, t in zip(paths, targets, strict=True)]
    relative.write_text("path,label\n\n" + "".join(lines))
    beside = images.parent / "beside.csv"
    beside.write_text("path,label\n" + "".join(f"val/{line}" for line in lines))
    for arguments in (("--csv", absolute), (images, "--csv", relative), ("--csv", beside)):
        report = report_of(*arguments, "--weights", weights)
        assert report.pop("settings")["images"] == str(arguments[-1])
        assert report == folder_report


def test_files(weights, images, tmp_path, expected):
    out, mistakes, plots = tmp_path / "report.json", tmp_path / "mistakes.csv", tmp_path / "new" / "plots"
    arguments = ("evaluate", images, "--weights", weights, "-o", out, "--mistakes", mistakes, "--plots", plots)
    result = densenet(*arguments)
    assert result.status == 0
    assert "Top-1" in result.out
    assert json.loads(out.read_text()) == report_of(images, "--weights", weights)

    paths, targets, probabilities = expected
    with mistakes.open(newline="") as file:
        rows = list(csv.DictReader(file))
    predicted = probabilities.argmax(axis=1)
    indices = sorted(np.flatnonzero(predicted != targets), key=lambda n: (-probabilities[n].max(), n))
    assert [row["source"] for row in rows] == [paths[n] for n in indices]
    for row, n in zip(rows, indices, strict=True):
        target_probability = probabilities[n, targets[n]]
        assert (int(row["true_index"]), int(row["predicted_index"])) == (targets[n], predicted[n])
        assert (row["true_label"], row["predicted_label"]) == (LABELS[targets[n]], LABELS[predicted[n]])
        assert np.float32(row["probability"]) == pytest.approx(probabilities[n].max(), abs=1e-6)
        assert np.float32(row["true_probability"]) == pytest.approx(target_probability, abs=1e-6)
        assert int(row["true_rank"]) == 1 + (probabilities[n] > target_probability).sum()

    assert sorted(path.name for path in plots.iterdir()) == sorted(PLOTS)
    for path in plots.iterdir():
        with Image.open(path) as image:
            image.load()
            assert min(image.size) > 400

    for option, path in (("-o", out), ("--mistakes", mistakes), ("--plots", plots)):
        rejected = densenet("evaluate", images, "--weights", weights, option, path)
        assert (rejected.status, rejected.out) == (2, "")
        assert "overwrite" in rejected.err
    assert densenet(*arguments, "--overwrite").status == 0


def test_failed_and_ignored_images_are_reported(weights, images, tmp_path):
    root = tmp_path / "val"
    for name in ("ant", "dog"):
        (root / name).mkdir(parents=True)
        Image.new("RGB", (40, 40), "red" if name == "ant" else "blue").save(root / name / "good.png")
    (root / "ant" / "bad.jpg").write_bytes(b"this is text")
    (root / "gnu").mkdir()
    Image.new("RGB", (40, 40)).save(root / "stray.png")
    (root / "notes.txt").write_text("nothing")
    (root / "dog" / "notes.txt").write_text("nothing")
    (root / ".hidden").mkdir()
    result = densenet("evaluate", root, "--weights", weights, "--format", "json")
    assert result.status == 1
    report = json.loads(result.out)
    assert (report["images"], report["failed"], report["classes"]) == (2, 1, 2)
    assert report["failures"][0]["source"] == str(root / "ant" / "bad.jpg")
    assert result.err.splitlines()[0].startswith(f"{root}/ant/bad.jpg: UnreadableImage: ")
    unsorted, empty, skipped = result.err.splitlines()[1:]
    assert "1 image " in unsorted
    assert "1 class folder " in empty and "gnu" in empty
    assert "1 file " in skipped


def test_a_name_with_a_line_break_stays_on_one_line(weights, images, tmp_path):
    for name in ("hen", "gnu"):
        shutil.copytree(images / name, tmp_path / "val" / name)
    (tmp_path / "val" / "e\nmpty").mkdir()
    arguments = ("evaluate", tmp_path / "val", "--weights", weights)
    assert r"images: e\nmpty." in densenet(*arguments).err.splitlines()[0]
    result = densenet("evaluate", tmp_path / "e\nmpty", "--weights", weights)
    assert result.status == 2
    assert len(result.err.splitlines()) == 1 and r"e\nmpty" in result.err


def test_a_folder_that_cannot_be_listed_is_a_failure(weights, images, monkeypatch):
    scandir = os.scandir

    def deny(path):
        if str(path).endswith("ELK"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(walking.os, "scandir", deny)
    report = report_of(images, "--weights", weights, status=1)
    assert (report["images"], report["classes"], report["failed"]) == (18, 3, 1)
    assert report["failures"][0]["error"]["type"] == "SourceUnreadable"


def test_one_class(weights, tmp_path):
    (tmp_path / "val" / "hen").mkdir(parents=True)
    Image.new("RGB", (40, 40)).save(tmp_path / "val" / "hen" / "a.png")
    assert report_of(tmp_path / "val", "--weights", weights)["classes"] == 1
    rejected = densenet("evaluate", tmp_path / "val", "--weights", weights, "--restrict")
    assert rejected.status == 2
    assert "--restrict" in rejected.err


def test_positions_are_not_used_for_a_model_with_names(images, tmp_path):
    names = ("1", "2", "3", *"abcdefg")
    weights = write_model(tmp_path / "m.safetensors", tuple(ClassLabel(n, None, name) for n, name in enumerate(names)))
    for folders in (("0", "1"), ("02", "1")):
        root = tmp_path / folders[0]
        for name in folders:
            (root / name).mkdir(parents=True)
            Image.new("RGB", (40, 40)).save(root / name / "1.png")
        result = densenet("evaluate", root, "--weights", weights)
        assert (result.status, result.out) == (2, "")
        assert repr(folders[0]) in result.err
    image = tmp_path / "0" / "1" / "1.png"
    explained = densenet("explain", image, "--class", "02", "--format", "json", "--weights", weights)
    assert (explained.status, explained.out) == (2, "")
    assert "'2'" in explained.err
    assert densenet("explain", image, "--class", "2", "--format", "json", "--weights", weights).status == 0


def test_unsuitable_folders(weights, images, tmp_path):
    empty, flat, unknown, imageless = (tmp_path / name for name in ("empty", "flat", "unknown", "imageless"))
    for folder in (empty, flat, unknown / "zebra", unknown / "ant", imageless / "ant"):
        folder.mkdir(parents=True)
    for name in ("zebra", "ant"):
        Image.new("RGB", (40, 40)).save(unknown / name / "a.png")
    Image.new("RGB", (40, 40)).save(flat / "a.png")
    (flat / "file.txt").write_text("x")
    for folder, status, words in (
        (tmp_path / "none", 2, "There is no file or folder"),
        (flat / "file.txt", 2, "is not a folder"),
        (empty, 2, "no class folders"),
        (flat, 2, "only 1 image"),
        (unknown, 2, "1 of 2 class folders"),
        (imageless, 2, "no class folders with images"),
    ):
        result = densenet("evaluate", folder, "--weights", weights)
        assert (result.status, result.out) == (status, "")
        assert words in result.err
    assert densenet("evaluate", "--weights", weights).status == 2


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "no path column"),
        (b"path,name\na.png,ant\n", "no label column"),
        (b"path,label\n", "has no rows"),
        (b"path,label\na.png,ant\nb.png\n", "Line 3 of"),
        (b"path,label\n,ant\n", "has no path"),
        (b"path,label\na.png,zebra\n", "1 of 1 labels in"),
        (b"\xff\xfep\0a\0t\0h\0,\0l\0", "no label column"),
        (b"path,label\n" + b"x" * 200_000 + b",ant\n", "is not a valid CSV file"),
    ],
)
def test_unsuitable_tables(weights, tmp_path, content, words):
    file = tmp_path / "a.csv"
    file.write_bytes(content)
    result = densenet("evaluate", "--csv", file, "--weights", weights)
    assert (result.status, result.out) == (2, "")
    assert words in result.err


def test_a_table_of_missing_images(weights, tmp_path):
    file = tmp_path / "a.csv"
    file.write_bytes(b"path,label\nno.png,ant\nb\xff\\.png,Bee\n")
    result = densenet("evaluate", "--csv", file, "--weights", weights)
    assert result.status == 1
    assert "no.png: SourceNotFound" in result.err
    assert "2 images" in result.err


def test_invalid_output_files(weights, images, tmp_path):
    (tmp_path / "file").write_text("x")
    for arguments, status, words in (
        (("-o", tmp_path / "report.txt"), 2, ".json"),
        (("--mistakes", tmp_path / "wrong.json"), 2, ".csv"),
        (("-o", tmp_path / "none" / "report.json"), 4, "Cannot write"),
        (("--plots", tmp_path / "file" / "plots"), 4, "Cannot write"),
    ):
        result = densenet("evaluate", images, "--weights", weights, *arguments)
        assert (result.status, result.out) == (status, "")
        assert words in result.err


def test_plots_of_another_kind_of_model_are_ignored(weights, images, tmp_path):
    (tmp_path / "roc_curves.png").write_text("x")
    arguments = ("evaluate", images, "--weights", weights, "--plots", tmp_path)
    assert densenet(*arguments).status == 0
    assert densenet(*arguments).status == 2
    assert (tmp_path / "roc_curves.png").read_text() == "x"


def test_existing_plots_are_found_before_the_weights(images, tmp_path):
    (tmp_path / "risk_coverage_curve.png").write_text("x")
    result = densenet("evaluate", images, "--variant", "121", "--offline", "--plots", tmp_path)
    assert result.status == 2
    assert "risk_coverage_curve.png" in result.err


def test_names_have_the_form_of_predict():
    labels = imagenet()
    (_, line) = mistakes_to_csv([ImageOutcome("a\\b\udcff.png", 0, 5, 0.1, 0.05, 3)], labels)
    assert line.startswith(r"a\\b\xff.png,0,n01440764,tench,")


def test_interrupted(weights, images, tmp_path):
    """The results so far are written and marked as incomplete."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        copies = [shutil.copytree(images / "hen", tmp_path / str(number)) for number in range(5)]
        paths = [str(path) for copy in copies for path in sorted(copy.rglob("*.png"))]
        paths.append(f"http://127.0.0.1:{server.getsockname()[1]}/never.png")
        table, out = tmp_path / "table.csv", tmp_path / "report.json"
        table.write_text("path,label\n" + "".join(f"{path},hen\n" for path in paths))
        command = [sys.executable, "-m", "densenet_cli", "evaluate", "--csv", table, "--weights", weights, "-o", out]
        process = subprocess.Popen(
            list(map(str, command)),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "NO_PROXY": "127.0.0.1"},
            preexec_fn=restore_sigint,
        )
        server.settimeout(60)
        connection, _ = server.accept()
        time.sleep(2)  # until the preceding images are classified
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=60)
        connection.close()
    assert process.returncode == 130, errors
    assert "nterrupted" in output
    report = json.loads(out.read_text())
    assert report["interrupted"] is True
    assert 0 < report["images"] < len(paths)
