"""Opening a run: check everything, prepare the images and the network, and lock the output folder."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from densenet_cli import labels
from densenet_cli.engines.tensorflow import import_keras
from densenet_cli.errors import OutputError, UsageError
from densenet_cli.images.walking import is_ignored
from densenet_cli.output.atomic import locked, output_errors
from densenet_cli.text import to_unicode
from densenet_cli.training import initial_weights, recipes, run_files, summary, tensorboard
from densenet_cli.training.batches import Subset
from densenet_cli.training.options import RunOptions
from densenet_cli.training.phases import Phase
from densenet_cli.training.run_files import RunPaths, RunState
from densenet_cli.training.run_images import PATIENCE_ERROR, count_validation, list_datasets, open_subsets
from densenet_cli.training.settings import FROM_SCRATCH, Settings

if TYPE_CHECKING:
    from densenet_cli.labels import Labels
    from densenet_cli.training.head_fit import FittedHead
    from densenet_cli.training.loop import TrainingRun
    from densenet_cli.training.lr_finder import RateTest
    from densenet_cli.weights.contents import Arrays

CHANGEABLE = ("sizes", "patience")
"""Settings that a resumed run may change, as far as its past epochs do not depend on them."""


@contextmanager
def open_run(
    paths: RunPaths,
    settings: Settings,
    options: RunOptions,
    *,
    resume: bool = False,
    overwrite: bool = False,
    offline: bool = False,
) -> Iterator[TrainingRun]:
    """Open a run. The output folder is locked while the ``with`` block runs.

    Args:
        paths: The folders of the run.
        settings: The settings, which determine the result.
        options: Options that do not affect the result.
        resume: Continue the run in the output folder, which must have the same images and settings, except those in
            ``CHANGEABLE``.
        overwrite: Replace the run in the output folder.
        offline: Do not download initial weights.

    Raises:
        UsageError: The class folders are unsuitable, the output folder contains a run, or the run to resume does
            not exist or differs. Nothing on disk is changed then.
        UnreadableImageError: An image cannot be decoded and ``options.skip_unreadable`` is false, or no image of a
            class can be.
        WeightsError: The initial weights are unavailable or do not fit the network.
        OutputError: A file cannot be written.
    """
    with _open(paths, settings, options, resume, overwrite) as opened:
        state = opened.state
        if state and opened.is_changed:
            run_files.save_state(paths.output, state)
        head = None
        initial_arrays: Arrays | None = None
        if state is None and settings.is_head_only:
            head = _fit_head(paths, opened, settings, options, offline)
            _write_head(paths, opened, settings, head)
            initial_arrays = head.arrays
        elif state is None:
            initial_arrays = _load_arrays(opened, settings, offline)
        # Importing Keras takes seconds, so everything else is done first.
        import_keras()
        from densenet_cli.training.loop import TrainingRun

        if state is None:
            classes = [label.name for label in opened.labels]
            state = RunState(settings.to_dict(), classes, opened.fingerprint, skipped=opened.skipped)
            if head is None:
                _delete_run(paths.output)
            else:
                state.calibration_images, state.calibration_note = head.calibrated.images, head.calibrated.note
                if not math.isnan(head.metrics.score):
                    state.best_score = head.metrics.score
        recipes.write(paths.output / run_files.SETTINGS_FILE, settings)
        run = TrainingRun(settings, opened.labels, *opened.subsets, state, paths.output, options, initial_arrays)
        if head is not None:
            run.save()
        yield run


def fit_head(
    paths: RunPaths, settings: Settings, options: RunOptions, *, overwrite: bool = False, offline: bool = False
) -> tuple[FittedHead, int]:
    """Fit a new head to the features of a frozen backbone, and write the model.

    Args:
        paths: See ``open_run``, also for the other arguments and exceptions.
        settings: Settings with ``is_head_only``.

    Returns:
        The head, and the number of images that were skipped because they cannot be decoded.
    """
    if options.tensorboard:
        raise UsageError("`tensorboard` requires `then_unfreeze`: `freeze` all has no steps to log.")
    with _open(paths, settings, options, False, overwrite) as opened:
        head = _fit_head(paths, opened, settings, options, offline)
        _write_head(paths, opened, settings, head)
        recipes.write(paths.output / run_files.SETTINGS_FILE, settings)
        return head, len(opened.skipped)


def _fit_head(
    paths: RunPaths, opened: _OpenedRun, settings: Settings, options: RunOptions, offline: bool
) -> FittedHead:
    from densenet_cli.training import head_fit

    return head_fit.fit_head(*opened.subsets, opened.labels, settings, options, paths.cache, offline)


def _write_head(paths: RunPaths, opened: _OpenedRun, settings: Settings, head: FittedHead) -> None:
    """Replace the run in the output folder by a fitted head."""
    _delete_run(paths.output)
    run_files.write_skipped(paths.output, opened.skipped)
    run_files.write_model(
        paths.output,
        head.arrays,
        opened.labels,
        settings,
        head.metrics,
        0,
        list(opened.skipped),
        head.calibrated.calibration,
    )


def _load_arrays(opened: _OpenedRun, settings: Settings, offline: bool) -> Arrays | None:
    """Return the arrays of the checkpoint to start from, if there is one."""
    if settings.start == FROM_SCRATCH:
        return None
    return initial_weights.load_arrays(settings.start, settings.config(len(opened.labels)), opened.labels, offline)


def find_learning_rate(paths: RunPaths, settings: Settings, options: RunOptions, *, offline: bool = False) -> RateTest:
    """Run a learning rate test and write its plot. A run in the output folder does not change.

    See ``open_run`` for the arguments and exceptions.
    """
    if settings.is_head_only and not settings.then_unfreeze:
        raise UsageError("`freeze` all trains no layers. Use `lr_find` with `then_unfreeze`.")
    with _open(paths, settings, options, resume=False, overwrite=True) as opened:
        if settings.is_head_only:
            settings = replace(settings, calibrate=False)  # nothing is written
            initial_arrays: Arrays | None = _fit_head(paths, opened, settings, options, offline).arrays
        else:
            initial_arrays = _load_arrays(opened, settings, offline)
        import_keras()
        from densenet_cli.training import lr_finder
        from densenet_cli.training.loop import TrainingRun

        settings = replace(settings, sizes=(Phase(settings.size_at(0), lr_finder.STEPS),))
        state = RunState(settings.to_dict(), [], opened.fingerprint, skipped=opened.skipped)
        run = TrainingRun(settings, opened.labels, *opened.subsets, state, paths.output, options, initial_arrays)
        result = lr_finder.run_rate_test(run)
        lr_finder.draw(paths.output / run_files.RATE_TEST_FILE, result)
        return result


class _OpenedRun(NamedTuple):
    """What is needed for a run.

    Attributes:
        state: The state to continue, or None for a new run.
        is_changed: Whether its settings were changed.
        labels: The labels of the classes.
        fingerprint: Fingerprint of the datasets.
        subsets: The training images and the validation images.
        skipped: Images that could not be decoded and were skipped.
    """

    state: RunState | None
    is_changed: bool
    labels: Labels
    fingerprint: str
    subsets: tuple[Subset, Subset]
    skipped: dict[str, str]


@contextmanager
def _open(
    paths: RunPaths, settings: Settings, options: RunOptions, resume: bool, overwrite: bool
) -> Iterator[_OpenedRun]:
    """Check everything, lock the output folder, and open the images. See ``open_run``."""
    if resume and overwrite:
        raise UsageError("Use either `resume` or `overwrite`.")
    state = run_files.load_state(paths.output) if resume else None
    is_changed = False
    if state:
        is_changed = _change_settings(state, settings)
    elif not overwrite:
        _check_unused(paths.output)
    _check_output(paths)
    if options.tensorboard:
        tensorboard.check_folder(options.tensorboard, resume=resume, overwrite=overwrite)
    training, validation = list_datasets(paths, settings, options.on_message)
    if settings.patience and not count_validation(training, validation, settings):
        raise UsageError(PATIENCE_ERROR)
    options.on_message(summary.describe_network(settings, len(training.classes)))
    fingerprint = training.fingerprint() + (validation.fingerprint() if validation else "")
    if state and state.fingerprint != fingerprint:
        raise UsageError(f"The images differ from those of the run in {paths.output}. Use the same images and `val`.")
    with _lock(paths.output):
        skipped = state.skipped if state else {}
        subsets = open_subsets(paths, training, validation, settings, options, skipped)
        class_labels = labels.from_class_names(training.classes)
        yield _OpenedRun(state, is_changed, class_labels, fingerprint, subsets, skipped)


def _check_unused(output: Path) -> None:
    """Raise ``UsageError`` if the output folder contains a run or a model."""
    if (output / run_files.STATE_FILE).exists():
        raise UsageError(f"There is a run in {output}. Use `resume` to continue it or `overwrite` to start again.")
    if (output / run_files.MODEL_FILE).exists():
        raise UsageError(f"There is a model in {output}. Use `overwrite` to replace it.")


def _check_output(paths: RunPaths) -> None:
    """Raise ``UsageError`` if the output folder is in a folder of images, where its curves would be a class."""
    output = Path(os.path.realpath(paths.output))
    for folder in (None if paths.csv else paths.train, paths.val):
        if folder is None or (parent := Path(os.path.realpath(folder))) not in output.parents:
            continue
        if not any(map(is_ignored, output.relative_to(parent).parts)):
            raise UsageError(
                f"The output folder {to_unicode(str(paths.output))} is inside {to_unicode(str(folder))}, so it would "
                "be taken for a class. Choose a folder outside."
            )


def _change_settings(state: RunState, settings: Settings) -> bool:
    """Change the settings of a state. Return whether any differs.

    Raises:
        UsageError: A setting must not change, or the run would not continue.
    """
    saved = Settings.from_dict(state.settings)
    if differences := settings.differences(replace(saved, **{name: getattr(settings, name) for name in CHANGEABLE})):
        raise UsageError(
            f"The run was started with different settings: {'; '.join(differences)}. Only `epochs`, `sizes`, and "
            "`patience` can be changed."
        )
    started = state.epoch + (state.batch > 0)
    if settings.epochs < started:
        raise UsageError(f"The run is in epoch {started} already. Use at least {started} `epochs`.")
    if any(settings.size_at(epoch) != saved.size_at(epoch) for epoch in range(started)):
        raise UsageError(f"`sizes` must begin with the epochs that were trained already ({state.settings['sizes']}).")
    state.stopped_early = settings.stops_early(state.epoch, state.best_epoch)
    if state.stopped_early and settings.epochs > saved.epochs:
        raise UsageError(
            f"The run stopped because the last {state.epoch - state.best_epoch} epochs brought no improvement. Use a "
            "larger `patience`, or 0 to never stop early."
        )
    state.settings = settings.to_dict()
    return settings != saved


def _delete_run(output: Path) -> None:
    """Delete the files of an earlier run. The state is first, so that an incomplete run cannot be resumed."""
    for name in run_files.RESULT_FILES:
        (output / name).unlink(missing_ok=True)


@contextmanager
def _lock(output: Path) -> Iterator[None]:
    with ExitStack() as stack:
        with output_errors(output):
            output.mkdir(parents=True, exist_ok=True)
            try:
                stack.enter_context(locked(output / ".lock"))
            except BlockingIOError:
                raise UsageError(f"Another run is using {output}.") from None
        try:
            yield
        except OSError as error:
            file = f" {to_unicode(os.fspath(error.filename))}:" if isinstance(error.filename, (str, Path)) else ""
            raise OutputError(f"The run in {output} stopped:{file} {error.strerror or error}.") from error
