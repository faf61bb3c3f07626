"""Drawings: the colors where the map lies, captions that fit, sheets of a bounded size."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from PIL import Image, ImageFont

from densenet_cli.explain import captions, drawing
from densenet_cli.explain.cam import ClassMap, Explanation
from densenet_cli.results import Score
from tests.support.images import photograph


def explanation(size=(400, 300), seen=None, label="tabby", maps=1, levels=None):
    image = photograph(size=size)
    image.thumbnail((800, 800))
    levels = np.linspace(0, 1, 81, dtype=np.float32).reshape(9, 9) if levels is None else levels
    score = Score(1, 0, None, label, 0.8123)
    one = ClassMap(score, np.zeros((1, 1), np.float32), 0.0, levels, (0, 0), (0, 0, 1, 1))
    return Explanation("photos/cat.jpg", "test", size, seen or (0, 0, *size), image, (one,) * maps)


def test_colors_lie_where_the_map_does_and_the_rest_is_grey():
    seen = (100, 50, 300, 250)
    one = explanation(seen=seen)
    whole = np.asarray(drawing.overlay(one.image, one, one.maps[0]), int)
    outside = np.ones(whole.shape[:2], bool)
    outside[50:250, 100:300] = False
    assert (np.ptp(whole, axis=2)[outside] == 0).all()
    assert (np.ptp(whole, axis=2)[~outside] > 0).mean() > 0.95
    assert whole[outside].max() <= 0.35 * 255 + 1


def test_the_most_is_brighter_than_the_least():
    """On an even gray the colors' brightness rises all the way with the level."""
    one = explanation()
    gray = Image.new("RGB", (400, 300), (128, 128, 128))
    brightness = np.asarray(drawing.overlay(gray, one, one.maps[0]).convert("L"), float)[::8].mean(axis=1)
    assert (np.diff(brightness) > 0).all()


def test_the_colors_are_matplotlib_s():
    matplotlib = pytest.importorskip("matplotlib")
    ours = np.frombuffer(drawing._palette(), np.uint8).reshape(256, 3)
    np.testing.assert_array_equal(ours, matplotlib.colormaps["inferno"](range(256), bytes=True)[:, :3])


@pytest.mark.parametrize("size", [(64, 64), (8, 5), (4000, 3000), (3000, 4000), (6000, 300), (60, 4000), (1, 1)])
@pytest.mark.parametrize("maps", [1, 2, 9])
def test_sheets_are_neither_huge_nor_too_small_for_words(size, maps):
    sheet = explanation(size, maps=maps).draw()
    assert sheet.mode == "RGB"
    assert sheet.width >= drawing.LEAST_WIDTH
    if maps == 1:
        assert max(sheet.size) <= 2 * drawing.MOST_SIDE + 200
    assert sheet.width * sheet.height < 6_000_000
    assert 0.2 < sheet.width / sheet.height < 8


@pytest.mark.parametrize("label", ["tabby", "black-and-tan coonhound " * 9, "A" * 300, "", "x\ny\x1b[31m", "b\udcff"])
def test_captions_fit(label):
    one = explanation((320, 200), label=label)
    for lines in (captions.of_map(one.maps[0], 16, 320), captions.original(one, 16, 320)):
        assert 2 <= len(lines) <= 3
        for text, font, _ in lines:
            assert font.getlength(text) <= 320
            assert text.isprintable()
    assert captions.of_map(one.maps[0], 16, 320)[-1][0] == "81.2%, rank 1"


def test_letters_that_no_font_has_are_replaced(monkeypatch):
    monkeypatch.setattr(captions, "OTHER_FONTS", ())
    captions._other_fonts.cache_clear()
    text, font = captions._legible("Żubr 猫 Ä", 16)
    assert (text, font) == ("Zubr ? A", captions._font(16))
    captions._other_fonts.cache_clear()


def test_letters_that_the_system_has_are_drawn(monkeypatch):
    try:
        ImageFont.truetype("DejaVuSans.ttf", 16)
    except OSError:
        matplotlib = pytest.importorskip("matplotlib")
        monkeypatch.setattr(captions, "OTHER_FONTS", (f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans.ttf",))
    captions._other_fonts.cache_clear()
    text, font = captions._legible("Żubr Ä", 16)
    assert text == "Żubr Ä"
    assert font.getname()[0] == "DejaVu Sans"
    captions._other_fonts.cache_clear()


def test_drawing_twice_gives_the_same():
    one = explanation()
    digests = {hashlib.sha256(one.draw().tobytes()).hexdigest() for _ in range(3)}
    assert len(digests) == 1
