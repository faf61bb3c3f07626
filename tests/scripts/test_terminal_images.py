"""Terminal images in the documentation: they are current, and they load nothing from other sites."""

from __future__ import annotations

import re

import pytest

from scripts import terminal_images
from scripts.terminal_images import FOLDER, are_equivalent, render


@pytest.fixture(scope="module", params=terminal_images.COMMANDS)
def images(request):
    """An image in the repository, and the current output of its command."""
    return (FOLDER / f"{request.param}.svg").read_text(encoding="utf-8"), render(request.param)


def test_image_is_current(images):
    assert are_equivalent(*images), "run make docs"


def test_image_loads_nothing_from_other_sites(images):
    image, _ = images
    assert set(re.findall(r"https?://[^\s\"<]+", image)) == {"http://www.w3.org/2000/svg", "https://www.textualize.io"}
    assert "@font-face" not in image and "@import" not in image and "url(" not in image.replace("url(#", "")


def test_there_are_no_other_images():
    assert {path.stem for path in FOLDER.glob("*.svg")} == set(terminal_images.COMMANDS)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("94.33% lesser panda", "94.34% lesser panda", True),
        ("94.33% lesser panda", "94.35% lesser panda", False),
        ("94.33% lesser panda", "94.3% lesser panda", False),
        ("94.33% lesser panda", "94.33% giant panda", False),
        ("8 layers", "9 layers", False),
        ("1 of 2", "1 of 2 and more", False),
    ],
)
def test_only_the_last_digit_may_differ(first, second, expected):
    assert are_equivalent(first, second) == expected


def test_an_outdated_image_is_found_and_updated(tmp_path, monkeypatch, capsys):
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
    assert "summary.svg" in capsys.readouterr().out
