"""Settings and recipes."""

from __future__ import annotations

import math
import os
from dataclasses import fields, replace
from pathlib import Path

import pytest

from densenet_cli import variants
from densenet_cli.classifier import Classifier
from densenet_cli.errors import CheckpointError, OutputError, UsageError
from densenet_cli.images.normalization import MEAN, STD
from densenet_cli.images.preprocessing import Preprocessing
from densenet_cli.topology import DenseNetConfig
from densenet_cli.training import recipes
from densenet_cli.training.phases import Phase, format_sizes, parse_sizes
from densenet_cli.training.settings import DEFAULT_EPOCHS, HEAD_ONLY_RATE, PREPROCESSING, Settings
from densenet_cli.weights import safetensors
from densenet_cli.weights.contents import ModelMetadata
from tests.support.networks import unscaled_arrays

RECIPES = Path(__file__).parents[2] / "recipes"


def test_sizes_are_parsed_and_formatted():
    phases = (Phase(32, 5), Phase(48, 4))
    assert parse_sizes("32x5,48x4") == phases
    assert format_sizes(phases) == "32x5,48x4"
    settings = Settings(sizes=phases)
    assert settings.epochs == 9
    assert [settings.size_at(epoch) for epoch in (0, 4, 5, 8)] == [32, 32, 48, 48]
    with pytest.raises(IndexError):
        settings.size_at(9)


@pytest.mark.parametrize("values", [{"input_size": 15}, {"sizes": (Phase(32, 1), Phase(15, 1))}])
def test_images_that_are_too_small_for_the_network(values):
    values = {"blocks": (2, 2, 2, 2, 2), "stem": "cifar", "input_size": 16, **values}
    with pytest.raises(UsageError, match=r"15x15 .* too small"):
        Settings(**values)
    Settings(**{**values, "input_size": 16, "sizes": (Phase(16, 1),)})


def test_initial_weights_whose_name_is_not_utf8():
    with pytest.raises(UsageError, match=r"caf\\xe9.* UTF-8"):
        recipes.resolve({}, {"start": os.fsdecode(b"caf\xe9.safetensors")})


@pytest.mark.parametrize("text", ["", "32", "32x", "x5", "32x0", "0x5", "32x5,", "32x5x1", "a x b", "32x-1"])
def test_invalid_sizes_are_rejected(text):
    with pytest.raises(UsageError, match="SIZExEPOCHS"):
        parse_sizes(text)


@pytest.mark.parametrize(
    "values",
    [
        {"batch_size": 1},
        {"learning_rate": 0},
        {"learning_rate": float("nan")},
        {"momentum": 1.0},
        {"label_smoothing": 1.0},
        {"crop_area": 0.0},
        {"crop_area": 1.1},
        {"schedule": "linear"},
        {"augmentation": "cutout"},
        {"precision": "bfloat16"},
        {"preprocess": "other"},
        {"stem": "other"},
        {"blocks": ()},
        {"growth_rate": 0},
        {"input_size": 0},
        {"seed": -1},
        {"mean": (0.5, 0.5)},
        {"std": (0.5, 0.0, 0.5)},
        {"interpolation": "lanczos"},
        {"freeze": "conv2"},
        {"freeze": "conv6", "start": "121"},
        {"validation": -1},
    ],
)
def test_values_out_of_range_are_rejected(values):
    with pytest.raises(UsageError, match=next(iter(values))):
        Settings(**values)


@pytest.mark.parametrize(
    "values",
    [
        {"color": 1},
        {"seed": "1"},
        {"seed": True},
        {"flip": 1},
        {"blocks": [1, 2.0]},
        {"blocks": 3},
        {"sizes": 3},
        {"mean": "0.5"},
    ],
)
def test_unknown_names_and_wrong_types_are_rejected(values):
    with pytest.raises(UsageError, match=next(iter(values))):
        Settings.from_dict(values)


def test_an_integer_is_accepted_for_a_float():
    assert Settings.from_dict({"learning_rate": 1}).learning_rate == 1


def test_a_full_disk_keeps_the_last_recipe(tmp_path, monkeypatch):
    path = tmp_path / "settings.toml"
    recipes.write(path, Settings(seed=1))

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match="No space left"):
        recipes.write(path, Settings(seed=2))
    assert recipes.read(path)["seed"] == 1


def test_settings_survive_a_round_trip_through_a_file(tmp_path):
    settings = Settings(
        blocks=(2, 3), sizes=(Phase(32, 1),), start='a "file" é\\.h5', flip=False, averaging=0, mean=(0.1, 0, 1 / 3)
    )
    recipes.write(tmp_path / "settings.toml", settings)
    assert Settings.from_dict(recipes.read(tmp_path / "settings.toml")) == settings


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_encodings(tmp_path, encoding):
    (tmp_path / "recipe.toml").write_bytes('# café\r\nseed = 3\r\nstart = "é"\r\n'.encode(encoding))
    assert recipes.read(tmp_path / "recipe.toml") == {"seed": 3, "start": "é"}


@pytest.mark.parametrize("text", [b"a = ", b"\xff\xfea"])
def test_invalid_toml_is_rejected(tmp_path, text):
    (tmp_path / "recipe.toml").write_bytes(text)
    with pytest.raises(UsageError, match=r"recipe\.toml"):
        recipes.read(tmp_path / "recipe.toml")


def test_options_override_the_recipe():
    settings = recipes.resolve({"seed": 1, "batch_size": 32, "sizes": "32x5"}, {"seed": 2})
    assert (settings.seed, settings.batch_size, settings.epochs) == (2, 32, 5)


def test_a_variant_sets_the_network_and_options_override_it():
    settings = recipes.resolve({}, {"variant": "bc-100-12", "growth_rate": 24})
    config = variants.get("bc-100-12").config
    assert (settings.blocks, settings.growth_rate, settings.stem, settings.input_size) == (
        config.blocks,
        24,
        "cifar",
        32,
    )
    assert settings.sizes == (Phase(32, DEFAULT_EPOCHS),)


def test_epochs_replace_sizes():
    assert recipes.resolve({"input_size": 64}, {"epochs": 3}).sizes == (Phase(64, 3),)
    assert recipes.resolve({"sizes": "32x1", "input_size": 64}, {"epochs": 3}).sizes == (Phase(64, 3),)
    assert recipes.resolve({"epochs": 3}, {"sizes": "32x1"}).sizes == (Phase(32, 1),)
    with pytest.raises(UsageError, match="either"):
        recipes.resolve({}, {"epochs": 3, "sizes": "32x1"})


def test_initial_weights_set_the_network():
    settings = recipes.resolve({}, {"start": "169"})
    assert settings.blocks == variants.get("169").config.blocks
    with pytest.raises(UsageError, match="growth_rate"):
        recipes.resolve({}, {"start": "169", "growth_rate": 48})
    with pytest.raises(UsageError, match="no-such-thing"):
        recipes.resolve({}, {"start": "no-such-thing"})


def write_start(folder: Path, **fields) -> str:
    """Write a checkpoint that states ``fields`` of ``ModelMetadata``."""
    config = DenseNetConfig((2, 2), 8, "cifar", 16, classes=10, input_size=16, channels=fields.pop("channels", 3))
    path = folder / "start.safetensors"
    safetensors.write(path, unscaled_arrays(config), config, ModelMetadata(**fields))
    return str(path)


def test_initial_weights_set_the_preprocessing(tmp_path):
    start = write_start(tmp_path, mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7), interpolation="bicubic")
    settings = recipes.resolve({}, {"start": start})
    assert settings.preprocessing == Preprocessing(
        "crop", 16, interpolation="bicubic", mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7)
    )
    assert recipes.resolve({"mean": [0.1, 0.2, 0.3]}, {"start": start, "interpolation": "bicubic"}) == settings
    for name, value in (("mean", (0.1, 0.2, 0.4)), ("std", (0.5,)), ("interpolation", "bilinear")):
        with pytest.raises(UsageError, match=f"`{name}`.* states"):
            recipes.resolve({}, {"start": start, name: value})


@pytest.mark.parametrize("freeze", [{}, {"freeze": "all"}])
def test_initial_weights_set_the_mode_and_the_sizes(tmp_path, freeze):
    start = write_start(
        tmp_path, preprocess="crop", input_size=20, crop_ratio=0.9, test_input_size=24, test_crop_ratio=1.0
    )
    expected = Preprocessing("crop", 20, crop_ratio=0.9)
    assert recipes.resolve({}, {"start": start, **freeze}).preprocessing == expected
    larger = recipes.resolve({}, {"start": start, "input_size": 24, **freeze})
    assert larger.preprocessing == Preprocessing("crop", 24, crop_ratio=1.0)
    with pytest.raises(UsageError, match=r"`crop_ratio`.* states 0\.9"):
        recipes.resolve({}, {"start": start, "crop_ratio": 0.8})
    pad = recipes.resolve({"preprocess": "pad", "start": start}, freeze)
    assert pad.preprocessing == Preprocessing("pad", 20)
    default = write_start(tmp_path, preprocess="crop")
    assert recipes.resolve({}, {"start": default}).preprocessing == Preprocessing("crop", 16)
    assert recipes.resolve({}, {"start": default, "crop_ratio": 0.875}).preprocessing.crop_ratio == 0.875
    with pytest.raises(UsageError, match=r"`crop_ratio`.* states 0\.875"):
        recipes.resolve({}, {"start": default, "crop_ratio": 0.8})
    tiny = recipes.resolve({}, {"start": "tiny", **freeze})
    assert tiny.preprocessing == replace(Classifier("tiny").preprocessing, exact=False)
    assert recipes.resolve({}, {"start": "tiny", "preprocess": "crop"}).preprocess == "crop"


def test_the_crop_ratio_belongs_to_the_mode():
    settings = recipes.resolve({}, {"crop_ratio": 0.95})
    assert settings.preprocessing == Preprocessing("crop", 224, crop_ratio=0.95)
    for values in ({"crop_ratio": 1.5}, {"crop_ratio": 0.001}, {"crop_ratio": 0.9, "preprocess": "pad"}):
        with pytest.raises(UsageError, match="`crop_ratio`"):
            recipes.resolve({}, values)


def test_one_number_is_the_mean_of_all_channels():
    settings = recipes.resolve({}, {"mean": (0.5,), "std": (0.25,)})
    assert (settings.mean, settings.std) == ((0.5,) * 3, (0.25,) * 3)
    with pytest.raises(UsageError, match="255"):
        recipes.resolve({}, {"mean": (127.5,)})


def test_initial_weights_of_keras_mode_do_not_set_the_interpolation(tmp_path):
    settings = recipes.resolve({}, {"start": write_start(tmp_path, preprocess="keras", interpolation="nearest")})
    assert (settings.preprocess, settings.interpolation) == ("keras", "bilinear")
    assert settings.preprocessing.interpolation == "nearest"
    assert replace(settings, preprocess="crop").preprocessing.interpolation == "bilinear"


def test_grayscale_initial_weights_are_refused_before_images_are_read(tmp_path):
    start = write_start(tmp_path, channels=1, mean=(0.5,), std=(0.25,))
    with pytest.raises(CheckpointError, match="grayscale"):
        recipes.resolve({}, {"start": start})


def test_resuming_a_run_of_an_earlier_version():
    saved = recipes.resolve({}, {"start": "169"})
    old = {name: value for name, value in saved.to_dict().items() if name not in PREPROCESSING}
    assert recipes.resolve_resumed(old, {}, {}) == saved
    assert (saved.mean, saved.std, saved.interpolation) == (MEAN, STD, "bilinear")


def test_resuming_keeps_the_settings_and_reports_differences():
    saved = recipes.resolve({}, {"variant": "bc-100-12", "epochs": 7, "seed": 4})
    assert recipes.resolve_resumed(saved.to_dict(), {}, {}) == saved
    other = recipes.resolve_resumed(saved.to_dict(), {}, {"seed": 5, "epochs": 8})
    assert saved.differences(other) == ["`sizes` is '32x8', not '32x7'", "`seed` is 5, not 4"]


@pytest.mark.parametrize(
    ("epochs", "sizes"), [(1, "8x1"), (3, "8x3"), (5, "8x3,12x2"), (7, "8x3,12x4"), (12, "8x3,12x9")]
)
def test_epochs_of_a_resumed_run_are_the_total(epochs, sizes):
    saved = recipes.resolve({}, {"variant": "bc-100-12", "sizes": "8x3,12x4"}).to_dict()
    assert recipes.resolve_resumed(saved, {}, {"epochs": epochs}).to_dict() == {**saved, "sizes": sizes}
    assert recipes.resolve_resumed(saved, {"epochs": epochs}, {}).to_dict() == {**saved, "sizes": sizes}


def test_the_variant_of_a_resumed_run_may_be_repeated():
    options = {"variant": "bc-100-12", "growth_rate": 24, "input_size": 64}
    saved = recipes.resolve({}, options)
    assert recipes.resolve_resumed(saved.to_dict(), {}, options) == saved
    for variant in ("bc-100-12", "121"):
        with pytest.raises(UsageError, match="`variant`"):
            recipes.resolve_resumed(saved.to_dict(), {}, {"variant": variant})


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.toml")), ids=lambda path: path.name)
def test_the_recipes_of_the_project_are_valid(path):
    settings = recipes.resolve(recipes.read(path), {})
    assert (settings.validation, settings.seed) == (10, 1)  # They choose the same validation images for all runs.


def test_every_setting_is_an_option_with_the_same_choices():
    from densenet_cli.cli import train

    options = {parameter.name: parameter for parameter in train.train.params}
    assert {field.name for field in fields(Settings)} <= options.keys()
    choices = {field.name: field.metadata["choices"] for field in fields(Settings) if "choices" in field.metadata}
    assert choices.keys() == {"stem", "preprocess", "interpolation", "schedule", "augmentation", "precision"}
    for name, expected in choices.items():
        assert tuple(options[name].type.choices) == expected


def test_the_help_shows_the_defaults():
    from click.testing import CliRunner

    from densenet_cli.cli import train

    defaults = Settings()
    words = " ".join(CliRunner().invoke(train.train, ["--help"], terminal_width=100).output.split())
    words = words.partition("Options:")[2]
    for name, value in (
        ("batch-size", defaults.batch_size),
        ("learning-rate", f"{defaults.learning_rate}, or {HEAD_ONLY_RATE} with --freeze all"),
        ("averaging", defaults.averaging),
        ("label-smoothing", f"{defaults.label_smoothing}, or 0 with --multi-label"),
        ("crop-area", defaults.crop_area),
        ("validation", defaults.validation),
        ("epochs", DEFAULT_EPOCHS),
    ):
        after = words.partition(f"--{name} ")[2]
        assert after.partition("[default: ")[2].startswith(f"{value}]"), name


WARMUP_SETTINGS = Settings(sizes=(Phase(32, 6), Phase(48, 5)), learning_rate=0.2, warmup=1)


def test_the_warmup_is_linear():
    rates = [WARMUP_SETTINGS.learning_rate_at(epoch) for epoch in (0, 0.25, 0.5)]
    assert rates == pytest.approx([0, 0.05, 0.1])


def test_the_cosine_schedule_decays_to_zero():
    assert WARMUP_SETTINGS.learning_rate_at(1) == pytest.approx(0.2)
    assert WARMUP_SETTINGS.learning_rate_at(6) == pytest.approx(0.1)
    assert WARMUP_SETTINGS.learning_rate_at(8.5) == pytest.approx(0.1 * (1 + math.cos(math.pi * 0.75)))
    assert WARMUP_SETTINGS.learning_rate_at(11) == pytest.approx(0, abs=1e-12)


def test_the_step_schedule_is_that_of_the_paper():
    settings = Settings(sizes=(Phase(32, 300),), learning_rate=0.1, schedule="step", warmup=0)
    rates = [settings.learning_rate_at(epoch) for epoch in (0, 149.9, 150, 224.9, 225, 300)]
    assert rates == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001, 0.001])
