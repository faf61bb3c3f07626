"""``densenet predict`` with a calibrated model: sets of labels and unsure images."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest

from densenet_cli import Classifier, UsageError
from densenet_cli.calibration import conformal, selective
from densenet_cli.calibration.record import Calibration
from densenet_cli.engines import precision
from densenet_cli.images.sources import from_object
from densenet_cli.weights import checkpoint
from tests.report.conftest import read
from tests.support.calibration import LABELS
from tests.support.command import densenet
from tests.support.networks import FINDINGS


@pytest.fixture(scope="module")
def folder(calibrated_folder):
    return calibrated_folder


@pytest.fixture(scope="module")
def multi_label_folder(calibrated_multi_label_folder):
    return calibrated_multi_label_folder


@pytest.fixture(scope="module")
def probabilities(folder, tmp_path_factory):
    """The calibrated probabilities of the images."""
    return probabilities_of(folder)


def probabilities_of(folder):
    with Classifier(weights=folder / "calibrated.safetensors") as classifier:
        results = classifier.stream(map(from_object, sorted((folder / "images").iterdir())))
        return np.stack([result.outputs["probabilities"] for result in results])


def read_csv(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def targets_of(folder):
    rows = read_csv(folder / "labels.csv")
    return np.array([LABELS.index(row["label"]) for row in rows])


def records_of(folder, *options, status=0):
    result = densenet(
        "predict", folder / "images", "--weights", folder / "calibrated.safetensors", *options, "--format", "jsonl"
    )
    assert result.status == status, result.err
    return [json.loads(line) for line in result.out.splitlines()]


@pytest.mark.parametrize("by_class", [False, True])
@pytest.mark.parametrize("method", ["lac", "raps"])
def test_sets(folder, probabilities, method, by_class):
    """They follow from the scores of the calibration images alone, which are the same images here."""
    targets = targets_of(folder)
    options = ["--coverage", 0.8, "--set-method", method, *(["--by-class"] if by_class else [])]
    records = records_of(folder, *options, "-k", 2)
    scores = conformal.true_scores(probabilities, targets, method)
    if by_class:
        threshold = np.array([conformal.quantile(scores[targets == position], 0.8) for position in range(10)])
    else:
        threshold = conformal.quantile(scores, 0.8)
    expected = conformal.label_scores(probabilities, method) <= threshold + 1e-6
    assert [{score["index"] for score in record["set"]} for record in records] == [
        set(np.flatnonzero(row).tolist()) for row in expected
    ]
    assert {len(record["predictions"]) for record in records} == {2}
    for record in records:
        assert [score["rank"] for score in record["set"]] == sorted(score["rank"] for score in record["set"])
        assert all(score in record["set"] for score in record["predictions"]) or len(record["set"]) < 2 or by_class
        assert "unsure" not in record
    covered = [target in {score["index"] for score in r["set"]} for target, r in zip(targets, records, strict=True)]
    assert 0.8 <= np.mean(covered) < 0.9


def test_error_limit(folder, probabilities):
    targets = targets_of(folder)
    records = records_of(folder, "--max-error", 0.35)
    confidences, is_correct = probabilities.max(axis=1), probabilities.argmax(axis=1) == targets
    threshold = selective.find_threshold(confidences, is_correct, 0.35)
    assert 0.05 < threshold.coverage < 0.95
    assert [record["unsure"] for record in records] == (confidences < threshold.confidence).tolist()
    assert all(len(record["predictions"]) == 5 and "set" not in record for record in records)


def test_impossible_error_limit(folder):
    result = densenet(
        "predict", folder / "images", "--weights", folder / "calibrated.safetensors", "--max-error", 0.001,
        "--format", "jsonl",
    )  # fmt: skip
    assert result.status == 0
    assert all(json.loads(line)["unsure"] for line in result.out.splitlines())
    assert "0.001" in result.err and "300" in result.err


def test_csv(folder, tmp_path):
    output = tmp_path / "labels.csv"
    options = ["--coverage", 0.8, "--max-error", 0.35]
    result = densenet(
        "predict", folder / "images", "--weights", folder / "calibrated.safetensors", *options, "-k", 1, "-o", output
    )
    assert result.status == 0
    rows = read_csv(output)
    records = records_of(folder, *options)
    assert [row["unsure"] for row in rows] == [str(record["unsure"]).lower() for record in records]
    assert [row["set"].split("|") for row in rows] == [
        [score["label"] for score in record["set"]] or [""] for record in records
    ]
    settings = json.loads((tmp_path / "labels.csv.meta.json").read_text())
    assert (settings["coverage"], settings["max_error"], settings["calibrated"]) == (0.8, 0.35, True)


def test_table_marks_the_set(folder):
    image, weights = folder / "images" / "000.png", folder / "calibrated.safetensors"
    records = records_of(folder, "--coverage", 0.9)
    size = len(records[0]["set"])
    result = densenet("predict", image, "--weights", weights, "--coverage", 0.9, "--max-error", 0.001, "-k", 1)
    assert result.out.count("✓") == size > 1
    assert "Unsure" in result.out
    assert all(score["label"] in result.out for score in records[0]["set"])


def test_python_api(folder):
    records = records_of(folder, "--coverage", 0.9, "--max-error", 0.3, "--by-class", "--set-method", "raps")
    with Classifier(weights=folder / "calibrated.safetensors") as classifier:
        decisions = {"coverage": 0.9, "max_error": 0.3, "by_class": True, "set_method": "raps"}
        predictions = list(classifier.predict_many([folder / "images"], **decisions))
        assert [prediction.to_dict()["set"] for prediction in predictions] == [record["set"] for record in records]
        first = classifier.predict(folder / "images" / "000.png", **decisions)
        assert (first.set, first.unsure) == (predictions[0].set, predictions[0].unsure)
        plain = classifier.predict(folder / "images" / "000.png")
        assert (plain.set, plain.unsure) == (None, None)
        for wrong in ({"coverage": 0}, {"coverage": 1}, {"max_error": float("nan")}, {"max_error": -0.1}):
            with pytest.raises(UsageError):
                classifier.predictor(**wrong)


@pytest.mark.parametrize(
    ("options", "texts"),
    [
        (["--coverage", "0.999"], ["--coverage", "999", "300"]),
        (["--coverage", "0.98", "--by-class"], ["49", "cow"]),
        (["--coverage", "1"], ["--coverage"]),
        (["--coverage", "nan"], ["--coverage"]),
        (["--max-error", "0"], ["--max-error"]),
        (["--set-method", "raps"], ["--coverage"]),
        (["--max-error", "0.1", "--set-method", "raps"], ["--coverage"]),
        (["--by-class"], ["--coverage", "--max-error"]),
        (["--coverage", "0.9", "--uncalibrated"], ["--coverage", "--uncalibrated"]),
    ],
)
def test_invalid_options(folder, options, texts):
    result = densenet("predict", folder / "images", "--weights", folder / "calibrated.safetensors", *options)
    assert result.status == 2 and result.out == ""
    assert all(text in result.err for text in texts)


@pytest.mark.parametrize("option", ["--coverage", "--max-error"])
def test_uncalibrated_model(folder, option):
    result = densenet("predict", folder / "images", "--weights", folder / "model.safetensors", option, 0.1)
    assert result.status == 2
    assert option in result.err and "densenet calibrate" in result.err


def test_other_preprocessing_gives_a_warning(folder):
    weights, options = folder / "calibrated.safetensors", ["--coverage", 0.9]
    image = folder / "images" / "000.png"
    assert "Warning" not in densenet("predict", image, "--weights", weights, *options).err
    result = densenet("predict", image, "--weights", weights, *options, "--preprocess", "pad")
    assert result.status == 0 and "Warning" in result.err and "squash" in result.err
    assert "Warning" not in densenet("predict", image, "--weights", weights, "--preprocess", "pad").err
    result = densenet("predict", image, "--weights", weights, *options, "--exact")
    assert result.status == 0 and "Warning" in result.err and "exact" in result.err


@pytest.mark.skipif("bfloat16" not in precision.supported(), reason="this processor does not compute in bfloat16")
def test_another_precision_gives_a_warning(folder, tmp_path):
    """Not if the model was calibrated in it."""
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    image, half = folder / "images" / "000.png", tmp_path / "half.safetensors"
    options = ["--precision", "bfloat16"]
    arguments = [folder / "images", "--csv", folder / "labels.csv", "--weights", folder / "model.safetensors"]
    assert densenet("calibrate", *arguments, *options, "-o", half).status == 0
    for weights, warned in ((folder / "calibrated.safetensors", True), (half, False)):
        result = densenet("predict", image, "--weights", weights, "--coverage", 0.9, *options)
        assert result.status == 0 and ("Warning" in result.err) == ("calibrated in float32" in result.err) == warned
    assert "calibrated in bfloat16" in densenet("predict", image, "--weights", half, "--max-error", 0.3).err


def test_sets_of_a_multi_label_model(multi_label_folder):
    folder = multi_label_folder
    probabilities = probabilities_of(folder)
    rows = read_csv(folder / "labels.csv")
    targets = np.array([[int(row[name]) for name in FINDINGS] for row in rows])
    records = records_of(folder, "--coverage", 0.9)
    sets = np.array([[n in {score["index"] for score in record["set"]} for n in range(5)] for record in records])
    for position in range(5):
        is_positive = targets[:, position] == 1
        threshold = conformal.quantile(1 - probabilities[is_positive, position].astype(np.float64), 0.9)
        np.testing.assert_array_equal(sets[:, position], 1 - probabilities[:, position] <= threshold + 1e-7)
        assert sets[is_positive, position].mean() >= 0.9


def test_labels_of_a_multi_label_model(multi_label_folder):
    """Without options, they reach the thresholds; with an error limit, the limit of each class."""
    folder = multi_label_folder
    probabilities = probabilities_of(folder)
    stored = checkpoint.read(folder / "calibrated.safetensors").metadata.calibration
    calibration = Calibration.from_dict(stored, 5)

    def reported(*options):
        return np.array(
            [
                [n in {score["index"] for score in record["predictions"]} for n in range(5)]
                for record in records_of(folder, *options)
            ]
        )

    np.testing.assert_array_equal(reported(), probabilities >= np.float32(calibration.thresholds))
    np.testing.assert_array_equal(reported("--min-prob", 0.3), probabilities >= np.float32(0.3))
    weights = folder / "calibrated.safetensors"
    table = densenet("predict", folder / "images", "--weights", weights, "--html", folder / "page.html", "--overwrite")
    assert "threshold" in table.out
    unlabeled = [row for row in read(folder / "page.html").rows() if "unlabeled" in row["class"]]
    assert len(unlabeled) == (~reported().any(axis=1)).sum()
    records = records_of(folder, "--max-error", 0.45)
    thresholds = [selective.find_threshold(*label, 0.45).confidence for label in calibration.label_scores]
    expected = probabilities >= np.array(thresholds)
    assert expected.any() and not expected.all()
    np.testing.assert_array_equal(reported("--max-error", 0.45), expected)
    assert [record["unsure"] for record in records] == (~expected.any(axis=1)).tolist()
    result = densenet(
        "predict", folder / "images", "--weights", folder / "calibrated.safetensors", "--coverage", 0.9,
        "--set-method", "raps",
    )  # fmt: skip
    assert result.status == 2


def test_error_limit_of_each_class(folder, probabilities):
    """Classes without a threshold are never assigned, which a message says."""
    targets, predicted = targets_of(folder), probabilities.argmax(axis=1)
    confidences, is_correct = probabilities.max(axis=1), predicted == targets
    groups = [predicted == position for position in range(10)]
    found = [selective.find_threshold(confidences[rows], is_correct[rows], 0.4) for rows in groups]
    thresholds = np.array([threshold.confidence for threshold in found])
    missing = int(np.isinf(thresholds).sum())
    assert 0 < missing < 10
    result = densenet(
        "predict", folder / "images", "--weights", folder / "calibrated.safetensors", "--max-error", 0.4, "--by-class",
        "--format", "jsonl",
    )  # fmt: skip
    unsure = [json.loads(line)["unsure"] for line in result.out.splitlines()]
    assert unsure == (confidences < thresholds[predicted]).tolist()
    assert f"{missing} class" in result.err


def test_html_page_has_filters(folder, tmp_path):
    arguments = ["predict", folder / "images", "--weights", folder / "calibrated.safetensors", "--html"]
    assert densenet(*arguments, tmp_path / "plain.html").status == 0
    assert densenet(*arguments, tmp_path / "both.html", "--coverage", 0.8, "--max-error", 0.35).status == 0
    plain, both = ((tmp_path / name).read_text() for name in ("plain.html", "both.html"))
    records = records_of(folder, "--coverage", 0.8, "--max-error", 0.35)
    for name in ('id="set-size"', 'id="decision"'):
        assert name in both and name not in plain
    for size in range(5):
        assert both.count(f'data-set-size="{size}"') == sum(len(record["set"]) == size for record in records)
    assert both.count('data-decision="unsure"') == sum(record["unsure"] for record in records)
