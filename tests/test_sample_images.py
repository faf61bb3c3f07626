"""The sample images: few, small, and listed with their license."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

SAMPLES = Path(__file__).parents[1] / "sample_images"


def test_photographs_are_small_and_documented(photographs):
    assert 4 <= len(photographs) <= 8
    assert sum(path.stat().st_size for path in photographs) < 1_000_000
    rows = [line for line in (SAMPLES / "README.md").read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    assert [row.split("`")[1] for row in rows] == [path.name for path in photographs]
    assert all("CC0 1.0" in row or "public domain" in row for row in rows)
    for path in photographs:
        with Image.open(path) as image:
            assert image.format == "JPEG" and min(image.size) >= 256
            image.load()
