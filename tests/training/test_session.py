"""Invalid input is rejected before the first step, and existing runs are kept."""

from __future__ import annotations

import gc
import os
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from densenet_cli.datasets import DatasetOptions
from densenet_cli.errors import ImageError, OutputError, UsageError
from densenet_cli.output import atomic
from densenet_cli.training import run_files, session
from densenet_cli.training.image_list import list_images
from densenet_cli.training.options import RunOptions
from densenet_cli.training.phases import parse_sizes
from densenet_cli.training.run_files import RunPaths
from densenet_cli.training.settings import Settings
from tests.training.images import SETTINGS


def write_images(folder: Path, *classes: str, count: int = 6) -> Path:
    for shade, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            Image.new("RGB", (8, 8), (40 * shade, number, 0)).save(folder / name / f"{number}.png")
    return folder


def run_paths(tmp_path: Path, val: Path | None = None) -> RunPaths:
    return RunPaths(tmp_path / "images", val, tmp_path / "run", tmp_path / "cache")


def error_of(paths: RunPaths, settings=SETTINGS, options=None, kind=UsageError, **arguments) -> str:
    """Return the message of the error that opening the run raises."""
    with pytest.raises(kind) as raised, session.open_run(paths, settings, options or RunOptions(), **arguments):
        pass
    assert not (paths.output / "model.safetensors").exists()
    return str(raised.value)


def messages_of(paths: RunPaths, settings=SETTINGS) -> list[str]:
    """Return what opening the run says about its images."""
    messages: list[str] = []
    with session.open_run(paths, settings, RunOptions(on_message=messages.append), overwrite=True):
        pass
    assert sum(text.startswith("Network: ") for text in messages) == 1
    return [text for text in messages if not text.startswith("Network: ")]


def test_a_folder_without_classes(tmp_path):
    (tmp_path / "images").mkdir()
    assert "no class folders" in error_of(run_paths(tmp_path))


def test_a_folder_with_one_class(tmp_path):
    write_images(tmp_path / "images", "cat")
    assert "only one class: 'cat'" in error_of(run_paths(tmp_path))


def test_an_empty_class(keras, tmp_path):
    write_images(tmp_path / "images", "cat", "dog")
    (tmp_path / "images" / "newt").mkdir()
    (tmp_path / "images" / "newt" / "notes.txt").write_text("none yet")
    messages = messages_of(run_paths(tmp_path))
    assert "12 images in 2 classes (cat 6, dog 6)" in messages[0]
    assert "1 class folder without images: newt" in messages[1]


def test_a_class_too_small_to_split(keras, tmp_path):
    write_images(tmp_path / "images", "cat", "dog", count=5)
    (tmp_path / "images" / "dog" / "4.png").unlink()
    *_, held_out, warning = messages_of(run_paths(tmp_path))
    assert "1 image," in held_out
    assert warning.startswith("Warning: 1 class") and "dog" in warning


@pytest.mark.parametrize(("count", "validation"), [(4, 10), (6, 0), (1, 10)])
def test_no_images_for_validation(keras, tmp_path, count, validation):
    write_images(tmp_path / "images", "cat", "dog", count=count)
    settings = replace(SETTINGS, validation=validation)
    *_, warning = messages_of(run_paths(tmp_path), settings)
    assert warning.startswith("Warning: No images") and "last epoch" in warning
    assert "`patience`" in error_of(run_paths(tmp_path), replace(settings, patience=2))


def test_split_folders(keras, tmp_path):
    for split, count in (("train", 3), ("val", 2), ("test", 1)):
        write_images(tmp_path / "images" / split, "cat", "cup", count=count)
    understood, training, validation = messages_of(run_paths(tmp_path))
    assert all(f"images/{split}" in understood for split in ("train", "val", "test"))
    assert "6 images in 2 classes (cat 3, cup 3)" in training
    assert "4 images in 2 classes (cat 2, cup 2)" in validation
    other = write_images(tmp_path / "other", "CAT")
    understood, _, validation, *_ = messages_of(run_paths(tmp_path, other))
    assert "Not used: " in understood and "images/val and " in understood
    assert "6 images in 1 class (cat 6)" in validation
    understood = messages_of(run_paths(tmp_path, tmp_path / "other" / ".." / "images" / "val"))[0]
    assert understood.endswith("images/test.") and "Not used" in understood and "images/val" not in understood


def test_validation_images_that_are_training_images(keras, tmp_path):
    write_images(tmp_path / "images", "cat", "dog", count=2)
    table = tmp_path / "val.csv"
    table.write_text("path,label\nimages/../images/cat/0.png,cat\nother/1.png,dog\n")
    write_images(tmp_path, "other")
    warning = messages_of(run_paths(tmp_path, table))[2]
    assert warning.startswith("Warning: 1 validation image is")


def test_imbalanced_classes(keras, tmp_path):
    write_images(tmp_path / "images", "cat", count=60)
    write_images(tmp_path / "images", "dog", "newt", count=6)
    settings = replace(SETTINGS, validation=1)
    (warning,) = [text for text in messages_of(run_paths(tmp_path), settings) if "`class_weights`" in text]
    assert warning.startswith("Warning") and "'cat'" in warning and " 10 " in warning
    assert "`class_weights`" not in str(messages_of(run_paths(tmp_path), replace(settings, class_weights=True)))
    (tmp_path / "images" / "cat" / "0.png").unlink()
    assert "`class_weights`" not in str(messages_of(run_paths(tmp_path), settings))


def test_split_folders_without_training_images(tmp_path):
    for split in ("val", "test"):
        write_images(tmp_path / "images" / split, "cat", "cup")
    assert "val and test" in error_of(run_paths(tmp_path))


def test_tables(keras, tmp_path):
    write_images(tmp_path / "images", "cat", "dog")
    lines = [f"images\\{name}\\{n}.png;{name}\n" for name in ("cat", "dog") for n in range(6)]
    (tmp_path / "train.csv").write_text("Bild;class\n" + "".join(lines[1:]))
    (tmp_path / "val.csv").write_text("Bild;class\n" + lines[0].replace(";cat", ";CAT"))
    options = DatasetOptions(path_column="bild")
    paths = replace(run_paths(tmp_path, tmp_path / "val.csv"), train=None, csv=tmp_path / "train.csv", dataset=options)
    training, validation, warning = messages_of(paths)
    assert "11 images in 2 classes (cat 5, dog 6)" in training
    assert "1 image in 1 class (cat 1)" in validation
    assert "dog" in warning


def test_a_validation_class_without_training_images(tmp_path):
    write_images(tmp_path / "images", "cat", "dog")
    val = write_images(tmp_path / "val", "cat", "newt")
    assert "'newt'" in error_of(run_paths(tmp_path, val))


def test_unreadable_images_are_listed(tmp_path):
    root = write_images(tmp_path / "images", "cat", "dog")
    (root / "dog" / "3.png").write_bytes(b"no image")
    content = (root / "cat" / "1.png").read_bytes()
    (root / "cat" / "1.png").write_bytes(content[:40])
    message = error_of(run_paths(tmp_path), kind=ImageError)
    assert message.startswith("2 of 12 images")
    assert str(root / "cat" / "1.png") in message
    assert str(root / "dog" / "3.png") in message
    assert "`skip_unreadable`" in message


def test_a_class_without_readable_images(tmp_path):
    root = write_images(tmp_path / "images", "cat", "dog")
    for path in (root / "dog").iterdir():
        path.write_bytes(b"no image")
    assert "'dog'" in error_of(run_paths(tmp_path), options=RunOptions(skip_unreadable=True), kind=ImageError)


def test_a_folder_name_that_is_not_a_valid_label(tmp_path):
    write_images(tmp_path / "images", "cat", "dog\n")
    assert r"dog\n" in error_of(run_paths(tmp_path))


def start_run(tmp_path: Path) -> tuple[RunPaths, bytes]:
    """Write the first state of a run. Return its paths and the bytes of the state."""
    paths = run_paths(tmp_path)
    write_images(paths.train, "cat", "dog")
    paths.output.mkdir()
    fingerprint = list_images(str(paths.train)).fingerprint()
    run_files.save_state(paths.output, run_files.RunState(SETTINGS.to_dict(), ["cat", "dog"], fingerprint))
    return paths, (paths.output / run_files.STATE_FILE).read_bytes()


def test_a_run_is_not_overwritten(tmp_path):
    paths, before = start_run(tmp_path)
    message = error_of(paths)
    assert "`resume`" in message
    assert "`overwrite`" in message
    assert (paths.output / run_files.STATE_FILE).read_bytes() == before


def test_a_model_without_a_state_is_not_overwritten(tmp_path):
    """There is nothing to resume: the model is that of ``freeze`` all, or the run was killed before its first state."""
    paths, _ = start_run(tmp_path)
    (paths.output / run_files.STATE_FILE).unlink()
    (paths.output / run_files.MODEL_FILE).write_bytes(b"a model")
    with pytest.raises(UsageError, match="`overwrite`") as raised, session.open_run(paths, SETTINGS, RunOptions()):
        pass
    assert "`resume`" not in str(raised.value)
    assert (paths.output / run_files.MODEL_FILE).read_bytes() == b"a model"


def test_resuming_with_other_settings(tmp_path):
    paths, before = start_run(tmp_path)
    message = error_of(paths, replace(SETTINGS, seed=9, learning_rate=0.3), resume=True)
    assert "`learning_rate` is 0.1, not 0.3" in message
    assert "`seed` is 3, not 9" in message
    assert (paths.output / run_files.STATE_FILE).read_bytes() == before


@pytest.mark.parametrize(
    ("sizes", "patience", "named"),
    [
        ("12x2", 0, "`epochs`"),  # the run is in its third epoch
        ("12x2,12x1", 0, "`sizes`"),  # which has 16 pixels
        ("16x3", 0, "`sizes`"),
        ("12x2,16x5", 1, "`patience`"),  # the best epoch is the first
    ],
)
def test_resuming_with_past_epochs_that_differ(tmp_path, sizes, patience, named):
    paths, _ = start_run(tmp_path)
    state = run_files.load_state(paths.output)
    state.epoch, state.batch, state.best_epoch = 2, 1, 1
    run_files.save_state(paths.output, state)
    message = error_of(paths, replace(SETTINGS, sizes=parse_sizes(sizes), patience=patience), resume=True)
    assert named in message


def test_resuming_with_other_images(tmp_path):
    paths, before = start_run(tmp_path)
    (paths.train / "cat" / "0.png").unlink()
    assert "images differ" in error_of(paths, resume=True)
    assert (paths.output / run_files.STATE_FILE).read_bytes() == before


def test_resuming_without_a_run(tmp_path):
    write_images(tmp_path / "images", "cat", "dog")
    assert "no run to resume" in error_of(run_paths(tmp_path), resume=True)
    assert not (tmp_path / "run").exists()


def test_resuming_from_a_damaged_state(tmp_path):
    paths, before = start_run(tmp_path)
    for damaged in (before[:1000], b"", b"PK\3\4 and nothing else"):
        (paths.output / run_files.STATE_FILE).write_bytes(damaged)
        assert "damaged" in error_of(paths, resume=True)
        gc.collect()  # A file that was left open is a ResourceWarning here, which fails the test.


@pytest.mark.parametrize("skipped", [{}, {"cat/0.png": "no image"}])
@pytest.mark.parametrize("preprocess", ["squash", "keras"])
def test_a_state_of_the_first_version(tmp_path, monkeypatch, preprocess, skipped):
    """It is continued, unless its validation images would be others."""
    paths, _ = start_run(tmp_path)
    written: dict[str, object] = {}
    monkeypatch.setattr(run_files, "asdict", lambda state: written | {"skipped": dict(state.skipped)})
    state = run_files.load_state(paths.output)
    written |= {**vars(state), "best_accuracy": 0.5}
    written["settings"] = {**state.settings, "preprocess": preprocess, "unfreeze_after": 3}
    for name in ("version", "best_score", "arrays"):
        del written[name]
    state.skipped = skipped
    run_files.save_state(paths.output, state)
    if skipped or preprocess == "keras":
        assert "earlier version" in error_of(paths, replace(SETTINGS, preprocess=preprocess), resume=True)
    else:
        state = run_files.load_state(paths.output)
        assert (state.best_score, state.version) == (0.5, run_files.STATE_VERSION)
        assert Settings.from_dict(state.settings) == SETTINGS


def test_a_state_of_a_later_version(tmp_path):
    paths, _ = start_run(tmp_path)
    state = run_files.load_state(paths.output)
    run_files.save_state(paths.output, replace(state, version=run_files.STATE_VERSION + 1))
    assert "another version" in error_of(paths, resume=True)


def test_a_full_disk_keeps_the_last_state(tmp_path, monkeypatch):
    paths, before = start_run(tmp_path)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match="No space left"):
        run_files.save_state(paths.output, run_files.load_state(paths.output))
    assert (paths.output / run_files.STATE_FILE).read_bytes() == before


def test_an_error_of_another_file_names_it(keras, tmp_path):
    write_images(tmp_path / "images", "cat", "dog")
    with (
        pytest.raises(OutputError, match="pixels: Permission denied"),
        session.open_run(run_paths(tmp_path), SETTINGS, RunOptions()),
    ):
        raise PermissionError(13, "Permission denied", "cache/1.pixels")


def test_an_output_folder_among_the_class_folders(keras, tmp_path):
    paths = run_paths(tmp_path)
    write_images(paths.train, "cat", "dog")
    inside = replace(paths, output=paths.train / "run")
    assert "outside" in error_of(inside)
    assert not inside.output.exists()
    with session.open_run(replace(paths, output=paths.train / ".run"), SETTINGS, RunOptions()):
        pass


def test_patience_without_validation_images_creates_nothing(tmp_path):
    write_images(tmp_path / "images", "cat", "dog", count=4)
    paths = run_paths(tmp_path)
    assert "`patience`" in error_of(paths, replace(SETTINGS, patience=1))
    assert not paths.output.exists()


def test_an_unreadable_validation_image_keeps_the_epoch(keras, tmp_path):
    write_images(tmp_path / "images", "cat", "dog")
    val = write_images(tmp_path / "val", "cat", "dog")
    (val / "dog" / "3.png").write_bytes(b"no image")
    paths, steps = run_paths(tmp_path, val), []
    options = RunOptions(cache_limit=0, on_step=steps.append)
    with (
        pytest.raises(ImageError, match=r"3\.png: .* `skip_unreadable`"),
        session.open_run(paths, SETTINGS, options) as run,
    ):
        run.train()
    saved = run_files.load_state(paths.output)
    assert (saved.epoch, saved.batch) == (0, len(steps))
    with session.open_run(paths, SETTINGS, replace(options, skip_unreadable=True), resume=True) as run:
        run.train()
    assert run.is_finished
    assert len(steps) == saved.batch * SETTINGS.epochs
    assert list(run.state.skipped) == ["val/dog/3.png"]


def test_two_runs_in_one_folder(tmp_path):
    paths, _ = start_run(tmp_path)
    with atomic.locked(paths.output / ".lock"):
        assert "Another run" in error_of(paths, overwrite=True)
    assert (paths.output / run_files.STATE_FILE).exists()
