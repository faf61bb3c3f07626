"""Preprocessing gives the values of timm's own transforms: recorded ones, and, with timm installed, all photographs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from densenet_cli.images.normalization import normalize
from tests.data.make_timm_transforms import FILE, SIZES, STEP, TRANSFORMS
from tests.support.images import load_pixels, photograph
from tests.support.torch_libraries import import_library

MODES = {"center": "crop", "squash": "squash", "border": "pad"}


def settings_of(arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of ``Preprocessing`` for arguments of ``timm.data.create_transform``."""
    mode = MODES[arguments.get("crop_mode", "center")]
    return {
        "mode": mode,
        "input_size": arguments["input_size"],
        "interpolation": arguments["interpolation"],
        "crop_ratio": arguments["crop_pct"] if mode == "crop" else None,
        "mean": arguments["mean"],
        "std": arguments["std"],
    }


def load(image: Any, **settings: Any) -> np.ndarray:
    """Return the normalized input for one image, float32 of shape (side, side, channels)."""
    return normalize(load_pixels(image, **settings), settings["mean"], settings["std"])[0]


@pytest.fixture(scope="module")
def recorded():
    with np.load(FILE) as file:
        return dict(file)


@pytest.mark.parametrize("kind", SIZES)
@pytest.mark.parametrize("name", TRANSFORMS)
def test_values_are_those_of_timm(recorded, name, kind):
    values = load(photograph("coffee", SIZES[kind]), **settings_of(TRANSFORMS[name]))
    np.testing.assert_array_equal(values[::STEP, ::STEP], recorded[f"{name}/{kind}"])


def test_grayscale_values_are_those_of_timm(recorded):
    settings = {"input_size": 64, "crop_ratio": 0.875, "interpolation": "bicubic", "mean": (0.449,), "std": (0.226,)}
    values = load(photograph("coffee"), **settings)
    assert values.shape == (64, 64, 1)
    np.testing.assert_array_equal(values[::STEP, ::STEP], recorded["gray"])


@pytest.mark.parametrize(
    "wrong",
    [{"interpolation": "bilinear"}, {"mean": (0.5, 0.5, 0.5)}, {"crop_ratio": 0.9}, {"std": (0.25, 0.25, 0.25)}],
    ids=lambda wrong: next(iter(wrong)),
)
def test_other_settings_give_other_values(recorded, wrong):
    """Otherwise the recorded values would prove nothing."""
    values = load(photograph("coffee", SIZES["landscape"]), **{**settings_of(TRANSFORMS["224"]), **wrong})
    assert np.abs(values[::STEP, ::STEP] - recorded["224/landscape"]).max() > 0.05


def test_a_crop_ratio_rounds_down():
    """32 / 0.875 is 36.57. timm resizes to 36 pixels; the default of this package rounds to 37."""
    image, settings = photograph("coffee"), {**settings_of(TRANSFORMS["32"])}
    assert not np.array_equal(load(image, **settings), load(image, **{**settings, "crop_ratio": None}))


@pytest.mark.slow
@pytest.mark.parametrize("name", TRANSFORMS)
def test_all_photographs_with_timm_itself(photographs, name):
    """Exactly equal at full scale, for images without a color profile, which timm ignores.

    At reduced scale, the JPEG decoder averages pixels, which changes values slightly.
    """
    data = import_library("timm.data")
    from PIL import Image

    transform = data.create_transform(**TRANSFORMS[name])
    settings = settings_of(TRANSFORMS[name])
    for path in photographs:
        with Image.open(path) as image:
            if "icc_profile" in image.info:
                continue
            expected = transform(image.convert("RGB")).numpy().transpose(1, 2, 0)
        np.testing.assert_array_equal(load(path, exact=True, **settings), expected, err_msg=path.name)
        difference = np.abs(load(path, **settings) - expected) * 255 * max(settings["std"])
        assert difference.max() < 20 and difference.mean() < 1
