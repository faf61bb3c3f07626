"""What can't be trained on is refused before the first step, in a sentence, and nothing is lost by it."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from densenet_cli.errors import OutputError, UsageError
from densenet_cli.output import atomic
from densenet_cli.training import folders, run_files, session
from densenet_cli.training.ways import Ways
from tests.training.digits import SETTINGS


def write_images(folder: Path, *classes: str, count: int = 6) -> Path:
    for shade, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            Image.new("RGB", (8, 8), (40 * shade, number, 0)).save(folder / name / f"{number}.png")
    return folder


def place(tmp_path: Path, validation: Path | None = None) -> session.Place:
    return session.Place(tmp_path / "images", validation, tmp_path / "run", tmp_path / "cache", 100)


def refused(where: session.Place, settings=SETTINGS, ways=None, **how) -> str:
    with pytest.raises(UsageError) as raised, session.open_run(where, settings, ways or Ways(), **how):
        pass
    assert not (where.output / "model.safetensors").exists()
    return str(raised.value)


def test_a_folder_without_classes(tmp_path):
    (tmp_path / "images").mkdir()
    assert "no class folders" in refused(place(tmp_path))


def test_a_folder_with_one_class(tmp_path):
    write_images(tmp_path / "images", "cat")
    assert "only one class folder" in refused(place(tmp_path))


def test_an_empty_class(tmp_path):
    write_images(tmp_path / "images", "cat", "dog")
    (tmp_path / "images" / "newt").mkdir()
    (tmp_path / "images" / "newt" / "notes.txt").write_text("none yet")
    message = refused(place(tmp_path))
    assert "newt" in message
    assert "No image" in message


def test_a_class_too_small_to_split(tmp_path):
    write_images(tmp_path / "images", "cat", "dog", count=4)
    message = refused(place(tmp_path))
    assert "'cat' has 4 images" in message
    assert "--val" in message


def test_a_class_in_the_validation_folder_that_training_lacks(tmp_path):
    write_images(tmp_path / "images", "cat", "dog")
    other = write_images(tmp_path / "val", "cat", "newt")
    assert "the class 'newt', which the training images lack" in refused(place(tmp_path, other))


def test_unreadable_images_are_named(tmp_path):
    root = write_images(tmp_path / "images", "cat", "dog")
    (root / "dog" / "3.png").write_bytes(b"no image")
    whole = (root / "cat" / "1.png").read_bytes()
    (root / "cat" / "1.png").write_bytes(whole[:40])
    message = refused(place(tmp_path))
    assert message.startswith("2 of 12 images can't be decoded")
    assert str(root / "cat" / "1.png") in message
    assert str(root / "dog" / "3.png") in message
    assert "--skip-unreadable" in message


def test_a_class_of_which_no_image_can_be_read(tmp_path):
    root = write_images(tmp_path / "images", "cat", "dog")
    for path in (root / "dog").iterdir():
        path.write_bytes(b"no image")
    assert "'dog' has no image" in refused(place(tmp_path), ways=Ways(skip_unreadable=True))


def test_a_name_that_cant_be_a_label(tmp_path):
    write_images(tmp_path / "images", "cat", "dog\n")
    assert "can't be a label" in refused(place(tmp_path))


def begin(tmp_path: Path) -> tuple[session.Place, bytes]:
    """A run that has begun, and its state's bytes."""
    where = place(tmp_path)
    write_images(where.folder, "cat", "dog")
    where.output.mkdir()
    data = folders.scan(where.folder).fingerprint()
    run_files.save(where.output, run_files.State(SETTINGS.to_dict(), ["cat", "dog"], data))
    return where, (where.output / run_files.FILE).read_bytes()


def test_a_run_in_the_way(tmp_path):
    where, before = begin(tmp_path)
    message = refused(where)
    assert "--resume" in message
    assert "--overwrite" in message
    assert (where.output / run_files.FILE).read_bytes() == before


def test_resuming_with_other_settings(tmp_path):
    where, before = begin(tmp_path)
    message = refused(where, replace(SETTINGS, seed=9, learning_rate=0.3), resume=True)
    assert "its learning_rate is 0.1, not 0.3" in message
    assert "its seed is 3, not 9" in message
    assert (where.output / run_files.FILE).read_bytes() == before


def test_resuming_with_other_images(tmp_path):
    where, before = begin(tmp_path)
    (where.folder / "cat" / "0.png").unlink()
    assert "not those" in refused(where, resume=True)
    assert (where.output / run_files.FILE).read_bytes() == before


def test_resuming_what_has_not_begun(tmp_path):
    write_images(tmp_path / "images", "cat", "dog")
    assert "no run to resume" in refused(place(tmp_path), resume=True)
    assert not (tmp_path / "run").exists()


def test_resuming_from_a_file_that_is_no_state(tmp_path):
    where, before = begin(tmp_path)
    for damaged in (before[:1000], b"", b"PK\3\4 and nothing else"):
        (where.output / run_files.FILE).write_bytes(damaged)
        assert "not the state of a run" in refused(where, resume=True)


def test_a_disk_that_is_full_is_said_and_the_last_state_stays(tmp_path, monkeypatch):
    where, before = begin(tmp_path)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match="No space left"):
        run_files.save(where.output, run_files.load(where.output))
    assert (where.output / run_files.FILE).read_bytes() == before


def test_two_runs_in_one_folder(tmp_path):
    where, _ = begin(tmp_path)
    with atomic.locked(where.output / ".lock"):
        assert "Another run" in refused(where, overwrite=True)
    assert (where.output / run_files.FILE).exists()


def test_images_may_move_as_a_whole(tmp_path):
    one = folders.scan(write_images(tmp_path / "one", "cat", "dog"))
    other = folders.scan(write_images(tmp_path / "other", "cat", "dog"))
    assert one.fingerprint() == other.fingerprint()
    third = folders.scan(write_images(tmp_path / "third", "cat", "dog", count=7))
    assert third.fingerprint() != one.fingerprint()


def test_folders_named_by_wordnet_ids_get_imagenets_labels():
    first, second = folders.class_labels(("n01443537", "n02124075"))
    assert (first.index, first.name) == (1, "goldfish")
    assert (second.index, second.id, second.name) == (285, "n02124075", "Egyptian cat")
    mixed = folders.class_labels(("n01443537", "newt"))
    assert [(label.index, label.id, label.name) for label in mixed] == [(0, None, "n01443537"), (1, None, "newt")]
