"""What a file states wins, an option must not contradict it, and everything else is a documented default."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from densenet_cli.errors import UsageError
from densenet_cli.images.normalization import MEAN, STD, normalize
from densenet_cli.images.preprocessing import Preprocessing
from densenet_cli.model_preprocessing import ModelOptions, resolve
from densenet_cli.topology import DenseNetConfig
from densenet_cli.weights.contents import ModelMetadata

FILE = Path("model.pth")
CONFIG = DenseNetConfig((1, 1), growth_rate=2, stem_width=4, classes=3)
GRAY = replace(CONFIG, channels=1)
TIMM = ModelMetadata(
    activation=None,
    preprocess="crop",
    input_size=224,
    mean=(0.5, 0.5, 0.5),
    std=(0.25, 0.25, 0.25),
    interpolation="bicubic",
    crop_ratio=0.875,
    test_input_size=288,
    test_crop_ratio=0.95,
)
DEFAULT_NAMES = {"activation", "preprocess", "input_size", "interpolation", "crop_ratio", "mean", "std"}


def choose(metadata=ModelMetadata(), config=CONFIG, file=FILE, **options):  # noqa: B008  (immutable)
    given = ModelOptions(**options)
    return resolve(given, file, config, metadata, given.check(False, False, "refuse", "auto", "first"))


def names(assumptions):
    return {assumption.partition("=")[0] for assumption in assumptions}


def test_a_silent_file_gets_defaults_and_every_one_is_an_assumption():
    preprocessing, assumptions = choose()
    assert preprocessing == Preprocessing()
    assert names(assumptions) == DEFAULT_NAMES
    assert "mean=0.485,0.456,0.406" in assumptions and "activation=softmax" in assumptions


def test_published_weights_assume_nothing():
    assert choose(file=None) == (Preprocessing(), ())


def test_statements_of_the_file_are_used():
    preprocessing, assumptions = choose(TIMM)
    assert names(assumptions) == {"activation"}
    assert (preprocessing.interpolation, preprocessing.resize_side) == ("bicubic", 256)
    assert (preprocessing.mean, preprocessing.std) == (TIMM.mean, TIMM.std)


def test_options_fill_gaps_and_are_no_assumptions():
    options = {"activation": "sigmoid", "mean": (0.1, 0.2, 0.3), "interpolation": "bicubic", "crop_ratio": 1.0}
    preprocessing, assumptions = choose(**options, std=0.5, input_size=64)
    assert names(assumptions) == {"preprocess"}
    assert (preprocessing.mean, preprocessing.std) == ((0.1, 0.2, 0.3), (0.5, 0.5, 0.5))
    assert (preprocessing.input_size, preprocessing.resize_side) == (64, 64)


@pytest.mark.parametrize(
    "options",
    [
        {"mean": (0.485, 0.5, 0.5)},
        {"std": (0.2, 0.2, 0.2)},
        {"interpolation": "bilinear"},
        {"crop_ratio": 0.9},
        {"input_size": 288, "crop_ratio": 0.875},
    ],
    ids=str,
)
def test_an_option_must_not_contradict_the_file(options):
    with pytest.raises(UsageError) as caught:
        choose(TIMM, **options)
    name = list(options)[-1]
    assert f"`{name}`" in str(caught.value) and "model.pth" in str(caught.value)


def test_an_activation_must_not_contradict_the_file():
    with pytest.raises(UsageError, match="sigmoid"):
        choose(replace(TIMM, activation="sigmoid"), activation="softmax")


def test_the_same_value_is_no_contradiction():
    """Files often have float32 values, and one number stands for all channels."""
    stated = replace(TIMM, mean=tuple(float(np.float32(value)) for value in MEAN))
    assert choose(stated, mean=MEAN)[0].mean == stated.mean
    assert choose(TIMM, mean=0.5, interpolation="bicubic", crop_ratio=0.875) == choose(TIMM)


def test_published_weights_have_a_known_mean():
    with pytest.raises(UsageError, match="`mean`"):
        choose(file=None, mean=0.5)
    assert choose(file=None, interpolation="bicubic")[0].interpolation == "bicubic"


def test_published_weights_have_a_softmax():
    with pytest.raises(UsageError, match="softmax"):
        choose(file=None, activation="sigmoid", config=replace(CONFIG, activation="sigmoid"))


def test_another_input_size_is_allowed_and_the_test_size_has_its_own_crop_ratio():
    assert choose(TIMM, input_size=288)[0].resize_side == 303
    assert choose(TIMM, input_size=256)[0].resize_side == 292
    with pytest.raises(UsageError):
        choose(TIMM, input_size=1)


def test_a_flattening_head_accepts_one_size():
    config = replace(CONFIG, pooling="flatten", input_size=64)
    assert choose(config=config)[0].input_size == 64
    assert choose(config=config, input_size=64)[0].input_size == 64
    with pytest.raises(UsageError, match="64"):
        choose(config=config, input_size=96)


def test_the_mode_can_be_chosen():
    assert choose(TIMM, preprocess="keras")[0].interpolation == "nearest"
    with pytest.raises(UsageError, match="nearest"):
        choose(ModelMetadata(preprocess="keras"), interpolation="bicubic")
    squash = choose(TIMM, preprocess="squash")[0]
    assert (squash.interpolation, squash.crop_ratio) == ("bicubic", None)
    with pytest.raises(UsageError, match="nearest"):
        choose(TIMM, preprocess="keras", interpolation="bicubic")
    with pytest.raises(UsageError, match="crop_ratio"):
        choose(preprocess="pad", crop_ratio=0.9)


def test_the_interpolation_of_mode_keras_is_not_that_of_other_modes():
    metadata = replace(TIMM, preprocess="keras", interpolation="nearest", crop_ratio=None)
    preprocessing, assumptions = choose(metadata, preprocess="crop")
    assert preprocessing.interpolation == "bilinear" and "interpolation" in names(assumptions)
    assert choose(metadata, preprocess="squash", interpolation="bicubic")[0].interpolation == "bicubic"
    assert choose(metadata)[0].interpolation == "nearest"


def test_a_file_with_mode_crop_but_no_crop_ratio_states_the_default():
    """``train`` and ``export`` write no crop ratio if it is the default."""
    metadata = replace(TIMM, input_size=200, crop_ratio=None)
    expected = choose(metadata)
    assert expected[0].resize_side == 229 and "crop_ratio" not in names(expected[1])
    assert choose(metadata, crop_ratio=0.875) == expected
    with pytest.raises(UsageError, match=r"`crop_ratio`.* states 0\.875"):
        choose(metadata, crop_ratio=0.5)
    assert choose(replace(metadata, preprocess="squash"), preprocess="crop", crop_ratio=0.5)[0].crop_ratio == 0.5
    assert choose(replace(metadata, preprocess=None), crop_ratio=0.5)[0].crop_ratio == 0.5


class TestGrayscale:
    def test_needs_a_mean_and_std(self):
        for options in ({}, {"mean": 0.5}, {"std": 0.5}):
            with pytest.raises(UsageError, match="grayscale"):
                choose(config=GRAY, **options)

    def test_from_options(self):
        preprocessing, assumptions = choose(config=GRAY, mean=0.449, std=[0.226])
        assert (preprocessing.mean, preprocessing.std, preprocessing.channels) == ((0.449,), (0.226,), 1)
        assert not {"mean", "std"} & names(assumptions)

    def test_three_values_are_wrong(self):
        with pytest.raises(UsageError, match="one number"):
            choose(config=GRAY, mean=MEAN, std=STD)
        with pytest.raises(UsageError, match="one number"):
            choose(TIMM, config=GRAY)


def test_a_network_without_a_head_needs_no_activation():
    assert "activation" not in names(choose(config=CONFIG.with_classes(0))[1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mean": (123.675, 116.28, 103.53)}, "255"),
        ({"mean": (0.5, 0.5)}, "one or three"),
        ({"std": ()}, "one or three"),
        ({"mean": float("nan")}, "one or three"),
        ({"std": (0.1, 0, 0.1)}, "std"),
        ({"activation": "tanh"}, "softmax"),
        ({"interpolation": "lanczos"}, "bicubic"),
        ({"crop_ratio": 0.0}, "crop_ratio"),
        ({"crop_ratio": 1.01}, "crop_ratio"),
        ({"input_size": 0}, "input_size"),
    ],
    ids=str,
)
def test_invalid_options_are_found_before_anything_is_loaded(options, message):
    with pytest.raises(UsageError, match=message):
        ModelOptions(**options).check(False, False, "refuse", "auto", "first")


values = st.floats(0, 1, width=32)


@given(mean=st.tuples(values, values, values), std=st.tuples(*[st.floats(0.0625, 1, width=32)] * 3))
def test_normalization_is_scale_and_offset(mean, std):
    pixels = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 16, 16, 3)
    expected = (pixels / 255 - np.array(mean)) / np.array(std)
    np.testing.assert_allclose(normalize(pixels, mean, std), expected, atol=1e-5)
