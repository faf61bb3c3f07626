"""``densenet evaluate`` with a multi-label model from end to end, compared with scikit-learn."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from PIL import Image
from sklearn import metrics

from tests.report.conftest import read
from tests.support.command import densenet
from tests.support.images import noise_images
from tests.support.networks import FINDINGS, multi_label_weights, probabilities_in, tiny_weights


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return multi_label_weights(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return noise_images(tmp_path_factory.mktemp("images"), 40)


@pytest.fixture(scope="module")
def expected(weights, images, tmp_path_factory):
    """Targets (the last class has no image) and probabilities of the images."""
    probabilities = probabilities_in(images, weights, tmp_path_factory.mktemp("cache"))
    rng = np.random.default_rng(0)
    targets = (rng.random(probabilities.shape) < 0.2 + 0.5 * probabilities).astype(int)
    targets[:, -1] = 0
    return targets, probabilities


@pytest.fixture(scope="module")
def label_column(images, expected, tmp_path_factory):
    """A table in the form of ChestX-ray14."""
    file = tmp_path_factory.mktemp("tables") / "labels.csv"
    cells = ["|".join(FINDINGS[n] for n in np.flatnonzero(row)) or "No Finding" for row in expected[0]]
    lines = [f"{path.name},{cell}\n" for path, cell in zip(sorted(images.iterdir()), cells, strict=True)]
    file.write_text("Image Index,Finding Labels\n" + "".join(lines))
    return file


@pytest.fixture(scope="module")
def class_columns(images, expected, tmp_path_factory):
    """A table with a column per class."""
    file = tmp_path_factory.mktemp("tables") / "columns.csv"
    with file.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["Path", "Age", *FINDINGS])
        for path, row in zip(sorted(images.iterdir()), expected[0], strict=True):
            writer.writerow([path.name, 50, *(f"{value:.1f}" if value else "" for value in row)])
    return file


def report_of(*arguments, status=0):
    result = densenet("evaluate", *arguments, "--format", "json")
    assert result.status == status, result.err
    return json.loads(result.out)


@pytest.mark.parametrize(("options", "min_prob"), [((), 0.5), (("--min-prob", 0.3), 0.3)])
def test_metrics_agree_with_scikit_learn(weights, images, label_column, expected, options, min_prob):
    report = report_of(images, "--csv", label_column, "--weights", weights, *options)
    targets, probabilities = expected
    predicted = probabilities >= min_prob
    assert (report["images"], report["classes"], report["averaged_classes"]) == (40, 5, 4)
    auc, precisions = metrics.roc_auc_score, metrics.average_precision_score
    assert report["mean_roc_auc"] == pytest.approx(auc(targets[:, :4], probabilities[:, :4], average="macro"))
    map_ = precisions(targets[:, :4], probabilities[:, :4], average="macro")
    assert report["mean_average_precision"] == pytest.approx(map_) and 0.3 < map_ < 0.95
    for average, rows in (("macro", slice(4)), ("micro", slice(5))):
        scores = metrics.precision_recall_fscore_support(
            targets[:, rows], predicted[:, rows], average=average, zero_division=0
        )
        assert tuple(report[average].values()) == pytest.approx(scores[:3])
    for n, row in enumerate(report["per_class"][:4]):
        assert (row["label"], row["positives"]) == (FINDINGS[n], targets[:, n].sum())
        assert row["roc_auc"] == pytest.approx(auc(targets[:, n], probabilities[:, n]))
        assert row["average_precision"] == pytest.approx(precisions(targets[:, n], probabilities[:, n]))
    hernia = report["per_class"][4]
    assert hernia["roc_auc"] is hernia["average_precision"] is hernia["recall"] is None
    assert report["subset_accuracy"]["value"] == metrics.accuracy_score(targets, predicted)
    assert report["settings"]["min_prob"] == min_prob and "restrict" not in report["settings"]


def test_both_forms_of_tables(weights, images, label_column, class_columns):
    reports = [report_of(images, "--csv", file, "--weights", weights) for file in (label_column, class_columns)]
    for report in reports:
        del report["settings"]["images"]
    assert reports[0] == reports[1]


def test_engines(weights, images, label_column, keras):
    onnx, tensorflow = (
        report_of(images, "--csv", label_column, "--weights", weights, "--engine", engine)
        for engine in ("onnx", "tensorflow")
    )
    assert tensorflow["mean_roc_auc"] == pytest.approx(onnx["mean_roc_auc"])


def test_uncertain_values(weights, images, class_columns, expected, tmp_path):
    """An uncertain value leaves out the image for this class only."""
    text = class_columns.read_text().splitlines()
    lines = [line.split(",") for line in text]
    targets, probabilities = expected
    for number in range(1, 11):
        lines[number][2] = "-1.0"
    (tmp_path / "t.csv").write_text("\n".join(map(",".join, lines)))
    result = densenet("evaluate", images, "--csv", tmp_path / "t.csv", "--weights", weights, "--format", "json")
    assert "10 uncertain values" in result.err
    report = json.loads(result.out)
    edema, mass = report["per_class"][:2]
    assert (edema["images"], mass["images"], report["images"]) == (30, 40, 40)
    assert edema["roc_auc"] == pytest.approx(metrics.roc_auc_score(targets[10:, 0], probabilities[10:, 0]))


def test_summary(weights, images, label_column, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    result = densenet("evaluate", images, "--csv", label_column, "--weights", weights)
    assert result.status == 0
    for words in ("findings", "40 images", "5 labels", "Mean average precision", "4 labels", "Mean ROC AUC", "Hernia"):
        assert words in result.out
    assert max(map(len, result.out.splitlines())) <= 80


def test_files(weights, images, label_column, expected, tmp_path):
    out, mistakes, plots, page = (tmp_path / name for name in ("report.json", "mistakes.csv", "plots", "page.html"))
    outputs = ("-o", out, "--mistakes", mistakes, "--plots", plots, "--html", page)
    arguments = ("evaluate", images, "--csv", label_column, "--weights", weights)
    assert densenet(*arguments, *outputs).status == 0
    report = json.loads(out.read_text())
    assert report == report_of(*arguments[1:])

    targets, probabilities = expected
    wrong = (probabilities >= 0.5) != targets
    confidence = np.where(targets == 1, 1 - probabilities, probabilities)
    with mistakes.open(newline="") as file:
        rows = list(csv.DictReader(file))
    paths = [str(path) for path in sorted(images.iterdir())]
    found = [(paths.index(row["source"]), int(row["index"])) for row in rows]
    assert sorted(found) == [tuple(pair) for pair in np.argwhere(wrong)]
    assert [confidence[pair] for pair in found] == sorted((confidence[wrong]), reverse=True)
    for row, pair in zip(rows, found, strict=True):
        assert row["label"] == FINDINGS[pair[1]]
        assert row["error"] == ("false_negative" if targets[pair] else "false_positive")
        assert np.float32(row["probability"]) == pytest.approx(probabilities[pair], abs=1e-6)

    assert sorted(path.name for path in plots.iterdir()) == ["precision_recall_curves.png", "roc_curves.png"]
    for path in plots.iterdir():
        with Image.open(path) as image:
            image.load()
            assert min(image.size) > 400

    text = read(page).text
    for value in (f"{report['mean_average_precision']:.2%}", f"{report['mean_roc_auc']:.3f}", "True labels"):
        assert value in text
    assert len([row for row in read(page).rows() if "mistake" in row["class"]]) == wrong.any(axis=1).sum()
    for option, path in (("--plots", plots), ("--mistakes", mistakes)):
        assert densenet(*arguments, option, path).status == 2


def test_failed_images(weights, images, tmp_path):
    (tmp_path / "t.csv").write_text("path,label\n000.png,Edema\n001.png,Mass|Edema\nmissing.png,\n")
    report = report_of(images, "--csv", tmp_path / "t.csv", "--weights", weights, status=1)
    assert (report["images"], report["failed"]) == (2, 1)
    (tmp_path / "t.csv").write_text("path,label\nmissing.png,Edema\n")
    result = densenet("evaluate", images, "--csv", tmp_path / "t.csv", "--weights", weights)
    assert result.status == 1 and "1 image failed" in result.err


def test_options_that_do_not_apply(weights, images, label_column, tmp_path):
    (images.parent / "single").mkdir(exist_ok=True)
    single = tiny_weights(images.parent / "single")
    table = tmp_path / "single.csv"
    table.write_text("path,label\n000.png,class 1\n")
    for arguments, words in (
        ((images, "--csv", label_column, "--restrict", "--weights", weights), "--restrict"),
        ((images, "--weights", weights), "--csv"),
        ((images, "--csv", label_column, "--weights", single), "several labels"),
        ((images, "--csv", table, "--min-prob", 0.5, "--weights", single), "--min-prob"),
    ):
        result = densenet("evaluate", *arguments)
        assert (result.status, result.out) == (2, ""), result.err
        assert words in result.err


def test_notes_have_no_trailing_spaces(weights, images, tmp_path):
    (tmp_path / "t.csv").write_text("path,label\n000.png,Edema\n001.png,Edema\n")
    result = densenet("evaluate", images, "--csv", tmp_path / "t.csv", "--weights", weights)
    notes = result.out.splitlines()[-2:]
    assert "Precision" in notes[0] and "means" in notes[1]
    assert all(note == note.rstrip() for note in notes)


def test_all_pages_have_the_labels_of_their_file(weights, images, tmp_path):
    pages = [Image.open(images / name) for name in ("000.png", "001.png", "002.png")]
    pages[0].save(tmp_path / "scan.tif", save_all=True, append_images=pages[1:])
    (tmp_path / "t.csv").write_text("path,label\nscan.tif,Edema|Mass\nscan.tif[1],Hernia\n")
    arguments = ("--csv", tmp_path / "t.csv", "--weights", weights)
    for pages_option, images_of in (("first", [1, 1, 0, 0, 1]), ("all", [3, 3, 0, 0, 1])):
        report = report_of(*arguments, "--pages", pages_option)
        assert [row["positives"] for row in report["per_class"]] == images_of
