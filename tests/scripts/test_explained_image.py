"""The explained photograph in the documentation: as the command draws it now, and small."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from scripts import explained_image
from scripts.explained_image import IMAGE, MOST_BYTES, alike


@pytest.fixture(scope="module")
def drawn():
    return explained_image.drawn()


def test_it_is_current_and_small(drawn):
    assert alike(Image.open(IMAGE).convert("RGB"), drawn), "make docs draws it anew"
    assert IMAGE.stat().st_size <= MOST_BYTES


def test_another_map_is_seen(drawn):
    pixels = np.asarray(drawn)
    half = len(pixels) // 2
    moved = pixels.copy()
    moved[half:] = np.roll(moved[half:], 60, axis=1)
    assert not alike(Image.fromarray(moved), drawn)
    assert not alike(drawn.resize((400, 500)), drawn)


def test_an_old_one_is_drawn_anew(tmp_path, monkeypatch, drawn, capsys):
    monkeypatch.setattr(explained_image, "IMAGE", tmp_path / "explained.jpg")
    monkeypatch.setattr(explained_image, "drawn", lambda: drawn)
    assert explained_image.main(["--check"]) == 1
    assert "out of date" in capsys.readouterr().out
    assert explained_image.main([]) == 0
    assert explained_image.main(["--check"]) == 0
    before = (tmp_path / "explained.jpg").stat().st_mtime_ns
    assert explained_image.main([]) == 0
    assert (tmp_path / "explained.jpg").stat().st_mtime_ns == before
