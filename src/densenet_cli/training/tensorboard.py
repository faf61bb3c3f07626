"""Metrics of a run as event files for TensorBoard, written with TensorFlow.

A resumed run continues in a new file. It repeats the steps since the last saved state with the same results, so those
that are already in the folder are not written again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from densenet_cli.errors import OutputError, UsageError
from densenet_cli.text import to_unicode

FILE_SUFFIX = ".densenet"
PATTERN = f"events.out.tfevents.*{FILE_SUFFIX}"

STEP_INTERVAL = 10
"""Only every so many steps are written."""

EPOCH_COLUMNS = {
    "loss": "epoch/loss",
    "accuracy": "epoch/accuracy",
    "val_loss": "validation/loss",
    "val_accuracy": "validation/accuracy",
    "val_top5": "validation/top5",
    "val_map": "validation/map",
    "val_roc_auc": "validation/roc_auc",
}
"""Columns of the log, and their tags."""


def check_folder(folder: Path, *, resume: bool, overwrite: bool) -> None:
    """Raise ``UsageError`` if ``folder`` has the events of another run that must not be continued or replaced."""
    if not resume and not overwrite and any(folder.glob(PATTERN)):
        raise UsageError(
            f"{to_unicode(str(folder))} contains the events of a run. Choose another folder, or use `overwrite`."
        )


class EventWriter:
    """Writes the metrics of a run. The steps are those of the optimizer since the start of the run.

    Args:
        folder: The folder of the event files.
        resume: Continue behind the events in the folder. Otherwise, they are deleted.

    Raises:
        OutputError: A file cannot be written.
    """

    def __init__(self, folder: Path, *, resume: bool) -> None:
        import tensorflow as tf

        self._tf = tf
        self._folder = folder
        if not resume:
            for path in folder.glob(PATTERN):
                path.unlink()
        self._last_steps = _read_last_steps(folder)
        self._metadata = tf.compat.v1.SummaryMetadata(
            plugin_data=tf.compat.v1.SummaryMetadata.PluginData(plugin_name="scalars"), data_class=1
        )
        self._writer = self._call(tf.summary.create_file_writer, str(folder), filename_suffix=FILE_SUFFIX)

    def write_step(self, step: int, loss: float, accuracy: float, learning_rate: float) -> None:
        """Write the metrics of a step, unless it is between two intervals."""
        if step % STEP_INTERVAL == 0:
            self._write(step, {"step/loss": loss, "step/accuracy": accuracy, "step/learning_rate": learning_rate})

    def write_epoch(self, step: int, row: Mapping[str, float]) -> None:
        """Write a row of the log, whose epoch ended with ``step``."""
        self._write(step, {tag: row[name] for name, tag in EPOCH_COLUMNS.items() if name in row})

    def _write(self, step: int, scalars: dict[str, float]) -> None:
        tf = self._tf
        with self._writer.as_default():
            for tag, value in scalars.items():
                if step > self._last_steps.get(tag, -1) and not math.isnan(value):
                    self._call(tf.summary.write, tag, tf.constant(value, tf.float32), step, metadata=self._metadata)

    def flush(self) -> None:
        """Write to the disk what is buffered. Call this before saving the state, so that no step is left out."""
        self._call(self._writer.flush)

    def _call(self, function: Any, *args: Any, **options: Any) -> Any:
        try:
            return function(*args, **options)
        except self._tf.errors.OpError as error:
            raise OutputError(f"Events cannot be written to {to_unicode(str(self._folder))}: {error.message}") from None


def _read_last_steps(folder: Path) -> dict[str, int]:
    """Return tag -> last step of the events in a folder. The end of a file can be missing after a crash."""
    import tensorflow as tf

    steps: dict[str, int] = {}
    for path in sorted(folder.glob(PATTERN)):
        try:
            for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
                event = tf.compat.v1.Event.FromString(record)
                for value in event.summary.value:
                    steps[value.tag] = max(event.step, steps.get(value.tag, -1))
        except tf.errors.DataLossError:
            continue
    return steps
