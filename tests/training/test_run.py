"""Whole runs: they learn, and being killed changes nothing."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from densenet_cli.classifier import Classifier
from densenet_cli.errors import ImageError, UsageError
from densenet_cli.training import folders, recipe, run_files, session
from densenet_cli.training.settings import Phase, Settings
from densenet_cli.training.ways import Ways
from densenet_cli.weights import checkpoint
from tests.training.digits import SETTINGS, write_digits

SHORT = replace(SETTINGS, sizes=(Phase(8, 2),), averaging=0)


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> Path:
    return write_digits(tmp_path_factory.mktemp("digits"))


def place(digits: Path, output: Path, **changes) -> session.Place:
    values = {"folder": digits, "validation": None, "output": output, "cache": output.parent / "images"}
    return session.Place(**{**values, "cache_limit": 100, **changes})


def train(
    where: session.Place, settings: Settings, stop_at: tuple[int, int] | None = None, ways=None, **how
) -> run_files.State:
    """Train to the end, or up to a step (epoch, batch), and give the state it ended in."""
    with session.open_run(where, settings, ways or Ways(), **how) as run:
        if stop_at:
            object.__setattr__(run._ways, "on_step", lambda step: (step.epoch, step.batch) == stop_at and run.stop())
        run.train()
    return run.state


@pytest.fixture(scope="module")
def finished(digits, tmp_path_factory, keras) -> tuple[Path, run_files.State, float]:
    """A whole run: its folder, its last state, the processor seconds it took."""
    output = tmp_path_factory.mktemp("run") / "whole"
    began = time.process_time()
    end = train(place(digits, output), SETTINGS)
    return output, end, time.process_time() - began


def test_a_run_learns_to_read_digits_in_under_a_minute(finished):
    output, end, seconds = finished
    assert end.best > 0.9
    assert seconds < 60
    read = checkpoint.read(output / "model.safetensors")
    assert read.config == SETTINGS.config(10)
    assert [label.name for label in read.metadata.labels] == [str(digit) for digit in range(10)]
    assert read.metadata.accuracy["validation"]["top1"] == end.best
    assert read.metadata.accuracy["validation"]["images"] == 200
    assert read.metadata.training["seed"] == SETTINGS.seed


def test_its_log_has_a_row_an_epoch(finished):
    output, end, _ = finished
    rows = np.genfromtxt(output / "log.csv", delimiter=",", names=True)
    assert rows["epoch"].tolist() == [1, 2, 3, 4, 5, 6]
    assert rows["size"].tolist() == [12, 12, 16, 16, 16, 16]
    assert rows["val_accuracy"].max() == pytest.approx(end.best)
    assert rows["learning_rate"][-1] == 0


def test_its_settings_are_a_recipe_that_gives_them_back(finished):
    output, _, _ = finished
    assert recipe.settings(recipe.read(output / "settings.toml"), {}) == SETTINGS


def test_its_file_predicts_in_both_engines_what_was_measured(digits, finished):
    output, _, _ = finished
    found = folders.scan(digits)
    paths = found.paths[::20]
    rows = []
    for engine in ("onnx", "tensorflow"):
        classifier = Classifier(weights=output / "model.safetensors", engine=engine)
        assert (classifier.preprocessing.mode, classifier.preprocessing.input_size) == ("squash", 16)
        rows.append(np.array([row for _, row in classifier.probabilities(paths)]))
    np.testing.assert_allclose(rows[0], rows[1], atol=1e-5)
    assert (rows[0].argmax(axis=1) == found.targets[::20]).mean() > 0.9


def test_killed_and_resumed_it_ends_in_the_same_bits(digits, finished, tmp_path):
    whole, _, _ = finished
    output = tmp_path / "killed"
    recipe.write(tmp_path / "recipe.toml", SETTINGS)
    command = [
        sys.executable,
        "-m",
        "densenet_cli",
        "train",
        digits,
        "-o",
        output,
        "--save-every",
        "0",
        "--threads",
        "2",
    ]
    child = subprocess.Popen([*command, "--config", tmp_path / "recipe.toml"], stderr=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 300
        while not _has_reached(output, epoch=3, batch=5):
            assert child.poll() is None, child.stderr.read().decode()
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    stopped = run_files.load(output)
    assert (stopped.epoch, stopped.batch) >= (3, 5)
    assert stopped.epoch < 6, "it was killed too late to show anything"
    train(place(digits, output), SETTINGS, resume=True)
    assert (output / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert_same_arrays(run_files.load(output), run_files.load(whole))


def _has_reached(output: Path, epoch: int, batch: int) -> bool:
    try:
        now = run_files.load(output)
    except UsageError:
        return False
    return (now.epoch, now.batch) >= (epoch, batch)


def assert_same_arrays(one: run_files.State, other: run_files.State) -> None:
    assert one.arrays.keys() == other.arrays.keys()
    for name, array in one.arrays.items():
        assert array.tobytes() == other.arrays[name].tobytes(), name


def test_stopped_in_bfloat16_and_in_any_order_of_threads_it_ends_in_the_same_bits(digits, tmp_path, keras):
    settings = replace(
        SHORT, precision="mixed_bfloat16", augmentation="crop", flip=True, averaging=16, class_weights=True
    )
    whole = train(place(digits, tmp_path / "whole"), settings, ways=Ways(threads=1))
    part = train(place(digits, tmp_path / "part"), settings, stop_at=(2, 7), ways=Ways(threads=3))
    assert (part.epoch, part.batch) == (1, 7)
    rest = train(place(digits, tmp_path / "part"), settings, resume=True, ways=Ways(threads=3))
    assert_same_arrays(whole, rest)
    assert [row["val_loss"] for row in whole.history] == [row["val_loss"] for row in rest.history]


def test_frozen_stages_stay_and_then_learn(digits, finished, tmp_path):
    whole, _, _ = finished
    start = whole / "model.safetensors"
    settings = replace(SHORT, start=str(start), freeze="conv2", unfreeze_after=1)
    before = checkpoint.read(start).arrays
    train(place(digits, tmp_path / "run"), settings, stop_at=(1, 25))
    frozen = _network_arrays(tmp_path / "run", settings)
    for layer in ("conv1_conv", "conv2_block2_1_bn", "pool2_conv"):
        for name, array in before[layer].items():
            np.testing.assert_array_equal(frozen[layer][name], array)
    for layer in ("conv3_block1_1_bn", "predictions"):
        assert any((frozen[layer][name] != array).any() for name, array in before[layer].items())
    end = train(place(digits, tmp_path / "run"), settings, resume=True)
    assert (end.epoch, len(end.history)) == (2, 2)
    learned = _network_arrays(tmp_path / "run", settings)
    assert (learned["conv1_conv"]["kernel"] != before["conv1_conv"]["kernel"]).any()
    assert (learned["conv2_block2_1_bn"]["moving_mean"] != before["conv2_block2_1_bn"]["moving_mean"]).any()


def _network_arrays(output: Path, settings: Settings):
    from densenet_cli.engines import keras_ops
    from densenet_cli.training import network

    model = network.build(settings.config(10), "float32")
    arrays = run_files.load(output).arrays
    model.set_weights([arrays[f"variable.{n}"] for n in range(len(model.weights))])
    return keras_ops.get_arrays(model)


def test_from_a_model_with_other_classes_the_head_is_new(digits, finished, tmp_path, keras):
    from densenet_cli import labels
    from densenet_cli.training import network

    start = str(finished[0] / "model.safetensors")
    mine = folders.class_labels(folders.scan(digits).classes)
    assert network.HEAD in network.start_arrays(start, SETTINGS.config(10), mine)
    others = labels.placeholders(7)
    arrays = network.start_arrays(start, SETTINGS.config(7), others)
    assert network.HEAD not in arrays
    built = network.build(SETTINGS.config(7), "float32")
    network.put(built, arrays)
    np.testing.assert_array_equal(built.get_layer("conv1_conv").get_weights()[0], arrays["conv1_conv"]["kernel"])


def test_early_stopping(digits, tmp_path, keras):
    settings = replace(SHORT, sizes=(Phase(8, 9),), learning_rate=1e-9, warmup=0, patience=1, averaging=0)
    end = train(place(digits, tmp_path / "run"), settings)
    assert end.stopped
    assert len(end.history) < 9
    again = train(place(digits, tmp_path / "run"), settings, resume=True)
    assert again.history == end.history


def test_a_loss_that_explodes_ends_the_run(digits, tmp_path, keras):
    settings = replace(SHORT, learning_rate=900.0, warmup=0, weight_decay=0.9)
    with pytest.raises(UsageError, match=r"no longer finite.*lower --learning-rate"):
        train(place(digits, tmp_path / "run"), settings)
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_a_streamed_image_that_breaks_is_named_and_costs_nothing(digits, tmp_path, keras):
    import shutil

    mine = tmp_path / "digits"
    shutil.copytree(digits, mine)
    for number in range(0, 100, 5):
        (mine / "3" / f"{number:03}.png").write_bytes(b"\x89PNG\r\n\x1a\n and nothing else")
    where = place(mine, tmp_path / "run", cache_limit=0)
    with pytest.raises(ImageError, match=r"3/\d+\.png: .* --skip-unreadable"):
        train(where, SHORT)
    kept = run_files.load(tmp_path / "run")
    end = train(where, SHORT, resume=True, ways=Ways(skip_unreadable=True))
    assert (kept.epoch, end.epoch) == (0, 2)


def test_ctrl_c_saves_and_resuming_needs_no_settings(digits, tmp_path, keras, monkeypatch):
    from click.testing import CliRunner

    from densenet_cli.cli import train, training_progress

    recipe.write(tmp_path / "recipe.toml", SHORT)
    where = [str(digits), "-o", str(tmp_path / "run")]
    with monkeypatch.context() as patched:
        patched.setattr(training_progress.TrainingProgress, "step", lambda _, step: _interrupt_at(step.batch, 4))
        first = CliRunner().invoke(
            train.command, [*where, "--config", str(tmp_path / "recipe.toml")], standalone_mode=False
        )
    assert first.return_value == 130
    assert "--resume" in first.output
    assert (run_files.load(tmp_path / "run").epoch, run_files.load(tmp_path / "run").batch) == (0, 4)
    second = CliRunner().invoke(train.command, [*where, "--resume"], standalone_mode=False)
    assert second.return_value == 0, second.output
    assert "validation accuracy" in second.output
    with Image.open(tmp_path / "run" / "curves.png") as image:
        assert image.width > 500


def _interrupt_at(batch: int, wanted: int) -> None:
    if batch == wanted:
        signal.raise_signal(signal.SIGINT)
