"""Drawings: where colors lie, captions that fit, and sizes within limits."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from PIL import Image, ImageFont

from densenet_cli.explain import drawing
from densenet_cli.explain.cam import ClassMap, Explanation
from densenet_cli.explain.drawing import HeatMap, Panel
from densenet_cli.results import Score
from tests.support.images import photograph


def explanation(size=(400, 300), region=None, label="tabby", maps=1):
    image = photograph(size=size)
    image.thumbnail((800, 800))
    heat_map = HeatMap(np.linspace(0, 1, 81, dtype=np.float32).reshape(9, 9), region or (0, 0, *size), size)
    score = Score(1, 0, None, label, 0.8123)
    map_ = ClassMap(score, np.zeros((1, 1), np.float32), 0.0, heat_map, (0, 0), (0, 0, 1, 1))
    return Explanation("photos/cat.jpg", "test", size, image, (map_,) * maps)


def test_only_the_region_of_the_heat_map_is_colored():
    explained = explanation(region=(100, 50, 300, 250))
    overlay = np.asarray(drawing.overlay(explained.image, explained.maps[0].heat_map), int)
    outside = np.ones(overlay.shape[:2], bool)
    outside[50:250, 100:300] = False
    assert (np.ptp(overlay, axis=2)[outside] == 0).all()
    assert (np.ptp(overlay, axis=2)[~outside] > 0).mean() > 0.95
    assert overlay[outside].max() <= 0.35 * 255 + 1


def test_brightness_increases_with_the_level():
    gray = Image.new("RGB", (400, 300), (128, 128, 128))
    overlay = drawing.overlay(gray, explanation().maps[0].heat_map)
    brightness = np.asarray(overlay.convert("L"), float)[::8].mean(axis=1)
    assert (np.diff(brightness) > 0).all()


def test_colormap_is_inferno():
    matplotlib = pytest.importorskip("matplotlib")
    colors = np.frombuffer(drawing._colormap(), np.uint8).reshape(256, 3)
    np.testing.assert_array_equal(colors, matplotlib.colormaps["inferno"](range(256), bytes=True)[:, :3])


@pytest.mark.parametrize("size", [(64, 64), (8, 5), (4000, 3000), (3000, 4000), (6000, 300), (60, 4000), (1, 1)])
@pytest.mark.parametrize("maps", [1, 2, 9])
def test_drawing_size_is_limited(size, maps):
    image = explanation(size, maps=maps).draw()
    assert image.mode == "RGB"
    assert image.width >= drawing.MIN_PANEL_WIDTH
    if maps == 1:
        assert max(image.size) <= 2 * drawing.MAX_PANEL_SIDE + 200
    assert image.width * image.height < 6_000_000
    assert 0.2 < image.width / image.height < 8


@pytest.mark.parametrize("title", ["tabby", "black-and-tan coonhound " * 9, "A" * 300, "", "x\ny\x1b[31m", "b\udcff"])
@pytest.mark.parametrize("with_map", [True, False])
def test_captions_fit_the_panel(title, with_map):
    heat_map = explanation((320, 200)).maps[0].heat_map if with_map else None
    lines = drawing.caption(Panel(title, "81.2%, rank 1", heat_map), 16, 320)
    assert 2 <= len(lines) <= (3 if with_map else 2)
    assert lines[-1].text == "81.2%, rank 1"
    for line in lines:
        assert line.font.getlength(line.text) <= 320
        assert line.text.isprintable()


@pytest.fixture
def system_fonts(monkeypatch):
    """A function that replaces the list of system fonts to try."""
    drawing._system_fonts.cache_clear()
    yield lambda *fonts: monkeypatch.setattr(drawing, "SYSTEM_FONTS", fonts)
    drawing._system_fonts.cache_clear()


def test_characters_without_a_font_are_replaced(system_fonts):
    system_fonts()
    assert drawing._choose_font("Żubr 猫 Ä", 16) == ("Zubr ? A", drawing._default_font(16))


def test_system_fonts_are_used(system_fonts):
    try:
        ImageFont.truetype("DejaVuSans.ttf", 16)
    except OSError:
        matplotlib = pytest.importorskip("matplotlib")
        system_fonts(f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans.ttf")
    text, font = drawing._choose_font("Żubr Ä", 16)
    assert text == "Żubr Ä"
    assert font.getname()[0] == "DejaVu Sans"


def test_drawing_is_deterministic():
    explained = explanation()
    digests = {hashlib.sha256(explained.draw().tobytes()).hexdigest() for _ in range(3)}
    assert len(digests) == 1
