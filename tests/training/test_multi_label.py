"""Multi-label training: tables, targets, the loss, the metrics, and complete runs."""

from __future__ import annotations

import contextlib
import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from densenet_cli.calibration.record import Calibration
from densenet_cli.classifier import Classifier
from densenet_cli.datasets import DatasetOptions
from densenet_cli.errors import UsageError
from densenet_cli.training import recipes, session
from densenet_cli.training.batches import Subset, split_validation
from densenet_cli.training.multi_label import MultiLabelMetrics, balance_weights, list_multi_label_images
from densenet_cli.training.options import RunOptions
from densenet_cli.training.phases import Phase
from densenet_cli.training.run_files import RunPaths, load_state
from densenet_cli.weights import checkpoint
from tests.support.command import densenet
from tests.training.images import SETTINGS, write_digits

MULTI_LABEL = replace(SETTINGS, multi_label=True, label_smoothing=0.0, validation=40)
CLASSES = ("even", "large", "round")


def digit_labels(digit: int) -> list[str]:
    return [name for name, has in zip(CLASSES, (digit % 2 == 0, digit > 4, digit in (0, 6, 8, 9)), strict=True) if has]


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> Path:
    """A table of digits with labels such as ``even|round``."""
    folder = tmp_path_factory.mktemp("digits")
    write_digits(folder / "digits")
    paths = sorted((folder / "digits").glob("*/*.png"))
    lines = [f"digits/{p.parent.name}/{p.name},{'|'.join(digit_labels(int(p.parent.name)))}\n" for p in paths]
    (folder / "labels.csv").write_text("path,labels\n" + "".join(lines))
    return folder / "labels.csv"


def run_paths(table: Path, output: Path) -> RunPaths:
    return RunPaths(None, None, output, output.parent / "images", table)


@pytest.fixture(scope="module")
def finished(table, tmp_path_factory, keras) -> tuple[Path, float]:
    output = tmp_path_factory.mktemp("run") / "complete"
    started = time.process_time()
    with session.open_run(run_paths(table, output), MULTI_LABEL, RunOptions()) as run:
        run.train()
    return output, time.process_time() - started


def test_a_run_learns_digits_in_under_a_minute(finished, table):
    output, seconds = finished
    state = load_state(output)
    assert seconds < 60
    assert state.best_score > 0.9
    model = checkpoint.read(output / "model.safetensors")
    assert model.config.is_multi_label
    assert [label.name for label in model.metadata.labels] == list(CLASSES)
    metrics = model.metadata.accuracy["validation"]
    assert metrics["mean_average_precision"] == state.best_score
    assert metrics["images"] == 120 and metrics["accuracy"] > 0.85
    log = np.genfromtxt(output / "log.csv", delimiter=",", names=True)
    assert log["val_map"].max() == pytest.approx(state.best_score, abs=1e-5)
    assert np.isnan(log["val_top5"]).all()
    calibration = Calibration.from_dict(model.metadata.calibration, len(CLASSES))
    assert calibration.images == state.calibration_images == 120
    assert [len(scores.is_positive) for scores in calibration.label_scores] == [120] * 3
    assert calibration.accuracy >= metrics["accuracy"] - 0.1
    assert calibration.temperature != (1, 1, 1)


def test_other_commands_use_the_model(finished, table, tmp_path):
    path = finished[0] / "model.safetensors"
    with Classifier(weights=path) as classifier:
        scores = classifier.predict(table.parent / "digits" / "8" / "001.png", top_k=3).scores
        assert {score.label for score in scores if score.probability > 0.5} == {"even", "large", "round"}
    for arguments in (["evaluate", "--csv", table], ["explain", table.parent / "digits" / "8" / "001.png"]):
        output = ["-o", tmp_path / "cam"] if arguments[0] == "explain" else []
        result = densenet(*arguments, *output, "--weights", path)
        assert result.status == 0, result.err


def test_a_stopped_run_is_bit_identical(finished, table, tmp_path):
    settings = replace(MULTI_LABEL, sizes=(Phase(8, 2),), class_weights=True, label_smoothing=0.1)
    states = []
    for name in ("complete", "stopped"):
        paths = run_paths(table, tmp_path / name)
        with session.open_run(paths, settings, RunOptions()) as run:
            if name == "stopped":
                stop = run.stop
                run.options = replace(run.options, on_step=lambda info, stop=stop: info.batch == 9 and stop())
            run.train()
        if name == "stopped":
            with session.open_run(paths, settings, RunOptions(threads=3), resume=True) as run:
                run.train()
        states.append(load_state(paths.output))
    for name, array in states[0].arrays.items():
        assert array.tobytes() == states[1].arrays[name].tobytes(), name


def test_the_command(table, tmp_path, keras):
    recipes.write(tmp_path / "recipe.toml", replace(MULTI_LABEL, sizes=(Phase(8, 1),), multi_label=False))
    arguments = ["train", "--csv", table, "-o", tmp_path / "run", "--config", tmp_path / "recipe.toml", "--multi-label"]
    result = densenet(*arguments)
    assert result.status == 0, result.err
    assert "even 500, large 500, round 400" in result.err
    assert "mAP" in result.err and "mean average precision" in result.err.splitlines()[-1]
    assert densenet("train", "--csv", table, "-o", tmp_path / "run", "--resume", "--epochs", "2").status == 0


def test_a_fitted_head(table, tmp_path):
    started = time.process_time()
    arguments = ["train", "--csv", table, "-o", tmp_path / "run", "--multi-label", "--freeze", "all", "--from", "tiny"]
    arguments += ["--validation", "40"]
    result = densenet(*arguments)
    assert result.status == 0, result.err
    assert time.process_time() - started < 60
    path = tmp_path / "run" / "model.safetensors"
    model = checkpoint.read(path)
    assert model.config.is_multi_label
    score = model.metadata.accuracy["validation"]["mean_average_precision"]
    assert score > 0.9 and f"mean average precision {score:.1%}" in result.err
    assert "calibrated on" in result.err
    calibration = Calibration.from_dict(model.metadata.calibration, len(CLASSES))
    assert calibration.images == model.metadata.accuracy["validation"]["images"] >= 100
    assert len(calibration.temperature) == len(set(calibration.thresholds)) == len(CLASSES)
    images = table.parent / "digits" / "8"
    predicted = densenet("predict", images, "--weights", path, "--coverage", "0.9", "--format", "json")
    sets = [{score["label"] for score in record["set"]} for record in json.loads(predicted.out)]
    assert len(sets) == 100
    assert all(sum(name in labels for labels in sets) > 80 for name in ("even", "round"))
    evaluated = densenet("evaluate", "--csv", table, "--weights", path)
    assert evaluated.status == 0, evaluated.err


def test_then_unfreeze_is_not_worse(table, tmp_path, keras):
    settings = replace(
        recipes.resolve({}, {"start": "tiny", "freeze": "all", "then_unfreeze": True, "multi_label": True}),
        sizes=(Phase(32, 1),), learning_rate=10.0, warmup=0, class_weights=True,
    )  # fmt: skip
    with session.open_run(run_paths(table, tmp_path / "run"), settings, RunOptions()) as run:
        score = run.state.best_score
        assert score > 0.9
        with contextlib.suppress(UsageError):  # the loss is infinite
            run.train()
    assert load_state(tmp_path / "run").best_score >= score
    model = checkpoint.read(tmp_path / "run" / "model.safetensors")
    assert model.metadata.accuracy["validation"]["mean_average_precision"] >= score


def test_without_positive_validation_images_the_last_model_is_kept(table, tmp_path, keras):
    lines = [line for line in table.read_text().splitlines() if "/1/" in line or "/3/" in line]
    validation = table.with_name("validation.csv")
    validation.write_text("path,labels\n" + "\n".join(lines) + "\n")
    paths = replace(run_paths(table, tmp_path / "run"), val=validation)
    with session.open_run(paths, replace(MULTI_LABEL, sizes=(Phase(8, 1),)), RunOptions()) as run:
        run.train()
    metrics = checkpoint.read(tmp_path / "run" / "model.safetensors").metadata.accuracy["validation"]
    assert metrics["images"] == len(lines) and "mean_average_precision" not in metrics


def test_class_columns(tmp_path):
    table = tmp_path / "findings.csv"
    table.write_text("Image Index,age,Cardiomegaly,Edema,view\na.png,1,1,0,PA\nb.png,50,-1,,AP\nc.png,0,1.0,True,PA\n")
    images = list_multi_label_images(str(table), None, DatasetOptions())
    assert images.classes == ("Cardiomegaly", "Edema")
    assert images.target_array().tolist() == [[1, 0], [-1, 0], [1, 1]]
    validation = tmp_path / "val.csv"
    validation.write_text("path,edema\na.png,1\n")
    images = list_multi_label_images(str(validation), None, DatasetOptions(), images.classes)
    assert images.target_array().tolist() == [[-1, 1]]


def test_imbalanced_classes(tmp_path):
    table = tmp_path / "findings.csv"
    for positives, expected in ((1, "10 times"), (2, None), (0, "No training image")):
        rows = [f"{n}.png,1,{int(n < positives)}\n" for n in range(10)]
        table.write_text("path,Edema,Mass\n" + "".join(rows))
        warning = list_multi_label_images(str(table), None, DatasetOptions()).imbalance_warning()
        assert (warning is None) == (expected is None)
        assert warning is None or (expected in warning and "'Mass'" in warning)


def test_label_column(tmp_path):
    table = tmp_path / "findings.csv"
    table.write_text("path,Finding Labels\na.png,Mass|Edema\nb.png,No Finding\nc.png,\na.png,Hernia\n")
    images = list_multi_label_images(str(table), None, DatasetOptions())
    assert images.classes == ("Edema", "Hernia", "Mass")
    assert images.target_array().tolist() == [[1, 1, 1], [0, 0, 0], [0, 0, 0]]
    other = images.fingerprint()
    table.write_text(table.read_text().replace("c.png,", "c.png,Mass"))
    assert list_multi_label_images(str(table), None, DatasetOptions()).fingerprint() != other


@pytest.mark.parametrize("text", ["path,labels\na.png,cat\n", "path,cat\na.png,1\n", "path,age\na.png,42\n"])
def test_too_few_classes(tmp_path, text):
    (tmp_path / "x.csv").write_text(text)
    with pytest.raises(UsageError, match=r"x\.csv"):
        list_multi_label_images(str(tmp_path / "x.csv"), None, DatasetOptions())


def test_class_folders_are_refused(table, tmp_path):
    paths = RunPaths(table.parent / "digits", None, tmp_path / "run", tmp_path / "images")
    with pytest.raises(UsageError, match="`csv`"), session.open_run(paths, MULTI_LABEL, RunOptions()):
        pass


def test_the_metrics_are_those_of_scikit_learn():
    generator = np.random.default_rng(0)
    logits, targets = generator.normal(size=(200, 5)), generator.integers(0, 2, (200, 5))
    logits[:, 1] = logits[:, 1].round()  # equal scores
    targets[generator.random(targets.shape) < 0.2] = -1
    targets[:, 4] = 0  # a class that no image has
    metrics = MultiLabelMetrics.of_logits(logits, targets)
    columns = [(targets[:, n] >= 0, n) for n in range(4)]
    expected = [average_precision_score(targets[known, n], logits[known, n]) for known, n in columns]
    assert metrics.mean_average_precision == pytest.approx(np.mean(expected))
    expected = [roc_auc_score(targets[known, n], logits[known, n]) for known, n in columns]
    assert metrics.mean_roc_auc == pytest.approx(np.mean(expected))
    known = targets >= 0
    probabilities = 1 / (1 + np.exp(-logits[known]))
    losses = np.where(targets[known] == 1, -np.log(probabilities), -np.log(1 - probabilities))
    assert metrics.loss == pytest.approx(losses.mean())
    assert metrics.accuracy == pytest.approx(((probabilities > 0.5) == targets[known]).mean())


@pytest.mark.parametrize("smoothing", [0, 0.1])
def test_the_loss_is_the_binary_cross_entropy_of_keras(keras, smoothing):
    from densenet_cli.training.losses import multi_label_accuracy, multi_label_loss

    generator = np.random.default_rng(0)
    logits = generator.normal(0, 3, (6, 4)).astype(np.float32)
    targets = generator.integers(0, 2, (6, 4)).astype(np.float32)
    loss = multi_label_loss(smoothing, None)
    expected = keras.losses.binary_crossentropy(targets, logits, from_logits=True, label_smoothing=smoothing)
    np.testing.assert_allclose(
        loss(keras.ops.convert_to_tensor(targets), keras.ops.convert_to_tensor(logits)), expected, 1e-5
    )
    # Unknown targets do not count.
    unknown = targets.copy()
    unknown[:, 1] = -1
    rest = [0, 2, 3]
    expected = keras.losses.binary_crossentropy(
        targets[:, rest], logits[:, rest], from_logits=True, label_smoothing=smoothing
    )
    actual = loss(keras.ops.convert_to_tensor(unknown), keras.ops.convert_to_tensor(logits))
    np.testing.assert_allclose(actual, expected, 1e-5)
    accuracy = multi_label_accuracy(keras.ops.convert_to_tensor(unknown), keras.ops.convert_to_tensor(logits))
    np.testing.assert_allclose(accuracy, ((logits > 0) == targets)[:, rest].mean(axis=1), 1e-6)


def test_balanced_weights(keras):
    from densenet_cli.training.losses import multi_label_loss

    targets = np.array([[1, 0], [0, 0], [0, 0], [0, -1]])
    weights = balance_weights(targets)
    np.testing.assert_allclose(weights, [[2 / 3, 1], [2, 1]])
    logits = np.full((1, 2), 0.5, np.float32)
    loss = multi_label_loss(0, weights)(
        keras.ops.convert_to_tensor(np.array([[1.0, 0.0]], np.float32)), keras.ops.convert_to_tensor(logits)
    )
    expected = (2 * np.log(1 + np.exp(-0.5)) + np.log(1 + np.exp(0.5))) / 2
    assert float(loss[0]) == pytest.approx(expected, rel=1e-5)


def test_held_out_images():
    subset = Subset(None, np.arange(100), np.zeros((100, 3), np.int64))
    training, validation = split_validation(subset, 3, 5, 0)
    assert (len(training), len(validation)) == (85, 15)
    assert len(split_validation(subset, 3, 50, 0)[1]) == 20
    assert set(training.indices).isdisjoint(validation.indices)


def test_the_defaults_of_the_recipe():
    assert recipes.resolve({}, {"multi_label": True}).label_smoothing == 0
    assert recipes.resolve({}, {}).label_smoothing == 0.1
    assert recipes.resolve({}, {}).backbone_rate == 1
    assert recipes.resolve({}, {"start": "tiny"}).backbone_rate == 0.1
    assert recipes.resolve({"backbone_rate": 0.5}, {"start": "tiny"}).backbone_rate == 0.5
