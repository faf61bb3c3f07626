"""The files of a run: its state, log, model, and learning curves.

Each file is replaced atomically, so it is complete even if the process is killed.
"""

from __future__ import annotations

import io
import json
import math
import zipfile
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from densenet_cli.calibration.record import today
from densenet_cli.datasets import DatasetOptions
from densenet_cli.errors import UsageError
from densenet_cli.labels import Labels
from densenet_cli.output.atomic import write_file
from densenet_cli.text import csv_line
from densenet_cli.training.settings import Settings
from densenet_cli.weights import safetensors
from densenet_cli.weights.contents import ModelMetadata

if TYPE_CHECKING:
    from densenet_cli._types import FloatArray, IntArray
    from densenet_cli.calibration.record import Calibration
    from densenet_cli.training.multi_label import MultiLabelMetrics
    from densenet_cli.weights.contents import Arrays

STATE_FILE = "state.npz"
LOG_FILE = "log.csv"
MODEL_FILE = "model.safetensors"
CURVES_FILE = "curves.png"
RATE_TEST_FILE = "lr_find.png"
SKIPPED_FILE = "skipped.csv"
SETTINGS_FILE = "settings.toml"
RESULT_FILES = (STATE_FILE, MODEL_FILE, LOG_FILE, CURVES_FILE, SKIPPED_FILE)

STATE_VERSION = 2
"""Increment it if a state must not be continued as before. Version 1 split images after removing unreadable ones, and
decoded validation images at another scale than ``predict``."""

METADATA_ENTRY = "metadata"
"""Entry of the state file that contains everything except arrays, as JSON."""

LOG_COLUMNS = (
    *("epoch", "size", "learning_rate", "loss", "accuracy", "val_loss", "val_accuracy", "val_top5", "seconds"),
    "skipped",
    *("val_map", "val_roc_auc"),
)
"""``epoch`` counts from 1. ``seconds`` is the training time since the start of the run, without interruptions.
``skipped`` is the number of images so far that could not be decoded. ``val_map`` and ``val_roc_auc`` are those of
multi-label models, which have no ``val_top5``."""

MAX_SKIPPED_NAMES = 1000
"""Names of skipped images in a model, whose header is limited in size. ``SKIPPED_FILE`` lists all."""


@dataclass(frozen=True)
class RunPaths:
    """The folders and tables of a run.

    Attributes:
        train: Class folders with the training images, or with ``csv`` the folder that its relative paths start from,
            which can be None.
        val: Class folders with the validation images, or a table of them; None to hold out some of the training images.
        output: Folder of the run's files.
        cache: Folder of the decoded images.
        csv: Table of the training images, instead of class folders.
        dataset: How to read the folders and tables.
    """

    train: Path | None
    val: Path | None
    output: Path
    cache: Path
    csv: Path | None = None
    dataset: DatasetOptions = DatasetOptions()  # noqa: RUF009 -- immutable


@dataclass
class RunState:
    """The state of a run between two steps.

    Attributes:
        settings: The settings of the run, as ``Settings.to_dict()`` returns them.
        classes: Names of the class folders.
        fingerprint: Fingerprint of the datasets.
        epoch, batch: The next batch to train on, both counted from 0.
        loss, correct, images: Sums over the images of the epoch so far.
        seconds: Training time so far.
        best_score: Highest validation accuracy so far, or mean average precision; -1 if there is none.
        best_epoch: Epoch of the model, counted from 1: that of the best score, or the last one.
        calibration_images: Number of images that the model is calibrated on, 0 if it is not.
        calibration_note: Why a model could not be calibrated, which is reported once.
        date: When the run started (UTC), as YYYY-MM-DD.
        stopped_early: Whether training ended for lack of improvement.
        average_updates: Number of updates of the averaged weights.
        skipped: Images that could not be decoded and were skipped: name -> error message.
        history: A row of the log for each finished epoch.
        version: ``STATE_VERSION``.
        arrays: Weights, optimizer variables, and averaged weights by name.
    """

    settings: dict[str, Any]
    classes: list[str]
    fingerprint: str
    epoch: int = 0
    batch: int = 0
    loss: float = 0.0
    correct: float = 0.0
    images: int = 0
    seconds: float = 0.0
    best_score: float = -1.0
    best_epoch: int = 0
    calibration_images: int = 0
    calibration_note: str = ""
    date: str = field(default_factory=today)
    stopped_early: bool = False
    average_updates: int = 0
    skipped: dict[str, str] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)
    version: int = STATE_VERSION
    arrays: dict[str, np.ndarray[Any, np.dtype[Any]]] = field(default_factory=dict)


@dataclass(frozen=True)
class ValidationMetrics:
    """Metrics on the validation images.

    Attributes:
        images: Number of images. If it is 0, the metrics are NaN.
        loss: Mean negative log-likelihood in nats, without label smoothing.
        top1, top5: Top-1 and top-5 accuracy in [0, 1].
    """

    images: int
    loss: float
    top1: float
    top5: float

    @property
    def score(self) -> float:
        """What the best model has most of."""
        return self.top1

    def log_values(self) -> dict[str, float]:
        """Return the columns of the log."""
        return {"val_loss": self.loss, "val_accuracy": self.top1, "val_top5": self.top5}

    @classmethod
    def of_logits(cls, logits: FloatArray, targets: IntArray) -> ValidationMetrics:
        """Compute the metrics from logits (n, classes) and targets (n,)."""
        count = len(targets)
        if not count:
            return cls(0, math.nan, math.nan, math.nan)
        logits = np.asarray(logits, np.float64)
        logits -= logits.max(axis=1, keepdims=True)
        target_logits = logits[np.arange(count), targets]
        losses = np.log(np.exp(logits).sum(axis=1)) - target_logits
        ranks = (~(logits <= target_logits[:, None])).sum(axis=1)  # NaN never counts as correct
        top1, top5 = (int((ranks < k).sum()) / count for k in (1, 5))
        return cls(count, sum(losses.tolist()) / count, top1, top5)


def save_state(folder: Path, state: RunState) -> None:
    """Replace the state in ``folder``, and the list of skipped images. Raises ``OutputError``."""
    skipped = dict(state.skipped)  # threads add to it
    metadata = json.dumps(asdict(replace(state, arrays={}, skipped=skipped))).encode()
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **state.arrays, **{METADATA_ENTRY: np.frombuffer(metadata, np.uint8)})
    write_file(folder / STATE_FILE, buffer.getvalue())
    write_skipped(folder, skipped)


def write_skipped(folder: Path, skipped: Mapping[str, str]) -> None:
    """Write the list of skipped images, name -> error message, unless it is empty. Raises ``OutputError``."""
    if skipped:
        lines = [csv_line(("image", "error")), *map(csv_line, sorted(skipped.items()))]
        write_file(folder / SKIPPED_FILE, "".join(lines).encode())


def load_state(folder: Path) -> RunState:
    """Load the state in ``folder``.

    Raises:
        UsageError: There is no state, it is damaged, or another version of the program wrote it and would continue the
            run differently.
    """
    path = folder / STATE_FILE
    try:
        # numpy does not close a file that it opened itself and cannot read.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        state = RunState(**_upgrade(json.loads(arrays.pop(METADATA_ENTRY).tobytes())))
    except FileNotFoundError:
        raise UsageError(f"There is no run to resume in {folder}.") from None
    except (OSError, EOFError, ValueError, TypeError, KeyError, zipfile.BadZipFile) as error:
        raise UsageError(f"{path} is damaged or was written by another version ({error}).") from None
    if state.version == 1:
        settings = Settings.from_dict(state.settings)
        if state.skipped or "nearest" in (settings.interpolation, settings.preprocessing.interpolation):
            raise UsageError(
                f"The run in {folder} was started by an earlier version, which split or decoded its images in another "
                "way. Use `overwrite` to start again."
            )
        state.version = STATE_VERSION
    state.arrays = arrays
    return state


def _upgrade(metadata: dict[str, Any]) -> dict[str, Any]:
    """Return the metadata of a state with the fields of the current version, unless it is an unknown one."""
    if metadata.setdefault("version", 1) == 1:
        metadata["best_score"] = metadata.pop("best_accuracy")
        if not metadata["settings"].get("freeze"):
            metadata["settings"]["unfreeze_after"] = 0  # It had no effect. Now it is an error.
    elif metadata["version"] != STATE_VERSION:
        raise ValueError(f"version {metadata['version']}")
    return metadata


def write_log(folder: Path, history: list[dict[str, float]]) -> None:
    """Write one CSV row with ``LOG_COLUMNS`` for each epoch in ``history``. Raises ``OutputError``."""
    rows = (
        tuple(_format(row.get(name, 0 if name == "skipped" else math.nan)) for name in LOG_COLUMNS) for row in history
    )
    write_file(folder / LOG_FILE, "".join(map(csv_line, (LOG_COLUMNS, *rows))).encode())


def _format(value: float) -> str:
    if math.isnan(value):
        return ""
    return str(value) if isinstance(value, int) else f"{value:.6g}"


def write_model(
    folder: Path,
    arrays: Arrays,
    labels: Labels,
    settings: Settings,
    metrics: ValidationMetrics | MultiLabelMetrics,
    epoch: int,
    skipped: Collection[str] = (),
    calibration: Calibration | None = None,
) -> None:
    """Write the model as it is after ``epoch`` epochs, without the images named ``skipped``. Raises ``OutputError``."""
    names = sorted(skipped)[:MAX_SKIPPED_NAMES]
    values = {name: value for name, value in asdict(metrics).items() if not math.isnan(value)}
    metadata = ModelMetadata(
        labels,
        settings.preprocess,
        settings.input_size,
        training={**settings.to_dict(), "trained_epochs": epoch, "skipped": len(skipped), "skipped_images": names},
        accuracy={"validation": values} if metrics.images else {},
        mean=settings.mean,
        std=settings.std,
        interpolation=settings.preprocessing.interpolation,
        crop_ratio=settings.preprocessing.crop_ratio,
        calibration=calibration.to_dict() if calibration else None,
    )
    safetensors.write(folder / MODEL_FILE, arrays, settings.config(len(labels)), metadata)


def draw_curves(path: Path, history: list[dict[str, float]]) -> None:
    """Plot loss and accuracy over the epochs of ``history`` as a PNG file. Raises ``OutputError``."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    epochs = [row["epoch"] for row in history]
    size_changes = [row["epoch"] - 0.5 for last, row in pairwise(history) if row["size"] != last["size"]]
    figure = Figure(figsize=(9, 4), layout="constrained")
    loss_axes, accuracy_axes = figure.subplots(1, 2)
    for axes, title, curves in (
        (loss_axes, "Loss", {"training": "loss", "validation": "val_loss"}),
        (
            accuracy_axes,
            "Accuracy",
            {
                "training": "accuracy",
                "validation": "val_accuracy",
                "validation top-5": "val_top5",
                "validation mAP": "val_map",
            },
        ),
    ):
        for label, column in curves.items():
            if history and all(math.isnan(row.get(column, math.nan)) for row in history):
                continue  # there are no validation images
            axes.plot(epochs, [row.get(column, math.nan) for row in history], marker=".", label=label)
        for number, position in enumerate(size_changes):
            axes.axvline(position, color="0.8", zorder=0, label="" if number else "image size changes")
        axes.set(title=title, xlabel="epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.legend()
    accuracy_axes.set_ylim(0, 1)
    accuracy_axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_figure(buffer, format="png")
    write_file(path, buffer.getvalue())
