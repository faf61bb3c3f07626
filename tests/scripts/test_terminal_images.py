"""The images of the terminal in the documentation: as the commands are now, and asking for nothing elsewhere."""

from __future__ import annotations

import re

import pytest

from scripts import terminal_images
from scripts.terminal_images import FOLDER, alike, drawn


@pytest.fixture(scope="module", params=terminal_images.COMMANDS)
def image(request):
    """An image in the repository, and the same one drawn now."""
    return (FOLDER / f"{request.param}.svg").read_text(encoding="utf-8"), drawn(request.param)


def test_it_is_current(image):
    assert alike(*image), "make docs draws it anew"


def test_nothing_is_fetched_for_it(image):
    kept, _ = image
    assert set(re.findall(r"https?://[^\s\"<]+", kept)) == {"http://www.w3.org/2000/svg", "https://www.textualize.io"}
    assert "@font-face" not in kept and "@import" not in kept and "url(" not in kept.replace("url(#", "")


def test_every_image_is_one_of_these():
    assert {path.stem for path in FOLDER.glob("*.svg")} == set(terminal_images.COMMANDS)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("94.33% lesser panda", "94.34% lesser panda", True),
        ("94.33% lesser panda", "94.35% lesser panda", False),
        ("94.33% lesser panda", "94.3% lesser panda", False),
        ("94.33% lesser panda", "94.33% giant panda", False),
        ("8 layers", "9 layers", False),
        ("1 of 2", "1 of 2 and more", False),
    ],
)
def test_a_last_digit_may_differ_and_nothing_else(one, other, same):
    assert alike(one, other) == same


def test_an_old_image_is_found_and_drawn_anew(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(terminal_images, "ROOT", tmp_path)
    monkeypatch.setattr(terminal_images, "FOLDER", tmp_path / "images")
    monkeypatch.setattr(terminal_images, "COMMANDS", {"summary": "summary"})
    monkeypatch.setattr(terminal_images, "CLASSES", {})
    assert terminal_images.main(["--check"]) == 1
    assert terminal_images.main([]) == 0
    assert terminal_images.main(["--check"]) == 0
    path = tmp_path / "images" / "summary.svg"
    path.write_text(path.read_text().replace("Stem", "Root"))
    assert terminal_images.main(["--check"]) == 1
    assert "summary.svg is out of date" in capsys.readouterr().out
