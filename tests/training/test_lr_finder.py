"""``lr_find``: the suggestion of a learning rate range test."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from densenet_cli.errors import UsageError
from densenet_cli.training import lr_finder, session
from densenet_cli.training.lr_finder import RateTest
from densenet_cli.training.options import RunOptions
from densenet_cli.training.run_files import RunPaths
from tests.support.command import densenet
from tests.training.images import SETTINGS, write_digits

RATES = tuple(np.geomspace(lr_finder.MIN_RATE, lr_finder.MAX_RATE, lr_finder.STEPS).tolist())


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return write_digits(tmp_path_factory.mktemp("digits"), per_class=50)


@pytest.mark.parametrize("optimum", [0.01, 0.1, 1.0])
def test_the_suggestion_is_below_the_minimum(optimum):
    """A parabola in the logarithm of the rate, with noise."""
    noise = np.random.default_rng(0).normal(0, 0.02, len(RATES))
    losses = 2 + 0.3 * np.log10(np.array(RATES) / optimum) ** 2 + noise
    suggestion = RateTest(RATES, tuple(losses.tolist())).suggestion
    assert optimum / 8 < suggestion <= optimum


@pytest.mark.parametrize("losses", [[2.0] * 100, [2.0] * 30 + [math.nan], np.linspace(2, 9, 100).tolist()])
def test_no_suggestion_without_a_lower_loss(losses):
    assert RateTest(RATES[: len(losses)], tuple(losses)).suggestion is None


def test_an_infinite_loss_ends_the_test(tmp_path, keras, digits):
    settings = replace(SETTINGS, momentum=0.99)
    steps: list[tuple[int, int]] = []
    paths = RunPaths(digits, None, tmp_path / "run", tmp_path / "images")
    options = RunOptions(on_rate=lambda done, total: steps.append((done, total)))
    results = [session.find_learning_rate(paths, settings, options) for _ in range(2)]
    assert results[0] == results[1], "it is reproducible"
    assert len(steps) == 2 * len(results[0].rates) and steps[0] == (1, lr_finder.STEPS)
    np.testing.assert_allclose(results[0].rates, RATES[: len(results[0].rates)])
    ending = results[0].smoothed
    assert len(ending) == lr_finder.STEPS or ending[-1] > 3 * min(ending) or math.isnan(ending[-1])


def test_the_command_writes_a_plot_and_changes_nothing_else(digits, tmp_path):
    output = tmp_path / "run"
    output.mkdir()
    (output / "model.safetensors").write_bytes(b"a model")
    arguments = ["train", digits, "-o", output, "--variant", "bc-100-12", "--blocks", "2,2", "--input-size", "16"]
    result = densenet(*arguments, "--lr-find", "--batch-size", "16")
    assert result.status == 0, result.err
    assert {path.name for path in output.iterdir()} - {".lock"} == {"lr_find.png", "model.safetensors"}
    assert (output / "lr_find.png").read_bytes().startswith(b"\x89PNG")
    assert (output / "model.safetensors").read_bytes() == b"a model"
    name, rate = result.out.split()[-2:]
    assert name == "--learning-rate" and 1e-4 < float(rate) < 10


@pytest.mark.parametrize("options", [["--resume"], ["--overwrite"], ["--learning-rate", "0.1"], ["--tensorboard", "."]])
def test_contradictory_options(digits, tmp_path, options):
    result = densenet("train", digits, "-o", tmp_path / "run", "--lr-find", *options)
    assert result.status == 2 and "--lr-find" in result.err and options[0] in result.err
    assert not (tmp_path / "run").exists()


def test_a_fitted_head_has_no_learning_rate(digits, tmp_path):
    paths = RunPaths(digits, None, tmp_path / "run", tmp_path / "images")
    with pytest.raises(UsageError, match="`then_unfreeze`"):
        session.find_learning_rate(paths, replace(SETTINGS, start="tiny", freeze="all"), RunOptions())
