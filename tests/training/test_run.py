"""Complete runs: they learn, and an interruption does not change the result."""

from __future__ import annotations

import csv
import json
import math
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from PIL import Image

from densenet_cli import labels
from densenet_cli.calibration import record
from densenet_cli.calibration.record import Calibration
from densenet_cli.classifier import Classifier
from densenet_cli.errors import CheckpointError, ImageError, UsageError
from densenet_cli.images.preprocessing import Preprocessing
from densenet_cli.images.sources import from_object
from densenet_cli.topology import HeadLayer
from densenet_cli.training import initial_weights, recipes, run_files, session
from densenet_cli.training.batches import Subset, split_validation
from densenet_cli.training.image_cache import DecodedOnDemand
from densenet_cli.training.image_list import list_images
from densenet_cli.training.options import RunOptions
from densenet_cli.training.phases import Phase
from densenet_cli.training.run_files import RunPaths, RunState, load_state
from densenet_cli.training.settings import PREPROCESSING, Settings
from densenet_cli.weights import checkpoint, safetensors
from densenet_cli.weights.contents import ModelMetadata
from tests.support.command import densenet
from tests.support.networks import unscaled_arrays
from tests.training.images import SETTINGS, write_digits

SHORT = replace(SETTINGS, sizes=(Phase(8, 2),), averaging=0)


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> Path:
    return write_digits(tmp_path_factory.mktemp("digits"))


def run_paths(digits: Path, output: Path) -> RunPaths:
    return RunPaths(digits, None, output, output.parent / "images")


def train(
    paths: RunPaths,
    settings: Settings,
    stop_at: tuple[int, int] | None = None,
    options: RunOptions | None = None,
    **arguments,
) -> RunState:
    """Train to the end, or to a step (epoch, batch), and return the last state."""
    with session.open_run(paths, settings, options or RunOptions(), **arguments) as run:
        if stop_at:
            run.options = replace(run.options, on_step=lambda info: (info.epoch, info.batch) == stop_at and run.stop())
        run.train()
    return run.state


@pytest.fixture(scope="module")
def finished(digits, tmp_path_factory, keras) -> tuple[Path, RunState, float]:
    """A complete run: its folder, its last state, and its CPU time in seconds."""
    output = tmp_path_factory.mktemp("run") / "complete"
    started = time.process_time()
    state = train(run_paths(digits, output), SETTINGS)
    return output, state, time.process_time() - started


def test_a_run_learns_digits_in_under_a_minute(finished):
    output, state, seconds = finished
    assert state.best_score > 0.9
    assert seconds < 60
    model = checkpoint.read(output / "model.safetensors")
    assert model.config == SETTINGS.config(10)
    assert [label.name for label in model.metadata.labels] == [str(digit) for digit in range(10)]
    assert model.metadata.accuracy["validation"]["top1"] == state.best_score
    assert model.metadata.accuracy["validation"]["images"] == 200
    assert model.metadata.training["seed"] == SETTINGS.seed


def test_the_log_has_a_row_per_epoch(finished):
    output, state, _ = finished
    rows = np.genfromtxt(output / "log.csv", delimiter=",", names=True)
    assert rows["epoch"].tolist() == [1, 2, 3, 4, 5, 6]
    assert rows["size"].tolist() == [12, 12, 16, 16, 16, 16]
    assert rows["val_accuracy"].max() == pytest.approx(state.best_score)
    assert rows["learning_rate"][-1] == 0


def test_the_settings_file_is_a_recipe(finished):
    output, _, _ = finished
    assert recipes.resolve(recipes.read(output / "settings.toml"), {}) == SETTINGS


def test_the_model_is_calibrated_on_its_validation_images(digits, finished, tmp_path):
    """The calibration is that of ``densenet calibrate`` on the same images."""
    output, state, _ = finished
    path = output / "model.safetensors"
    image_list = list_images(str(digits))
    subset = Subset(DecodedOnDemand(image_list.paths, 0), np.arange(len(image_list)), image_list.target_array())
    _, validation = split_validation(subset, 10, SETTINGS.validation, SETTINGS.seed)
    rows = zip(validation.indices, validation.targets, strict=True)
    table = "".join(f"{image_list.paths[index]},{target}\n" for index, target in rows)
    (tmp_path / "validation.csv").write_text("path,label\n" + table)
    again = tmp_path / "again.safetensors"
    result = densenet("calibrate", "--csv", tmp_path / "validation.csv", "--weights", path, "-o", again)
    assert result.status == 0, result.err
    actual, expected = (Calibration.from_dict(checkpoint.read(file).metadata.calibration, 10) for file in (path, again))
    assert actual.images == expected.images == state.calibration_images == 200
    assert actual.accuracy == expected.accuracy == state.best_score
    assert actual.temperature == pytest.approx(expected.temperature, rel=1e-4)
    np.testing.assert_array_equal(actual.scores.targets, expected.scores.targets)
    np.testing.assert_allclose(actual.scores.confidences, expected.scores.confidences, atol=1e-5)
    predicted = densenet("predict", image_list.paths[0], "--weights", path, "--coverage", "0.9", "--format", "json")
    assert predicted.status == 0 and predicted.err == "" and "0" in json.loads(predicted.out)[0]["set"][0]["label"]


def test_both_engines_reproduce_the_validation_accuracy(digits, finished):
    output, _, _ = finished
    image_list = list_images(str(digits))
    sources = [from_object(path) for path in image_list.paths[::20]]
    probabilities = []
    for engine in ("onnx", "tensorflow"):
        with Classifier(weights=output / "model.safetensors", engine=engine) as classifier:
            assert (classifier.preprocessing.mode, classifier.preprocessing.input_size) == ("squash", 16)
            probabilities.append(np.array([result.outputs["probabilities"] for result in classifier.stream(sources)]))
    np.testing.assert_allclose(probabilities[0], probabilities[1], atol=1e-5)
    assert (probabilities[0].argmax(axis=1) == image_list.targets[::20]).mean() > 0.9


def test_a_killed_and_resumed_run_is_bit_identical(digits, finished, tmp_path, monkeypatch):
    """Also if it is resumed on a later day."""
    complete, _, _ = finished
    output = tmp_path / "killed"
    kill(digits, output, SETTINGS, epoch=3, batch=5)
    later = mock.Mock(**{"now.return_value": datetime.now(UTC) + timedelta(days=40)})
    monkeypatch.setattr(record, "datetime", later)
    train(run_paths(digits, output), SETTINGS, resume=True)
    assert (output / "model.safetensors").read_bytes() == (complete / "model.safetensors").read_bytes()
    assert_same_arrays(load_state(output), load_state(complete))


def test_a_killed_and_resumed_run_with_all_options_is_bit_identical(digits, finished, tmp_path, keras):
    """For any number of threads."""
    settings = replace(
        SETTINGS,
        **{"start": str(finished[0] / "model.safetensors"), "freeze": "conv2", "unfreeze_after": 2},
        **{"mixup": 0.2, "cutmix": 1.0, "erase": 0.5, "randaugment": (2, 9), "augmentation": "crop", "flip": True},
        **{
            "clip_norm": 1.0,
            "backbone_rate": 0.5,
            "class_weights": True,
            "averaging": 16,
            "patience": 9,
            "unresized": 0.5,
        },
        sizes=(Phase(8, 2), Phase(12, 2)),
        precision="mixed_bfloat16",
    )
    for name, threads in (("complete", 1), ("killed", 3)):
        paths, options = run_paths(digits, tmp_path / name), RunOptions(threads=threads, tensorboard=tmp_path / "logs")
        if name == "killed":
            kill(digits, paths.output, settings, epoch=1, batch=5)
            options = RunOptions(threads=threads)
        train(paths, settings, options=options, resume=name == "killed")
    complete, killed = tmp_path / "complete", tmp_path / "killed"
    assert (complete / "model.safetensors").read_bytes() == (killed / "model.safetensors").read_bytes()
    assert_same_arrays(load_state(killed), load_state(complete))
    rows = [[{**row, "seconds": 0} for row in load_state(folder).history] for folder in (complete, killed)]
    assert rows[0] == rows[1]


def kill(digits: Path, output: Path, settings: Settings, epoch: int, batch: int) -> None:
    """Train in another process, and kill it after a step, which is counted from 0."""
    recipe = output.with_suffix(".toml")
    recipes.write(recipe, settings)
    command = [sys.executable, "-m", "densenet_cli", "train", digits, "-o", output, "--save-every", "0"]
    command += ["--threads", "2", "--config", recipe]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as child:
        try:
            deadline = time.monotonic() + 300
            while not _has_reached(output, epoch, batch):
                assert child.poll() is None, child.stderr.read().decode()
                assert time.monotonic() < deadline
                time.sleep(0.02)
        finally:
            child.send_signal(signal.SIGKILL)
    killed = load_state(output)
    assert (killed.epoch, killed.batch) >= (epoch, batch)
    assert killed.epoch < settings.epochs, "the run was killed too late to prove anything"


def _has_reached(output: Path, epoch: int, batch: int) -> bool:
    try:
        state = load_state(output)
    except UsageError:
        return False
    return (state.epoch, state.batch) >= (epoch, batch)


def assert_same_arrays(actual: RunState, expected: RunState) -> None:
    assert actual.arrays.keys() == expected.arrays.keys()
    for name, array in actual.arrays.items():
        assert array.tobytes() == expected.arrays[name].tobytes(), name


def test_a_stopped_run_in_bfloat16_is_bit_identical_for_any_number_of_threads(digits, tmp_path, keras):
    settings = replace(
        SHORT, precision="mixed_bfloat16", augmentation="crop", flip=True, averaging=16, class_weights=True
    )
    complete = train(run_paths(digits, tmp_path / "complete"), settings, options=RunOptions(threads=1))
    paths, options = run_paths(digits, tmp_path / "stopped"), RunOptions(threads=3)
    stopped = train(paths, settings, stop_at=(2, 7), options=options)
    assert (stopped.epoch, stopped.batch) == (1, 7)
    resumed = train(paths, settings, resume=True, options=options)
    assert_same_arrays(complete, resumed)
    assert [row["val_loss"] for row in complete.history] == [row["val_loss"] for row in resumed.history]


def test_frozen_stages_do_not_change_until_they_are_unfrozen(digits, finished, tmp_path):
    start = finished[0] / "model.safetensors"
    settings = replace(SHORT, start=str(start), freeze="conv2", unfreeze_after=1)
    initial = checkpoint.read(start).arrays
    paths = run_paths(digits, tmp_path / "run")
    train(paths, settings, stop_at=(1, 25))
    frozen = _network_arrays(paths.output, settings)
    for layer in ("conv1_conv", "conv2_block2_1_bn", "pool2_conv"):
        for name, array in initial[layer].items():
            np.testing.assert_array_equal(frozen[layer][name], array)
    for layer in ("conv3_block1_1_bn", "predictions"):
        assert any((frozen[layer][name] != array).any() for name, array in initial[layer].items())
    state = train(paths, settings, resume=True)
    assert (state.epoch, len(state.history)) == (2, 2)
    unfrozen = _network_arrays(paths.output, settings)
    assert (unfrozen["conv1_conv"]["kernel"] != initial["conv1_conv"]["kernel"]).any()
    assert (unfrozen["conv2_block2_1_bn"]["moving_mean"] != initial["conv2_block2_1_bn"]["moving_mean"]).any()


def _network_arrays(output: Path, settings: Settings):
    from densenet_cli.engines import keras_ops
    from densenet_cli.training import network

    model = network.build(settings.config(10), "float32")
    arrays = load_state(output).arrays
    model.set_weights([arrays[f"variable.{n}"] for n in range(len(model.weights))])
    return keras_ops.get_arrays(model)


def test_other_classes_get_a_new_head(digits, finished, keras):
    from densenet_cli.training import network

    start = str(finished[0] / "model.safetensors")
    same_labels = labels.from_class_names(list_images(str(digits)).classes)
    assert "predictions" in initial_weights.load_arrays(start, SETTINGS.config(10), same_labels)
    arrays = initial_weights.load_arrays(start, SETTINGS.config(7), labels.placeholders(7))
    assert "predictions" not in arrays
    model = network.build(SETTINGS.config(7), "float32")
    network.set_arrays(model, arrays)
    np.testing.assert_array_equal(model.get_layer("conv1_conv").get_weights()[0], arrays["conv1_conv"]["kernel"])


@pytest.mark.parametrize("kind", ["headless", "hidden layers", "single output"])
def test_start_from_a_backbone_with_another_head(finished, tmp_path, kind, keras):

    contents = checkpoint.read(finished[0] / "model.safetensors")
    backbone = {layer: arrays for layer, arrays in contents.arrays.items() if layer != "predictions"}
    config = {
        "headless": replace(contents.config, classes=0),
        "hidden layers": replace(
            contents.config, head=(HeadLayer("dense", 4), HeadLayer("relu"), HeadLayer("dense", 10)), pooling="max"
        ),
        "single output": replace(contents.config, classes=1, activation="sigmoid"),
    }[kind]
    head = {layer: arrays for layer, arrays in unscaled_arrays(config).items() if layer not in backbone}
    start = tmp_path / "start.safetensors"
    safetensors.write(start, backbone | head, config)
    arrays = initial_weights.load_arrays(str(start), SETTINGS.config(10), labels.placeholders(10))
    assert arrays.keys() == backbone.keys()
    for layer, values in backbone.items():
        for name, expected in values.items():
            np.testing.assert_array_equal(arrays[layer][name], expected)


def test_start_from_a_pytorch_file_with_an_unsupported_head(tmp_path):
    """Also if its labels are those of the images."""
    for name in ("refused-two-layers.pth", "refused-head.pth"):
        shutil.copy(Path(__file__).parents[1] / "data" / "torch" / name, tmp_path / name)
        start = str(tmp_path / name)
        configuration = {"architecture": "densenet121", "model_args": {"block_config": [1, 2]}, "num_classes": 3}
        configuration["label_names"] = ["cat", "dog", "newt"]
        (tmp_path / "config.json").write_text(json.dumps(configuration))
        settings = recipes.resolve({}, {"start": start})
        assert settings.interpolation == "bicubic"
        arrays = initial_weights.load_arrays(start, settings.config(3), labels.from_class_names(["cat", "dog", "newt"]))
        assert "conv1_conv" in arrays and "predictions" not in arrays


def test_start_from_grayscale_is_refused(tmp_path, keras):

    config = replace(SETTINGS.config(10), channels=1)
    safetensors.write(tmp_path / "gray.safetensors", unscaled_arrays(config), config)
    with pytest.raises(CheckpointError, match="grayscale"):
        initial_weights.load_arrays(str(tmp_path / "gray.safetensors"), SETTINGS.config(10), labels.placeholders(10))


def test_the_model_states_the_preprocessing_of_the_run(digits, finished, tmp_path, keras):
    config = SETTINGS.config(10)
    metadata = ModelMetadata(mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7), interpolation="bicubic")
    start = tmp_path / "start.safetensors"
    safetensors.write(start, checkpoint.read(finished[0] / "model.safetensors").arrays, config, metadata)
    values = {**SETTINGS.to_dict(), "sizes": "8x1", "preprocess": "squash", "start": str(start)}
    settings = recipes.resolve({name: value for name, value in values.items() if name not in PREPROCESSING}, {})
    paths = run_paths(digits, tmp_path / "run")
    train(paths, settings)
    with Classifier(weights=paths.output / "model.safetensors") as classifier:
        assert classifier.preprocessing == Preprocessing(
            "squash", 16, interpolation="bicubic", mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7)
        )
        assert not classifier.assumptions


def test_without_validation_images_the_last_model_is_kept(digits, tmp_path, keras):
    settings = replace(SHORT, validation=0)
    paths = run_paths(digits, tmp_path / "run")
    train(paths, settings, stop_at=(2, 3))
    state = train(paths, settings, resume=True)
    assert state.best_epoch == 2
    assert [math.isnan(row["val_loss"]) for row in state.history] == [True, True]
    model = checkpoint.read(paths.output / "model.safetensors").metadata
    assert (model.training["trained_epochs"], model.accuracy) == (2, {})
    assert (paths.output / "log.csv").read_text().splitlines()[2].split(",")[5:8] == ["", "", ""]
    run_files.draw_curves(paths.output / "curves.png", state.history)


def test_early_stopping(digits, tmp_path, keras):
    settings = replace(SHORT, sizes=(Phase(8, 9),), learning_rate=1e-9, warmup=0, patience=1, averaging=0)
    state = train(run_paths(digits, tmp_path / "run"), settings)
    assert state.stopped_early
    assert len(state.history) < 9
    resumed = train(run_paths(digits, tmp_path / "run"), settings, resume=True)
    assert resumed.history == state.history


def test_a_finished_run_is_trained_for_longer(digits, tmp_path, keras):
    paths = run_paths(digits, tmp_path / "run")
    two = train(paths, SHORT)
    shutil.copytree(paths.output, tmp_path / "copy")
    longer = replace(SHORT, sizes=(Phase(8, 2), Phase(12, 2)))
    four = train(paths, longer, resume=True, options=RunOptions(threads=3))
    assert four.history[:2] == two.history and len(four.history) == 4
    assert [row["size"] for row in four.history] == [8, 8, 12, 12]
    # The learning rates are those of a run of four epochs: after the second, half of a cosine with a warmup is left.
    rates = [row["learning_rate"] for row in four.history]
    assert rates == [SHORT.learning_rate_at(1), 0, longer.learning_rate_at(3), 0]
    assert recipes.read(paths.output / "settings.toml")["sizes"] == "8x2,12x2"
    assert Settings.from_dict(load_state(paths.output).settings) == longer
    # An interruption does not change the result, and settings need not be repeated.
    other = run_paths(digits, tmp_path / "copy")
    train(other, longer, stop_at=(3, 5), resume=True)
    saved = Settings.from_dict(load_state(other.output).settings)
    assert_same_arrays(train(other, saved, resume=True), four)


def test_a_larger_patience_continues_a_run_that_stopped_early(digits, tmp_path, keras):
    settings = replace(SHORT, sizes=(Phase(8, 6),), learning_rate=1e-9, warmup=0, patience=1)
    paths = run_paths(digits, tmp_path / "run")
    stopped = train(paths, settings)
    assert stopped.stopped_early and stopped.epoch < 6
    state = train(paths, replace(settings, patience=0), resume=True)
    assert (state.epoch, state.stopped_early) == (6, False)
    assert state.history[: stopped.epoch] == stopped.history


def test_the_command_names_options_as_the_user_typed_them(digits, tmp_path, keras):
    recipes.write(tmp_path / "recipe.toml", SHORT)
    arguments = ["train", digits, "-o", tmp_path / "run"]
    assert densenet(*arguments, "--config", tmp_path / "recipe.toml").status == 0
    done = densenet(*arguments, "--resume")
    assert done.status == 0 and "--epochs" in done.err
    for options, name in [
        (["--epochs", "1"], "--epochs"),
        (["--learning-rate", "0.3", "--epochs", "3"], "--learning-rate"),
        (["--variant", "121"], "--variant"),
        (["--from", "tiny"], "--from"),
    ]:
        refused = densenet(*arguments, "--resume", *options)
        assert refused.status == 2 and name in refused.err, refused.err
        assert "sizes is" not in refused.err
    longer = densenet(*arguments, "--resume", "--epochs", "3", "--threads", "1", "--save-every", "9", "--patience", "7")
    assert longer.status == 0, longer.err
    assert len(load_state(tmp_path / "run").history) == 3


@pytest.mark.parametrize("cache_limit", [8000, 0])
def test_skipped_images_are_counted_and_listed(digits, tmp_path, keras, cache_limit):
    folder = tmp_path / "digits"
    shutil.copytree(digits, folder)
    bad = sorted(f"digits/{digit}/{number:03}.png" for digit in (2, 7) for number in (0, 40))
    for name in bad:
        (tmp_path / name).write_bytes(b"no image")
    val = tmp_path / "val"
    shutil.copytree(digits / "1", val / "1")
    (val / "1" / "000.png").write_bytes(b"no image")
    expected = [*bad, "val/1/000.png"]
    paths = RunPaths(folder, val, tmp_path / "run", tmp_path / "cache")
    options = RunOptions(cache_limit=cache_limit, skip_unreadable=True)
    # An epoch leaves out an incomplete batch, so not every image is decoded on demand in the first one.
    settings = replace(SHORT, batch_size=2)
    train(paths, settings, stop_at=(1, 30), options=options)
    state = train(paths, settings, resume=True, options=options)
    assert sorted(state.skipped) == expected == sorted(load_state(paths.output).skipped)
    with (paths.output / "skipped.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["image"] for row in rows] == expected and all(
        "000.png" in r["error"] or "040" in r["error"] for r in rows
    )
    log = np.genfromtxt(paths.output / "log.csv", delimiter=",", names=True)
    assert log["skipped"].tolist() == [5, 5]
    training = checkpoint.read(paths.output / "model.safetensors").metadata.training
    assert (training["skipped"], training["skipped_images"]) == (5, expected)


def test_a_run_with_skipped_images_can_be_resumed_with_another_cache_limit(digits, tmp_path, keras):
    """The images for training and validation stay the same, and so does the result."""
    folder = tmp_path / "digits"
    shutil.copytree(digits, folder)
    for number in range(0, 100, 9):
        (folder / "3" / f"{number:03}.png").write_bytes(b"no image")
    settings, options = replace(SHORT, averaging=16), RunOptions(skip_unreadable=True)
    complete = train(run_paths(folder, tmp_path / "complete"), settings, options=options)
    paths = run_paths(folder, tmp_path / "stopped")
    train(paths, settings, stop_at=(1, 9), options=replace(options, cache_limit=0))
    resumed = train(paths, settings, options=options, resume=True)
    assert_same_arrays(resumed, complete)
    rows = [[{**row, "seconds": 0, "skipped": 0} for row in state.history] for state in (complete, resumed)]
    assert rows[0] == rows[1] and resumed.skipped == complete.skipped


def test_the_command_prints_the_number_of_skipped_images(digits, tmp_path, keras):
    folder = tmp_path / "digits"
    shutil.copytree(digits, folder)
    (folder / "4" / "050.png").write_bytes(b"no image")
    recipes.write(tmp_path / "recipe.toml", SHORT)
    arguments = ["train", folder, "-o", tmp_path / "run", "--config", tmp_path / "recipe.toml", "--skip-unreadable"]
    result = densenet(*arguments, "--verbose")
    assert result.status == 0
    assert "1 image " in result.err.splitlines()[-1] and "skipped.csv" in result.err.splitlines()[-1]
    assert result.err.count("050.png") == 1
    (folder / "4" / "050.png").write_bytes((folder / "4" / "051.png").read_bytes())
    assert densenet(*arguments, "--overwrite").status == 0
    assert not (tmp_path / "run" / "skipped.csv").exists()


def test_a_loss_that_diverges_ends_the_run(digits, tmp_path, keras):
    settings = replace(SHORT, learning_rate=900.0, warmup=0, weight_decay=0.9)
    with pytest.raises(UsageError, match=r"loss.*`learning_rate`"):
        train(run_paths(digits, tmp_path / "run"), settings)
    assert not (tmp_path / "run" / "model.safetensors").exists()


@pytest.mark.parametrize("validation", [20, 0])
@pytest.mark.parametrize(("name", "value"), [("kernel", math.nan), ("moving_variance", math.inf)])
def test_a_model_that_overflows_in_the_last_step_of_an_epoch(
    digits, tmp_path, keras, monkeypatch, name, value, validation
):
    """The loss of the step is still finite, and with an infinite variance, even the logits are."""
    settings = replace(SHORT, validation=validation)
    with session.open_run(run_paths(digits, tmp_path / "run"), settings, RunOptions()) as run:
        original, network = run.step, run._network

        def step(batch, learning_rate):
            result = original(batch, learning_rate)
            if run.state.batch == len(run.batches) - 1:
                for variable in network.weights:
                    if variable.name == name:
                        variable.assign(np.full(variable.shape, value))
            return result

        monkeypatch.setattr(run, "step", step)
        with pytest.raises(UsageError, match=r"epoch 1.*`learning_rate`"):
            run.train()
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_logits_that_are_not_numbers_are_not_correct():
    logits = np.array([[0, 1], [np.nan, np.nan], [1, 0]], np.float32)
    assert run_files.ValidationMetrics.of_logits(logits, np.array([1, 0, 0])).top1 == pytest.approx(2 / 3)


def test_an_unreadable_image_saves_the_state_and_the_run_can_be_resumed(digits, tmp_path, keras):
    copy = tmp_path / "digits"
    shutil.copytree(digits, copy)
    for number in range(0, 100, 5):
        (copy / "3" / f"{number:03}.png").write_bytes(b"\x89PNG\r\n\x1a\n and nothing else")
    paths = run_paths(copy, tmp_path / "run")
    with pytest.raises(ImageError, match=r"3/\d+\.png: .* `skip_unreadable`"):
        train(paths, SHORT, options=RunOptions(cache_limit=0))
    saved = load_state(tmp_path / "run")
    state = train(paths, SHORT, resume=True, options=RunOptions(cache_limit=0, skip_unreadable=True))
    assert (saved.epoch, state.epoch) == (0, 2)


def test_ctrl_c_saves_and_resuming_needs_no_settings(digits, tmp_path, keras, monkeypatch):
    from click.testing import CliRunner

    from densenet_cli.cli import train

    recipes.write(tmp_path / "recipe.toml", SHORT)
    arguments = [str(digits), "-o", str(tmp_path / "run")]
    with monkeypatch.context() as patched:
        patched.setattr(train, "show_step", lambda _, info: _interrupt_at(info.batch, 4))
        options = ["--cache-limit", "0", "--cache", str(tmp_path / "cache"), "--skip-unreadable"]
        first = CliRunner().invoke(
            train.train, [*arguments, "--config", str(tmp_path / "recipe.toml"), *options], standalone_mode=False
        )
    assert first.return_value == 130
    command = first.output.rpartition("run: ")[2]
    assert all(text in command for text in ("--resume", "--cache-limit 0", f"--cache {tmp_path}", "--skip-unreadable"))
    state = load_state(tmp_path / "run")
    assert (state.epoch, state.batch) == (0, 4)
    second = CliRunner().invoke(train.train, [*arguments, "--resume"], standalone_mode=False)
    assert second.return_value == 0, second.output
    assert "validation accuracy" in second.output
    with Image.open(tmp_path / "run" / "curves.png") as image:
        assert image.width > 500


def _interrupt_at(batch: int, interrupted_batch: int) -> None:
    if batch == interrupted_batch:
        signal.raise_signal(signal.SIGINT)
