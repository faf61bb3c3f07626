"""``densenet calibrate`` from end to end, and what other commands make of a calibrated model."""

from __future__ import annotations

import json
import shutil

import numpy as np
import onnxruntime
import pytest
from safetensors.numpy import load_file

from densenet_cli import Classifier, UsageError
from densenet_cli.calibration import record
from densenet_cli.calibration.record import Calibration
from densenet_cli.datasets import LabeledSource
from densenet_cli.evaluation.calibrate import LogitCollector, calibrate
from densenet_cli.images.sources import from_object
from densenet_cli.weights import checkpoint
from tests.support.calibration import SCALE, logits_of
from tests.support.checkpoints import write_small_variances, write_torchvision
from tests.support.command import densenet
from tests.support.networks import FINDINGS


@pytest.fixture(scope="module")
def folder(calibrated_folder):
    return calibrated_folder


@pytest.fixture(scope="module")
def multi_label_folder(calibrated_multi_label_folder):
    return calibrated_multi_label_folder


def run_json(command, *arguments, status=0):
    result = densenet(command, *arguments, "--format", "json")
    assert result.status == status, result.err
    return json.loads(result.out)


def calibration_of(path):
    stored = checkpoint.read(path)
    return Calibration.from_dict(stored.metadata.calibration, stored.config.classes)


def probabilities(weights, images, **settings):
    with Classifier(weights=weights, **settings) as classifier:
        results = classifier.stream(map(from_object, sorted(images.iterdir())))
        return np.stack([result.outputs["probabilities"] for result in results])


def test_report(folder, tmp_path):
    """The temperature is that of the labels, and before and after agree with ``evaluate``."""
    output = tmp_path / "c.safetensors"
    arguments = [folder / "images", "--csv", folder / "labels.csv"]
    report = run_json("calibrate", *arguments, "--weights", folder / "model.safetensors", "-o", output)
    assert report["images"] == 300 and report["failed"] == 0
    assert report["temperature"] == pytest.approx(SCALE, rel=0.2)
    assert report["after"]["negative_log_likelihood"] < report["before"]["negative_log_likelihood"]
    assert report["after"]["calibration_error"] < report["before"]["calibration_error"]
    for name, options in (("before", ["--uncalibrated"]), ("after", [])):
        evaluated = run_json("evaluate", *arguments, "--weights", output, *options)
        assert evaluated["top1"]["value"] == report["accuracy"]
        for metric, value in report[name].items():
            assert evaluated[metric] == pytest.approx(value, rel=1e-5, abs=1e-7)
        if name == "after":
            assert evaluated["uncalibrated"] == pytest.approx(report["before"], rel=1e-5)
            assert densenet("evaluate", *arguments, "--weights", output).out.count("uncalibrated") == 2
        else:
            assert evaluated["uncalibrated"] is None
    table = densenet("calibrate", *arguments, "--weights", output, "-o", output, "--overwrite")
    assert table.status == 0 and f"{report['temperature']:.4f}" in table.out


def test_report_of_a_multi_label_model(multi_label_folder, tmp_path):
    folder, output = multi_label_folder, tmp_path / "c.safetensors"
    arguments = [folder / "images", "--csv", folder / "labels.csv"]
    report = run_json("calibrate", *arguments, "--weights", folder / "findings.safetensors", "-o", output)
    assert report["temperature"] == pytest.approx([2] * len(FINDINGS), rel=0.5)
    assert report["after"]["negative_log_likelihood"] < report["before"]["negative_log_likelihood"]
    for name, options in (("before", ["--uncalibrated"]), ("after", [])):
        evaluated = run_json("evaluate", *arguments, "--weights", output, *options)
        assert {key: evaluated[key] for key in report[name]} == pytest.approx(report[name], rel=1e-5)
        if name == "after":
            assert evaluated["uncalibrated"] == pytest.approx(report["before"], rel=1e-5)
            page = tmp_path / "page.html"
            result = densenet("evaluate", *arguments, "--weights", output, "--html", page)
            assert result.out.count("uncalibrated") == page.read_text().count(" uncalibrated") == 2
        else:
            assert evaluated["uncalibrated"] is None
    result = densenet("calibrate", *arguments, "--weights", output, "-o", output, "--overwrite")
    assert all(name in result.out for name in FINDINGS)


def test_evaluation_of_a_multi_label_model_uses_its_thresholds(multi_label_folder):
    folder = multi_label_folder
    arguments = [folder / "images", "--csv", folder / "labels.csv", "--weights"]
    calibrated = run_json("evaluate", *arguments, folder / "calibrated.safetensors")
    assert calibrated["settings"]["min_prob"] is None
    raw = run_json("evaluate", *arguments, folder / "findings.safetensors")
    same = run_json("evaluate", *arguments, folder / "calibrated.safetensors", "--min-prob", 0.5)
    assert same["macro"] == raw["macro"]  # A temperature does not move a probability across 0.5.
    assert calibrated["macro"]["f1"] > raw["macro"]["f1"]
    assert calibrated["mean_roc_auc"] == pytest.approx(raw["mean_roc_auc"])
    thresholds = calibration_of(folder / "calibrated.safetensors").thresholds
    predicted = probabilities(folder / "calibrated.safetensors", folder / "images") >= np.float32(thresholds)
    assert [row["predicted"] for row in calibrated["per_class"]] == predicted.sum(axis=0).tolist()
    table = densenet("evaluate", *arguments, folder / "calibrated.safetensors")
    assert "threshold" in table.out


def test_weights_and_raw_probabilities_are_bit_identical(folder):
    model, calibrated = folder / "model.safetensors", folder / "calibrated.safetensors"
    before, after = load_file(model), load_file(calibrated)
    assert before.keys() == after.keys()
    assert all(before[name].tobytes() == after[name].tobytes() for name in before)
    raw = probabilities(model, folder / "images")
    np.testing.assert_array_equal(probabilities(calibrated, folder / "images", uncalibrated=True), raw)
    calibration = calibration_of(calibrated)
    expected = calibration.probabilities(logits_of(model, folder / "images"))
    np.testing.assert_array_equal(probabilities(calibrated, folder / "images"), expected)
    assert np.abs(expected - raw).max() > 0.1


def test_calibrating_again_gives_the_same_calibration(folder, tmp_path):
    output = tmp_path / "again.safetensors"
    result = densenet(
        "calibrate", folder / "images", "--csv", folder / "labels.csv", "--weights", folder / "calibrated.safetensors",
        "-o", output,
    )  # fmt: skip
    assert result.status == 0
    first, second = calibration_of(folder / "calibrated.safetensors"), calibration_of(output)
    assert (first.temperature, first.to_dict()["scores"]) == (second.temperature, second.to_dict()["scores"])


def test_checkpoint_of_another_format(folder, tmp_path):
    stored = checkpoint.read(folder / "model.safetensors")
    write_torchvision(tmp_path / "torch.safetensors", stored.arrays, stored.config)
    labels = tmp_path / "labels.txt"
    labels.write_text("".join(f"{label.name}\n" for label in stored.metadata.labels))
    options = ["--weights", tmp_path / "torch.safetensors", "--labels", labels, "--input-size", "32"]
    options += ["--preprocess", "squash"]
    output = tmp_path / "c.safetensors"
    result = densenet("calibrate", folder / "images", "--csv", folder / "labels.csv", *options, "-o", output)
    assert result.status == 0, result.err
    calibrated = checkpoint.read(output)
    assert calibrated.metadata.labels == stored.metadata.labels
    assert calibrated.metadata.input_size == 32
    assert calibration_of(output).temperature == pytest.approx(
        calibration_of(folder / "calibrated.safetensors").temperature, rel=1e-4
    )
    settings = {"labels": labels, "input_size": 32, "preprocess": "squash"}
    expected = probabilities(tmp_path / "torch.safetensors", folder / "images", **settings)
    np.testing.assert_array_equal(probabilities(output, folder / "images", uncalibrated=True), expected)


def test_checkpoint_with_small_variances(folder, tmp_path):
    """They are smaller than the difference between PyTorch's epsilon and Keras'."""
    stored = checkpoint.read(folder / "model.safetensors")
    weights, output = tmp_path / "torch.safetensors", tmp_path / "c.safetensors"
    write_small_variances(weights, stored.arrays, stored.config)
    labels = tmp_path / "labels.txt"
    labels.write_text("".join(f"{label.name}\n" for label in stored.metadata.labels))
    settings = {"labels": labels, "input_size": 32, "preprocess": "squash"}
    options = ["--weights", weights, "--labels", labels, "--input-size", "32", "--preprocess", "squash"]
    result = densenet("calibrate", folder / "images", "--csv", folder / "labels.csv", *options, "-o", output)
    assert result.status == 0, result.err
    expected = probabilities(weights, folder / "images", **settings)
    np.testing.assert_array_equal(probabilities(output, folder / "images", uncalibrated=True), expected)


def test_commands_report_the_same_probabilities(folder, tmp_path):
    image, weights = folder / "images" / "000.png", folder / "calibrated.safetensors"
    both = []
    for options in ([], ["--uncalibrated"]):
        predicted = run_json("predict", image, "--weights", weights, *options)[0]["predictions"][0]
        explained = run_json("explain", image, "--weights", weights, *options)[0]["maps"][0]
        assert (explained["label"], explained["probability"]) == (predicted["label"], predicted["probability"])
        both.append(predicted["probability"])
        page = tmp_path / f"{len(options)}.html"
        assert densenet("predict", image, "--weights", weights, *options, "--html", page).status == 0
        assert f"{predicted['probability']:.2%}" in page.read_text()
    assert both[0] < both[1]


@pytest.mark.parametrize("name", ["calibrated.safetensors", "multi-label"])
def test_exported_network_is_calibrated(folder, multi_label_folder, tmp_path, name):
    if name == "multi-label":
        folder = multi_label_folder
    weights = folder / "calibrated.safetensors"
    with Classifier(weights=weights) as classifier:
        pixels = np.concatenate([classifier.load(path) for path in sorted((folder / "images").iterdir())[:20]])
    for options, settings in (([], {}), (["--uncalibrated"], {"uncalibrated": True})):
        expected = probabilities(weights, folder / "images", **settings)[:20]
        path = tmp_path / f"{len(options)}.onnx"
        result = densenet("export", "--weights", weights, *options, "-o", path)
        assert result.status == 0, result.err
        session = onnxruntime.InferenceSession(path)
        exported = session.run(["probabilities"], {"pixels": pixels.transpose(0, 3, 1, 2)})[0]
        np.testing.assert_allclose(exported, expected, atol=1e-5)
        # A safetensors file is a checkpoint for this package as well.
        path = tmp_path / f"{len(options)}.safetensors"
        assert densenet("export", "--weights", weights, *options, "-o", path).status == 0
        np.testing.assert_allclose(probabilities(path, folder / "images")[:20], expected, atol=1e-5)
        assert (checkpoint.read(path).metadata.calibration is None) == bool(options)


def test_resume_requires_the_same_calibration(folder, tmp_path):
    output = tmp_path / "labels.csv"
    arguments = ["predict", folder / "images", "--weights", folder / "calibrated.safetensors", "-o", output]
    assert densenet(*arguments).status == 0
    assert densenet(*arguments, "--resume").status == 0
    for options in (["--uncalibrated"], ["--max-error", 0.2], ["--coverage", 0.9]):
        assert densenet(*arguments, "--resume", *options).status == 2


def test_both_probabilities_with_ten_crop(folder):
    with Classifier(weights=folder / "calibrated.safetensors", ten_crop=True, preprocess="crop") as classifier:
        source = from_object(folder / "images" / "000.png")
        (result,) = classifier.stream([source], ("raw_probabilities", "probabilities", "logits"))
    assert list(result.outputs) == ["raw_probabilities", "probabilities", "logits"]
    assert result.outputs["raw_probabilities"].max() > result.outputs["probabilities"].max()


def write_table(path, rows):
    path.write_text("path,label\n" + "".join(f"{name},{label}\n" for name, label in rows))
    return path


@pytest.mark.parametrize(
    ("case", "status", "text"),
    [
        ("too few images", 2, "100"),
        ("unknown class", 2, "zebra"),
        ("wrong labels", 2, "chance"),
        ("existing file", 2, "--overwrite"),
        ("suffix", 2, ".safetensors"),
        ("no images", 2, "--csv"),
    ],
)
def test_invalid_input(folder, tmp_path, case, status, text):
    rows = [line.split(",") for line in (folder / "labels.csv").read_text().split()[1:]]
    output, images = tmp_path / "c.safetensors", [folder / "images"]
    if case == "too few images":
        rows = rows[:99]
    elif case == "unknown class":
        rows[50][1] = "zebra"
    elif case == "wrong labels":
        logits = logits_of(folder / "model.safetensors", folder / "images")
        names = ("ant", "bee", "cow", "dog", "elk", "fox", "gnu", "hen", "ibis", "jay")
        rows = [(name, names[row.argmin()]) for (name, _), row in zip(rows, logits, strict=True)]
    elif case == "existing file":
        output.write_bytes(b"something")
    elif case == "suffix":
        output = tmp_path / "c.keras"
    table = ["--csv", write_table(tmp_path / "labels.csv", rows)]
    if case == "no images":
        images, table = [], []
    result = densenet("calibrate", *images, *table, "--weights", folder / "model.safetensors", "-o", output)
    assert result.status == status and text in result.err
    assert result.out == ""
    assert not output.exists() or output.read_bytes() == b"something"


def test_too_many_images_are_refused_before_the_others_are_classified(folder, monkeypatch):
    monkeypatch.setattr(record, "MAX_SCORES", 150 * 5)
    weights = folder / "model.safetensors"
    with Classifier(weights=weights) as classifier:
        collector = LogitCollector(classifier)
        paths = sorted((folder / "images").iterdir())
        sources = [LabeledSource(str(path), str(path), "path", target=0) for path in paths]
        with pytest.raises(UsageError, match="at most 150 images"):
            for result in classifier.stream(sources, collector.outputs):
                collector.add(result)
    assert len(collector._logits) == 151


def test_damaged_image(folder, tmp_path):
    images = tmp_path / "images"
    shutil.copytree(folder / "images", images)
    (images / "007.png").write_bytes(b"no image")
    output = tmp_path / "c.safetensors"
    options = ["--csv", folder / "labels.csv", "--weights", folder / "model.safetensors", "-o", output]
    report = run_json("calibrate", images, *options, status=1)
    assert (report["images"], report["failed"]) == (299, 1)
    assert calibration_of(output).images == 299


def test_class_folders(folder, tmp_path):
    for line in (folder / "labels.csv").read_text().split()[1:]:
        name, label = line.split(",")
        (tmp_path / "val" / label).mkdir(parents=True, exist_ok=True)
        shutil.copy(folder / "images" / name, tmp_path / "val" / label / name)
    output = tmp_path / "c.safetensors"
    report = run_json("calibrate", tmp_path / "val", "--weights", folder / "model.safetensors", "-o", output)
    expected = calibration_of(folder / "calibrated.safetensors")
    assert report["temperature"] == pytest.approx(expected.temperature)


def test_python_api_refuses_ten_crop(folder):
    classifier = Classifier(weights=folder / "model.safetensors", ten_crop=True, preprocess="crop")
    with pytest.raises(UsageError):
        calibrate(classifier, [])
