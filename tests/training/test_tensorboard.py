"""``tensorboard``: the events of a run, also of one that was killed and resumed."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from densenet_cli.errors import OutputError, UsageError
from densenet_cli.training import session
from densenet_cli.training.options import RunOptions
from densenet_cli.training.phases import Phase
from densenet_cli.training.run_files import RunPaths, load_state
from densenet_cli.training.tensorboard import PATTERN, EventWriter
from tests.training.images import SETTINGS, write_digits

PHASES = replace(SETTINGS, sizes=(Phase(8, 2),), batch_size=16)


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return write_digits(tmp_path_factory.mktemp("digits"), per_class=40)


def read_events(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Return tag -> steps and values, in the order of the files."""
    import tensorflow as tf

    events: dict[str, list[tuple[int, float]]] = {}
    for path in sorted(folder.glob("events.out.tfevents.*")):
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            event = tf.compat.v1.Event.FromString(record)
            for value in event.summary.value:
                assert value.metadata.plugin_data.plugin_name == "scalars"
                events.setdefault(value.tag, []).append((event.step, float(tf.make_ndarray(value.tensor))))
    return events


def train(paths: RunPaths, folder: Path, stop_after: int = 0, **options) -> None:
    with session.open_run(paths, PHASES, RunOptions(tensorboard=folder), **options) as run:
        if stop_after:
            stop = run.stop
            run.options = replace(run.options, on_step=lambda info: info.batch == stop_after and stop())
        run.train()


@pytest.fixture(scope="module")
def complete(digits, tmp_path_factory, keras):
    folder = tmp_path_factory.mktemp("complete")
    paths = RunPaths(digits, None, folder / "run", folder / "images")
    train(paths, folder / "events")
    return folder


def test_the_events_are_those_of_the_log(complete):
    events = read_events(complete / "events")
    history = load_state(complete / "run").history
    steps = 320 // 16
    expected = {
        "epoch/loss": "loss", "epoch/accuracy": "accuracy", "validation/loss": "val_loss",
        "validation/accuracy": "val_accuracy", "validation/top5": "val_top5",
    }  # fmt: skip
    for tag, column in expected.items():
        assert events.pop(tag) == [(steps * row["epoch"], pytest.approx(row[column])) for row in history], tag
    assert events.keys() == {"step/loss", "step/accuracy", "step/learning_rate"}
    for tag, values in events.items():
        assert [step for step, _ in values] == [10, 20, 30, 40], tag
    assert events["step/learning_rate"][1][1] == pytest.approx(PHASES.learning_rate_at(1))


def test_a_resumed_run_repeats_no_step(complete, digits, tmp_path, keras):
    """It continues from the first epoch, after a crash in the second one, within a write."""
    paths = RunPaths(digits, None, tmp_path / "run", tmp_path / "images")
    events = tmp_path / "events"
    train(paths, events, stop_after=5)
    shutil.copy(tmp_path / "run" / "state.npz", tmp_path / "state.npz")
    train(paths, events, stop_after=12, resume=True)
    shutil.copy(tmp_path / "state.npz", tmp_path / "run" / "state.npz")
    last = max(events.glob(PATTERN))
    last.write_bytes(last.read_bytes()[:-7])
    before = len(list(events.glob(PATTERN)))
    train(paths, events, resume=True)
    assert len(list(events.glob(PATTERN))) == before + 1
    last.write_bytes(_complete_records(last))
    assert _sorted(read_events(events)) == _sorted(read_events(complete / "events"))


def _complete_records(path: Path) -> bytes:
    """Return the file without an incomplete record at its end, where TensorBoard stops reading as well."""
    data, position = path.read_bytes(), 0
    while position + 12 <= len(data):
        end = position + 16 + int.from_bytes(data[position : position + 8], "little")
        if end > len(data):
            break
        position = end
    return data[:position]


def _sorted(events: dict[str, list[tuple[int, float]]]) -> dict[str, list[tuple[int, float]]]:
    return {tag: sorted(values) for tag, values in events.items()}


def test_events_of_another_run_are_not_mixed(complete, digits, tmp_path, keras):
    events = tmp_path / "events"
    shutil.copytree(complete / "events", events)
    (events / "notes.txt").touch()
    paths = RunPaths(digits, None, tmp_path / "run", tmp_path / "images")
    with pytest.raises(UsageError, match="events"):
        train(paths, events)
    assert not (tmp_path / "run").exists()
    train(paths, events, overwrite=True)
    assert len(list(events.glob(PATTERN))) == 1 and (events / "notes.txt").exists()
    assert read_events(events) == read_events(complete / "events")


def test_a_run_can_start_to_write_later(complete, digits, tmp_path, keras):
    """The epochs before are written, too."""
    paths = RunPaths(digits, None, tmp_path / "run", tmp_path / "images")
    with session.open_run(paths, PHASES, RunOptions()) as run:
        run.train()
    train(paths, tmp_path / "events", resume=True)
    expected = read_events(complete / "events")
    events = read_events(tmp_path / "events")
    assert events == {tag: values for tag, values in expected.items() if not tag.startswith("step")}


def test_folders_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError):
        EventWriter(tmp_path / "file" / "events", resume=False)


def test_a_fitted_head_has_no_steps(digits, tmp_path):
    paths = RunPaths(digits, None, tmp_path / "run", tmp_path / "images")
    settings = replace(PHASES, start="tiny", freeze="all")
    with pytest.raises(UsageError, match="`tensorboard`"):
        session.fit_head(paths, settings, RunOptions(tensorboard=tmp_path / "events"))
