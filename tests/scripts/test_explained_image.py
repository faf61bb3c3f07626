"""The explained image in the documentation is up to date, and the check detects changes."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from scripts import explained_image
from scripts.explained_image import IMAGE, MAX_BYTES, is_similar


@pytest.fixture(scope="module")
def drawing():
    return explained_image.draw()


def test_image_is_current_and_small(drawing):
    assert is_similar(Image.open(IMAGE).convert("RGB"), drawing), "run make docs"
    assert IMAGE.stat().st_size <= MAX_BYTES


def test_other_drawings_are_not_similar(drawing):
    pixels = np.asarray(drawing)
    middle = len(pixels) // 2
    shifted = pixels.copy()
    shifted[middle:] = np.roll(shifted[middle:], 60, axis=1)
    assert not is_similar(Image.fromarray(shifted), drawing)
    assert not is_similar(drawing.resize((400, 500)), drawing)


def test_missing_image_is_drawn_once(tmp_path, monkeypatch, drawing, capsys):
    monkeypatch.setattr(explained_image, "IMAGE", tmp_path / "explained.jpg")
    monkeypatch.setattr(explained_image, "draw", lambda: drawing)
    assert explained_image.main(["--check"]) == 1
    assert "out of date" in capsys.readouterr().out
    assert explained_image.main([]) == 0
    assert explained_image.main(["--check"]) == 0
    modified = (tmp_path / "explained.jpg").stat().st_mtime_ns
    assert explained_image.main([]) == 0
    assert (tmp_path / "explained.jpg").stat().st_mtime_ns == modified
