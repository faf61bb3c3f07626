"""``densenet train``: train or fine-tune a model."""

from __future__ import annotations

import math
import shlex
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from densenet_cli.cli.command import GLOBAL_GROUP, FloatRange, command, input_option, option, output_option
from densenet_cli.cli.console import echo_error, echo_info, printable
from densenet_cli.cli.options import dataset_options, suffix_option, table_options
from densenet_cli.cli.path_types import FilePath, OutputPath, check_not_input
from densenet_cli.cli.train_settings import settings_options
from densenet_cli.errors import UsageError
from densenet_cli.paths import is_remote
from densenet_cli.text import format_duration, plural
from densenet_cli.training.options import RunOptions

if TYPE_CHECKING:
    from densenet_cli.cli.progress import ProgressBar
    from densenet_cli.training.lr_finder import RateTest
    from densenet_cli.training.options import StepInfo
    from densenet_cli.training.run_files import RunPaths

FOLDER = FilePath(exists=True, file_okay=False, path_type=Path)


@command(
    exit_statuses={
        0: "training is finished",
        1: "an image could not be decoded (see --skip-unreadable), or an unexpected error",
        3: "initial weights are unavailable or invalid",
        130: "interrupted; the state is saved for --resume",
    }
)
@click.argument("folder", required=False, metavar="[FOLDER]", type=FOLDER)
@option(
    "--config",
    type=FilePath(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Read settings from a recipe (TOML). Options take precedence: --no-NAME turns off a flag.",
)
@table_options
@suffix_option
@input_option("--skip-unreadable", is_flag=True, help="Skip images that cannot be decoded.")
@output_option(
    "-o",
    "--output",
    type=OutputPath(file_okay=False, path_type=Path),
    required=True,
    metavar="FOLDER",
    help="Folder for the files of the run.",
)
@output_option("--resume", is_flag=True, help="Continue the run in the output folder.")
@output_option("--overwrite", is_flag=True, help="Replace the run in the output folder.")
@output_option(
    "--save-every",
    type=FloatRange(min=0),
    default=RunOptions.save_every,
    metavar="SECONDS",
    help=f"Save the state at this interval and after every epoch.  [default: {RunOptions.save_every:g}]",
)
@output_option(
    "--tensorboard",
    type=OutputPath(file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="Write TensorBoard logs to this folder. Use one folder per run.",
)
@settings_options
@option(
    "--lr-find",
    is_flag=True,
    group="Schedule",
    help="Suggest a --learning-rate instead of training: plot the loss at rising rates.",
)
@option(
    "--val",
    type=FilePath(exists=True, path_type=Path),
    metavar="FOLDER|FILE",
    group="Validation",
    help="Validate on these class folders or this table instead of held-out images.",
)
@option(
    "--threads",
    type=click.IntRange(min=1),
    show_default="number of cores",
    metavar="N",
    group="Performance",
    help="Number of threads that prepare images.",
)
@option(
    "--cache",
    type=OutputPath(file_okay=False, path_type=Path),
    metavar="FOLDER",
    group="Performance",
    help="Folder for decoded images.  [default: in the user's cache]",
)
@option(
    "--cache-limit",
    type=click.IntRange(min=0),
    default=RunOptions.cache_limit,
    show_default=True,
    metavar="MB",
    group="Performance",
    help="Maximum size of the decoded images. A larger dataset is decoded again in every epoch.",
)
@option("--offline", is_flag=True, group=GLOBAL_GROUP, help="Never access the network.")
def train(
    folder: Path | None,
    csv: str | None,
    path_column: str | None,
    label_column: str | None,
    suffix: tuple[str, ...],
    output: Path,
    val: Path | None,
    resume: bool,
    overwrite: bool,
    config: Path | None,
    threads: int | None,
    lr_find: bool,
    tensorboard: Path | None,
    save_every: float,
    cache: Path | None,
    cache_limit: int,
    skip_unreadable: bool,
    offline: bool,
    **options: Any,
) -> int:
    """Train a model on images in class folders or a table, or fine-tune one with --from.

    FOLDER contains one folder of images per class, or the folders train and val with such class folders. The first two
    examples are enough for most uses. Other commands use the result with --weights run/model.safetensors.

    \b
    Examples:
      densenet train photos/ -o run --freeze all
      densenet train photos/ -o run --from 121 --freeze conv4 --epochs 10
      densenet train photos/ -o run --resume
      densenet train --csv findings.csv -o run --from 121 --multi-label
      densenet train cifar/train -o run --variant bc-100-12 --augmentation pad
    """
    if folder is None and csv is None:
        raise click.UsageError("No images given. Pass a folder that contains class folders, or use --csv.")
    if csv and is_remote(csv):
        raise UsageError("Training needs local files, but `csv` is the URL of object storage. Download them first.")
    has_table = csv is not None or (val is not None and not val.is_dir())
    has_folders = csv is None or (val is not None and val.is_dir())
    dataset = dataset_options(suffix, path_column, label_column, has_table, has_folders, offline=True)
    from densenet_cli import paths
    from densenet_cli.cli.progress import ProgressBar
    from densenet_cli.engines import available_cores
    from densenet_cli.training import recipes, run_files, session

    if lr_find:
        _check_lr_find(
            resume=resume,
            overwrite=overwrite,
            tensorboard=tensorboard is not None,
            learning_rate=options["learning_rate"] is not None,
        )
    given = {name: value for name, value in options.items() if value is not None}
    recipe = recipes.read(config) if config else {}
    if resume:
        settings = recipes.resolve_resumed(run_files.load_state(output).settings, recipe, given)
    else:
        settings = recipes.resolve(recipe, given, offline)
    run_paths = run_files.RunPaths(
        folder, val, output, cache or paths.images_dir(), Path(csv) if csv else None, dataset
    )
    if not lr_find:
        inputs = {"csv": csv, "val": val, "start": None if resume else settings.start}
        for name in run_files.RESULT_FILES:
            check_not_input("output", str(output / name), inputs)
    with ProgressBar("steps") as progress:
        run_options = RunOptions(
            threads=threads or available_cores(),
            cache_limit=cache_limit,
            save_every=save_every,
            skip_unreadable=skip_unreadable,
            tensorboard=tensorboard,
            on_message=echo_info,
            on_decoded=partial(progress.update, "Decoding"),
            on_features=partial(progress.update, "Computing features"),
            on_rate=partial(progress.update, "Testing learning rates"),
            on_step=partial(show_step, progress),
            on_epoch=_echo_epoch,
        )
        if lr_find:
            test = session.find_learning_rate(run_paths, settings, run_options, offline=offline)
        elif settings.is_head_only and not settings.then_unfreeze and not resume:
            run = None
            head, skipped = session.fit_head(run_paths, settings, run_options, overwrite=overwrite, offline=offline)
        else:
            with session.open_run(
                run_paths, settings, run_options, resume=resume, overwrite=overwrite, offline=offline
            ) as run:
                if run.is_finished:
                    longer = "--patience" if run.state.stopped_early else "--epochs"
                    echo_info(f"The run is finished. To train for longer, use a larger {longer}.")
                with _stop_on_signals(run.stop):
                    run.train()
                run_files.draw_curves(output / run_files.CURVES_FILE, run.state.history)
    if lr_find:
        _echo_suggestion(output / run_files.RATE_TEST_FILE, test)
        return 0
    score_name = "mean average precision" if settings.multi_label else "accuracy"
    if run is None:
        _echo_result(output, head.metrics.score, "", skipped, head.calibrated.images, score_name)
        return 0
    if not run.is_finished:
        arguments = [*_image_arguments(run_paths), "-o", str(output), "--resume"]
        arguments += ["--skip-unreadable"] * skip_unreadable
        arguments += ["--tensorboard", str(tensorboard)] if tensorboard else []
        arguments += ["--cache", str(cache)] if cache else []
        arguments += ["--cache-limit", str(cache_limit)] if cache_limit != RunOptions.cache_limit else []
        continued = shlex.join(["densenet", "train", *arguments])
        echo_error(f"Interrupted. The state is saved. To continue, run: {printable(continued)}")
        return 130
    state = run.state
    epoch = f"epoch {state.best_epoch} of {state.epoch}" if state.best_epoch else "the fitted head"
    score = state.best_score if state.best_score >= 0 else math.nan
    _echo_result(output, score, epoch, len(state.skipped), state.calibration_images, score_name)
    return 0


def _check_lr_find(**contradictions: bool) -> None:
    for name, is_given in contradictions.items():
        if is_given:
            raise UsageError(f"Use either `lr_find` or `{name}`.")


def _echo_suggestion(plot: Path, test: RateTest) -> None:
    echo_info(f"Wrote {printable(str(plot))}.")
    if test.suggestion is None:
        echo_info("No learning rate lowers the loss clearly, so there is no suggestion.")
    else:
        click.echo(f"Suggestion: --learning-rate {test.suggestion:g}")


def _echo_result(output: Path, score: float, epoch: str, skipped: int, calibration_images: int, name: str) -> None:
    """Name the model, its validation score (NaN if there is none), and how many images were skipped."""
    if math.isnan(score):
        detail = f"not validated, from {epoch}" if epoch else "not validated"
    else:
        detail = f"validation {name} {score:.1%}" + (f" in {epoch}" if epoch else "")
    detail += f", calibrated on {plural(calibration_images, 'image')}" * bool(calibration_images)
    echo_info(f"Wrote {printable(str(output / 'model.safetensors'))} ({detail}).")
    if skipped:
        path = printable(str(output / "skipped.csv"))
        echo_info(f"Skipped {plural(skipped, 'image')} that cannot be decoded. See {path}.")


def show_step(progress: ProgressBar, info: StepInfo) -> None:
    """Show a training step."""
    detail = f"loss {info.loss:.3f}, accuracy {info.accuracy:.1%}, {format_duration(info.seconds_left)} left"
    progress.update(f"Epoch {info.epoch}/{info.epochs} at {info.size} px", info.batch, info.batches, detail)


def _image_arguments(paths: RunPaths) -> list[str]:
    """Return the arguments that name the images of a run."""
    options = {
        "--csv": paths.csv,
        "--path-column": paths.dataset.path_column,
        "--label-column": paths.dataset.label_column,
        "--val": paths.val,
    }
    arguments = [str(paths.train)] if paths.train else []
    arguments += [text for name, value in options.items() if value is not None for text in (name, str(value))]
    return arguments + [text for suffix in paths.dataset.suffixes for text in ("--suffix", suffix)]


def _echo_epoch(row: dict[str, float]) -> None:
    validation = ""
    if not math.isnan(row["val_loss"]):
        loss = f"loss {row['val_loss']:.3f}"
        names = {"accuracy": "val_accuracy", "top-5": "val_top5", "mAP": "val_map", "ROC AUC": "val_roc_auc"}
        values = [f"{name} {row[column]:.1%}" for name, column in names.items() if column in row]
        validation = f"validation: {', '.join((loss, *values))}; "
    echo_info(
        f"Epoch {row['epoch']} at {row['size']} px: loss {row['loss']:.3f}, accuracy {row['accuracy']:.1%}; "
        f"{validation}elapsed: {format_duration(row['seconds'])}"
    )


@contextmanager
def _stop_on_signals(stop: Callable[[], None]) -> Iterator[None]:
    """Call ``stop`` on Ctrl-C or SIGTERM, so that the run ends after the current step. A second signal interrupts."""

    def handle(number: int, _frame: object) -> None:
        stop()
        signal.signal(number, previous[number])

    previous: dict[int, Any] = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
