"""Settings: what is refused, and what a recipe and options say together."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from densenet_cli import variants
from densenet_cli.errors import UsageError
from densenet_cli.images.preprocessing import MODES
from densenet_cli.training import recipe
from densenet_cli.training.settings import (
    AUGMENTATIONS,
    EPOCHS,
    PRECISIONS,
    SCHEDULES,
    Phase,
    Settings,
    format_sizes,
    parse_sizes,
)

RECIPES = Path(__file__).parents[2] / "recipes"


def test_sizes_are_read_and_written():
    phases = (Phase(32, 5), Phase(48, 4))
    assert parse_sizes("32x5,48x4") == phases
    assert format_sizes(phases) == "32x5,48x4"
    settings = Settings(sizes=phases)
    assert settings.epochs == 9
    assert [settings.size_at(epoch) for epoch in (0, 4, 5, 8)] == [32, 32, 48, 48]
    with pytest.raises(IndexError):
        settings.size_at(9)


@pytest.mark.parametrize("text", ["", "32", "32x", "x5", "32x0", "0x5", "32x5,", "32x5x1", "a x b", "32x-1"])
def test_other_sizes_are_refused(text):
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
        {"freeze": "conv2"},
        {"freeze": "conv6", "start": "121"},
        {"validation": 0},
    ],
)
def test_values_out_of_range_are_refused(values):
    with pytest.raises(UsageError):
        Settings(**values)


@pytest.mark.parametrize(
    "values",
    [{"color": 1}, {"seed": "1"}, {"seed": True}, {"flip": 1}, {"blocks": [1, 2.0]}, {"blocks": 3}, {"sizes": 3}],
)
def test_unknown_names_and_other_types_are_refused(values):
    with pytest.raises(UsageError, match=next(iter(values))):
        Settings.from_dict(values)


def test_a_whole_number_will_do_for_a_fraction():
    assert Settings.from_dict({"learning_rate": 1}).learning_rate == 1


def test_settings_survive_a_file(tmp_path):
    settings = Settings(blocks=(2, 3), sizes=(Phase(32, 1),), start='a "file" é\\.h5', flip=False, averaging=0)
    recipe.write(tmp_path / "settings.toml", settings)
    assert Settings.from_dict(recipe.read(tmp_path / "settings.toml")) == settings


@pytest.mark.parametrize("text", [b"a = ", b"\xff\xfe"])
def test_a_file_that_is_no_toml_is_refused(tmp_path, text):
    (tmp_path / "recipe.toml").write_bytes(text)
    with pytest.raises(UsageError, match=r"recipe\.toml"):
        recipe.read(tmp_path / "recipe.toml")


def test_options_count_for_more_than_a_recipe():
    said = recipe.settings({"seed": 1, "batch_size": 32, "sizes": "32x5"}, {"seed": 2})
    assert (said.seed, said.batch_size, said.epochs) == (2, 32, 5)


def test_a_variant_gives_the_network_and_options_change_it():
    said = recipe.settings({}, {"variant": "bc-100-12", "growth_rate": 24})
    config = variants.get("bc-100-12").config
    assert (said.blocks, said.growth_rate, said.stem, said.input_size) == (config.blocks, 24, "cifar", 32)
    assert said.sizes == (Phase(32, EPOCHS),)


def test_epochs_are_at_the_input_size():
    assert recipe.settings({"input_size": 64}, {"epochs": 3}).sizes == (Phase(64, 3),)
    assert recipe.settings({"sizes": "8x1", "input_size": 64}, {"epochs": 3}).sizes == (Phase(64, 3),)
    assert recipe.settings({"epochs": 3}, {"sizes": "8x1"}).sizes == (Phase(8, 1),)
    with pytest.raises(UsageError, match="not both"):
        recipe.settings({}, {"epochs": 3, "sizes": "8x1"})


def test_the_network_of_the_weights_to_start_from_is_theirs():
    said = recipe.settings({}, {"start": "169"})
    assert said.blocks == variants.get("169").config.blocks
    with pytest.raises(UsageError, match="growth_rate"):
        recipe.settings({}, {"start": "169", "growth_rate": 48})
    with pytest.raises(UsageError, match="neither"):
        recipe.settings({}, {"start": "no-such-thing"})


def test_resuming_needs_nothing_said_and_tells_what_differs():
    begun = recipe.settings({}, {"variant": "bc-100-12", "epochs": 7, "seed": 4})
    assert recipe.resumed(begun.to_dict(), {}, {}) == begun
    other = recipe.resumed(begun.to_dict(), {}, {"seed": 5, "epochs": 8})
    assert begun.differences(other) == ["sizes is '32x8', not '32x7'", "seed is 5, not 4"]


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.toml")), ids=lambda path: path.name)
def test_the_recipes_are_settings(path):
    assert recipe.settings(recipe.read(path), {}).epochs > 1


def test_every_setting_is_an_option_and_offers_the_same_choices():
    from densenet_cli.cli import train

    options = {parameter.name: parameter for parameter in train.command.params}
    assert {field.name for field in fields(Settings)} <= options.keys()
    for name, choices in (
        ("schedule", SCHEDULES),
        ("augmentation", AUGMENTATIONS),
        ("precision", PRECISIONS),
        ("preprocess", tuple(MODES)),
    ):
        assert tuple(options[name].type.choices) == choices


def test_the_help_names_the_defaults_there_are():
    from click.testing import CliRunner

    from densenet_cli.cli import train

    defaults = Settings()
    words = " ".join(CliRunner().invoke(train.command, ["--help"], terminal_width=100).output.split())
    words = words.partition("Options:")[2]
    for name, value in (
        ("batch-size", defaults.batch_size),
        ("learning-rate", defaults.learning_rate),
        ("averaging", defaults.averaging),
        ("label-smoothing", defaults.label_smoothing),
        ("crop-area", defaults.crop_area),
        ("validation", defaults.validation),
        ("epochs", EPOCHS),
    ):
        after = words.partition(f"--{name} ")[2]
        assert after.partition("[default: ")[2].startswith(f"{value}]"), name
