"""Images on their way into a batch: decoded, kept, augmented."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from densenet_cli.errors import ImageError, OutputError
from densenet_cli.images.preprocessing import PAD_COLOR, DecodedImage, normalize
from densenet_cli.training.augmentation import augment, padded_crop, random_resized_crop
from densenet_cli.training.batches import Part, TrainingBatches
from densenet_cli.training.image_cache import Mapped, Streamed, open_images
from densenet_cli.training.settings import Phase, Settings

SETTINGS = Settings(sizes=(Phase(8, 2), Phase(12, 1)), batch_size=4, input_size=16)


def item(width: int = 20, height: int = 16, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height // 4, width // 4, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR)


@pytest.fixture
def paths(tmp_path) -> list[str]:
    """A large JPEG, an image turned by its EXIF, a gray one, and one that is none."""
    item(900, 600).save(tmp_path / "a.jpg", quality=90)
    exif = Image.Exif()
    exif[0x0112] = 6
    item(24, 16, 1).save(tmp_path / "b.jpg", exif=exif)
    item(16, 20, 2).convert("L").save(tmp_path / "c.png")
    (tmp_path / "d.png").write_bytes(b"no image")
    return [str(tmp_path / name) for name in ("a.jpg", "b.jpg", "c.png", "d.png")]


def opened(paths: list[str], folder: Path, limit: int = 10, least_side: int = 40):
    calls: list[tuple[int, int]] = []
    images = open_images(paths, least_side, folder, limit, 2, lambda *numbers: calls.append(numbers))
    return images, calls


def test_kept_images_are_those_that_are_decoded_each_time(paths, tmp_path):
    kept, calls = opened(paths, tmp_path / "cache")
    assert isinstance(kept, Mapped)
    assert calls == [(1, 4), (2, 4), (3, 4), (4, 4)]
    fresh = Streamed(paths, 40)
    for index in range(3):
        one, other = kept[index], fresh[index]
        assert (one.size, one.box) == (other.size, other.box)
        np.testing.assert_array_equal(np.asarray(one.image), np.asarray(other.image))
    assert kept[0].size == (900, 600)
    assert min(kept[0].image.size) == 75, "a large JPEG is kept at a reduced scale"
    assert kept[1].size == (16, 24), "upright"
    for images in (kept, fresh):
        with pytest.raises(ImageError):
            images[3]
    assert list(kept.unreadable()) == [3]


def test_they_are_decoded_once(paths, tmp_path):
    opened(paths, tmp_path / "cache")
    _, calls = opened(paths, tmp_path / "cache")
    assert calls == []
    item(seed=9).save(paths[2])
    _, calls = opened(paths, tmp_path / "cache")
    assert len(calls) == 4, "a file that has changed is another image"


def test_what_is_too_much_is_not_kept(paths, tmp_path):
    images, calls = opened(paths, tmp_path / "cache", limit=0)
    assert isinstance(images, Streamed)
    assert calls == []
    assert not (tmp_path / "cache").exists()


def test_a_folder_that_cant_be_written_is_said(paths, tmp_path):
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(OutputError, match="cache"):
        opened(paths, tmp_path / "cache")


def test_a_whole_crop_is_the_image_resized():
    class Whole:
        """The generator of a crop of all of a square, in its own aspect, at the upper left."""

        def uniform(self, low, high):
            return 1.0 if high == 1 else 0.0

        def random(self):
            return 0.0

    image = item(16, 16)
    found = random_resized_crop(DecodedImage.whole(image), 8, 0.3, Whole())
    np.testing.assert_array_equal(found, np.asarray(image.resize((8, 8), Image.Resampling.BILINEAR)))


def test_random_crops_keep_the_share_and_aspect_that_they_may():
    # Each pixel of an image tells its column and row: the crop's corners show where it was cut.
    side = 240
    columns, rows = np.meshgrid(np.arange(side), np.arange(side))
    whole = DecodedImage.whole(Image.fromarray(np.stack([columns, rows, rows], axis=2).astype(np.uint8)))
    generator = np.random.default_rng(0)
    areas, aspects = [], []
    for _ in range(300):
        crop = random_resized_crop(whole, 60, 0.35, generator).astype(float)
        wide, high = ((crop[-1, -1, n] - crop[0, 0, n]) * 60 / 59 for n in (0, 1))
        areas.append(wide * high / side**2)
        aspects.append(wide / high)
    assert min(areas) > 0.3
    assert max(areas) < 1.02
    assert np.mean(areas) == pytest.approx(0.65, abs=0.06)
    assert min(aspects) > 0.72
    assert max(aspects) < 1.4


def test_padded_crops_shift_by_up_to_an_eighth():
    pixels = np.arange(32 * 32 * 3, dtype=np.uint32).reshape(32, 32, 3).astype(np.uint8)
    whole = DecodedImage.whole(Image.fromarray(pixels))
    surrounded = np.full((40, 40, 3), PAD_COLOR, np.uint8)
    surrounded[4:36, 4:36] = pixels
    windows = {surrounded[y : y + 32, x : x + 32].tobytes() for y in range(9) for x in range(9)}
    generator = np.random.default_rng(0)
    found = {padded_crop(whole, 32, generator).tobytes() for _ in range(600)}
    assert found <= windows
    assert len(found) > 70


def test_half_of_the_images_are_mirrored():
    whole = DecodedImage.whole(item(8, 8))
    straight = np.asarray(whole.image)
    settings = replace(SETTINGS, augmentation="none")
    generator = np.random.default_rng(0)
    mirrored = 0
    for _ in range(200):
        found = augment(whole, 8, settings, generator)
        is_straight = (found == straight).all()
        assert is_straight or (found == straight[:, ::-1]).all()
        mirrored += not is_straight
    assert 70 < mirrored < 130
    assert (augment(whole, 8, replace(settings, flip=False), generator) == straight).all()


class Few:
    """Ten images, of which some can't be decoded."""

    def __init__(self, bad: frozenset[int] = frozenset()) -> None:
        self._bad = bad

    def __getitem__(self, index: int, /) -> DecodedImage:
        if index in self._bad:
            raise ImageError(f"{index} is bad")
        return DecodedImage.whole(item(16, 16, seed=int(index)))


def part(images: Few | None = None) -> Part:
    return Part(images or Few(), np.arange(10), np.arange(10) % 2)


def test_batches_are_the_same_from_any_thread_and_start():
    one = [list(TrainingBatches(part(), SETTINGS, 1).epoch(epoch)) for epoch in range(3)]
    other = [list(TrainingBatches(part(), SETTINGS, 3).epoch(epoch)) for epoch in range(3)]
    assert [batch.pixels.shape for batch in one[2]] == [(4, 12, 12, 3)] * 2
    for mine, others in zip(one, other, strict=True):
        for a, b in zip(mine, others, strict=True):
            np.testing.assert_array_equal(a.pixels, b.pixels)
            np.testing.assert_array_equal(a.targets, b.targets)
    (last,) = TrainingBatches(part(), SETTINGS, 2).epoch(1, first=1)
    np.testing.assert_array_equal(last.pixels, one[1][1].pixels)
    assert not np.array_equal(one[0][0].pixels, one[1][0].pixels)


def test_a_batch_holds_the_images_of_its_targets():
    settings = replace(SETTINGS, augmentation="none", flip=False, sizes=(Phase(16, 1),))
    (first, *_) = TrainingBatches(part(), settings, 1).epoch(0)
    known = {normalize(np.asarray(item(16, 16, seed))[None])[0].tobytes(): seed for seed in range(10)}
    assert [known[pixels.tobytes()] % 2 for pixels in first.pixels] == first.targets.tolist()


def test_a_bad_image_ends_an_epoch_or_gives_its_place_to_another_of_its_class():
    bad = part(Few(frozenset({2, 4})))
    with pytest.raises(ImageError, match="is bad"):
        for epoch in range(3):
            list(TrainingBatches(bad, SETTINGS, 2).epoch(epoch))
    for epoch in range(3):
        for batch in TrainingBatches(bad, SETTINGS, 2, skip_unreadable=True).epoch(epoch):
            assert len(batch.pixels) == 4
