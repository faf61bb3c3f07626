"""The training loop. It uses only Keras' own API, so it runs on any backend."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import keras
import numpy as np

from densenet_cli.engines import keras_ops
from densenet_cli.errors import ImageError, UsageError
from densenet_cli.labels import Labels
from densenet_cli.text import format_duration
from densenet_cli.training import network, run_files
from densenet_cli.training.batches import Batch, Subset, TrainingBatches, class_weights, validation_batches
from densenet_cli.training.calibration import calibrate
from densenet_cli.training.multi_label import MultiLabelMetrics, balance_weights
from densenet_cli.training.network import WeightAverage
from densenet_cli.training.options import RunOptions, StepInfo
from densenet_cli.training.run_files import RunState, ValidationMetrics
from densenet_cli.training.settings import Settings
from densenet_cli.training.tensorboard import EventWriter

if TYPE_CHECKING:
    from densenet_cli._types import FloatArray, IntArray
    from densenet_cli.weights.contents import Arrays

T = TypeVar("T", ValidationMetrics, MultiLabelMetrics)

VALIDATION_BATCH_SIZE = 64

MEASURED_STEPS = 10
"""Steps after which the time of an epoch is estimated."""

SMOOTHING = 0.02
"""Weight of the latest step in the moving average of the step time."""


class StepResult(NamedTuple):
    """The loss and the accuracy of a batch, before the weights change."""

    loss: float
    accuracy: float


class TrainingRun:
    """A run in an output folder.

    Args:
        settings: The settings of the run.
        labels: The labels of the classes.
        training, validation: The images.
        state: The state to start from. A state without arrays is the beginning of a run.
        folder: The output folder.
        options: The options of the run.
        initial_arrays: Initial arrays by layer, if the state has none. Missing layers are initialized randomly.

    Attributes:
        batches: The training batches.
    """

    def __init__(
        self,
        settings: Settings,
        labels: Labels,
        training: Subset,
        validation: Subset,
        state: RunState,
        folder: Path,
        options: RunOptions,
        initial_arrays: Arrays | None = None,
    ) -> None:
        self.settings = settings
        self.state = state
        self.options = options
        self._labels = labels
        self._validation = validation
        self._folder = folder
        self.batches = TrainingBatches(training, settings, options.threads, options.skip_unreadable)
        keras.utils.set_random_seed(settings.seed)
        config = settings.config(len(labels))
        self._network = network.build(config, settings.precision)
        self._averaged_network = network.build(config, "float32")
        self._class_weights = self._balance = None
        if settings.class_weights and settings.multi_label:
            self._balance = balance_weights(training.targets)
        elif settings.class_weights:
            self._class_weights = class_weights(training.targets, len(labels))
        network.set_arrays(self._network, initial_arrays or {})
        network.freeze(
            self._network,
            settings.freeze if settings.is_frozen_at(state.epoch) else "",
            # A fitted head belongs to the features of inference. Statistics of augmented batches would change them.
            freeze_batch_norm=settings.is_head_only,
        )
        network.compile_for_training(self._network, settings, self._balance)
        self._average = WeightAverage(self._network.get_weights(), settings.averaging)
        if state.arrays:
            self._restore()
        self._events: EventWriter | None = None
        if options.tensorboard:
            self._events = EventWriter(options.tensorboard, resume=bool(state.arrays))
            for row in state.history:
                self._events.write_epoch(int(row["epoch"]) * len(self.batches), row)
        self._steps = 0
        self._seconds_per_pixel = 0.0
        self._stop_requested = False

    @property
    def is_finished(self) -> bool:
        """Whether nothing is left to train."""
        return self.state.stopped_early or self.state.epoch >= self.settings.epochs

    def stop(self) -> None:
        """Make ``train`` save the state and return after the current step."""
        self._stop_requested = True

    def train(self) -> None:
        """Train until the end of the run, or until ``stop`` is called. The state is saved in any case, if possible.

        Raises:
            ImageError: An image cannot be decoded.
            OutputError: A file cannot be written.
            UsageError: The loss becomes NaN or infinite.
        """
        while not self.is_finished:
            try:
                self._train_epoch()
                if self._stop_requested:
                    return
                self._finish_epoch()
            except ImageError as error:  # before _finish_epoch changes the state
                self.save()
                raise type(error)(
                    f"{error} Repair or remove the file, or use `skip_unreadable`. Then continue with `resume`."
                ) from None

    def _train_epoch(self) -> None:
        """Train on the remaining batches of the epoch, or until ``stop`` is called."""
        last_saved = started = time.monotonic()
        for batch in self.batches.epoch(self.state.epoch, self.state.batch):
            self._train_step(batch, started)
            if self._stop_requested:
                self.save()
                return
            started = time.monotonic()  # The time of a step includes the wait for its batch.
            if started - last_saved > self.options.save_every:
                self.save()
                last_saved = started = time.monotonic()

    def step(self, batch: Batch, learning_rate: float) -> StepResult:
        """Change the weights of the network by a step, but not the state."""
        self._network.optimizer.learning_rate = learning_rate
        self._network.reset_metrics()
        weights = None
        if self._class_weights is None:
            targets = batch.one_hot(len(self._labels))
        else:
            targets, weights = batch.weighted_one_hot(self._class_weights)
        logs = self._network.train_on_batch(batch.pixels, targets, weights, return_dict=True)
        return StepResult(float(logs["loss"]), float(logs["accuracy"]))

    def _train_step(self, batch: Batch, started: float) -> None:
        settings, state = self.settings, self.state
        step = state.epoch * len(self.batches) + state.batch + 1
        learning_rate = settings.learning_rate_at(step / len(self.batches))
        result = self.step(batch, learning_rate)
        if not np.isfinite(result.loss):
            raise self._divergence_error()
        state.loss += result.loss * len(batch.targets)
        state.correct += result.accuracy * len(batch.targets)
        state.images += len(batch.targets)
        state.batch += 1
        if self._events:
            self._events.write_step(step, result.loss, result.accuracy, learning_rate)
        if self._average.is_due(step):
            self._average.update(self._network.get_weights())
        elapsed = time.monotonic() - started
        state.seconds += elapsed
        self._report_step(elapsed)

    def _divergence_error(self) -> UsageError:
        return UsageError(
            f"The loss became NaN or infinite in epoch {self.state.epoch + 1}. Start again with a lower "
            "`learning_rate` or a longer `warmup`."
        )

    def _report_step(self, elapsed: float) -> None:
        settings, state = self.settings, self.state
        size = settings.size_at(state.epoch)
        seconds_per_pixel = elapsed / size**2
        # The mean of the first steps, without the very first one, which compiles the network.
        weight = max(SMOOTHING, 1 / max(1, self._steps))
        self._seconds_per_pixel += (seconds_per_pixel - self._seconds_per_pixel) * weight
        self._steps += 1
        if self._steps == MEASURED_STEPS:
            seconds = self._seconds_per_pixel * size**2 * len(self.batches)
            self.options.on_message(f"Time per epoch: about {format_duration(seconds)} at {size} px, plus validation.")
        batches_left = len(self.batches) - state.batch
        pixels_left = batches_left * size**2 + sum(
            len(self.batches) * settings.size_at(epoch) ** 2 for epoch in range(state.epoch + 1, settings.epochs)
        )
        self.options.on_step(
            StepInfo(
                state.epoch + 1,
                settings.epochs,
                state.batch,
                len(self.batches),
                size,
                state.loss / state.images,
                state.correct / state.images,
                pixels_left * self._seconds_per_pixel,
            )
        )

    def _finish_epoch(self) -> None:
        """Validate, write the model if it is the best so far or cannot be compared, and write the log and the state.

        Raises ``UsageError`` if the model is not finite, which the loss of the last step does not show.
        """
        settings, state = self.settings, self.state
        started = time.monotonic()
        metrics, logits, targets = self._validate()
        arrays = keras_ops.get_arrays(self._averaged_network)
        weights = (values for named in arrays.values() for values in named.values())
        if not all(np.isfinite(values).all() for values in (logits, *weights)):
            raise self._divergence_error()
        state.seconds += time.monotonic() - started
        row: dict[str, float] = {
            "epoch": state.epoch + 1,
            "size": settings.size_at(state.epoch),
            "learning_rate": settings.learning_rate_at(state.epoch + 1),
            "loss": state.loss / state.images,
            "accuracy": state.correct / state.images,
            **metrics.log_values(),
            "seconds": state.seconds,
            "skipped": len(state.skipped),
        }
        state.history.append(row)
        state.epoch, state.batch = state.epoch + 1, 0
        state.loss, state.correct, state.images = 0.0, 0.0, 0
        is_comparable = not math.isnan(metrics.score)
        if metrics.score > state.best_score or not is_comparable:
            state.best_epoch = state.epoch
            state.best_score = metrics.score if is_comparable else state.best_score
            calibrated = calibrate(logits, targets, settings, state.date)
            state.calibration_images = calibrated.images
            if calibrated.note not in ("", state.calibration_note):
                self.options.on_message(calibrated.note)
                state.calibration_note = calibrated.note
            run_files.write_model(
                self._folder,
                arrays,
                self._labels,
                settings,
                metrics,
                state.epoch,
                list(state.skipped),
                calibrated.calibration,
            )
        state.stopped_early = settings.stops_early(state.epoch, state.best_epoch)
        if settings.is_frozen_at(state.epoch - 1) and not settings.is_frozen_at(state.epoch):
            network.freeze(self._network, "")
            network.compile_for_training(self._network, settings, self._balance)
        if self._events:
            self._events.write_epoch(state.epoch * len(self.batches), row)
        run_files.write_log(self._folder, state.history)
        self.save()
        self.options.on_epoch(row)

    def _validate(self) -> tuple[ValidationMetrics | MultiLabelMetrics, FloatArray, IntArray]:
        settings, options = self.settings, self.options
        averaged = self._average.weights if settings.averaging else self._network.get_weights()
        self._averaged_network.set_weights(averaged)
        batches = validation_batches(
            self._validation, settings.preprocessing, VALIDATION_BATCH_SIZE, options.threads, options.skip_unreadable
        )
        if settings.multi_label:
            return validate(self._averaged_network, batches, MultiLabelMetrics)
        return validate(self._averaged_network, batches, ValidationMetrics)

    def _variables(self) -> list[keras.Variable]:
        return [*self._network.weights, *self._network.optimizer.variables]

    def save(self) -> None:
        """Save the state. Raises ``OutputError``."""
        if self._events:
            self._events.flush()
        state = self.state
        state.average_updates = self._average.updates
        state.arrays = {f"variable.{n}": keras.ops.convert_to_numpy(v) for n, v in enumerate(self._variables())}
        state.arrays |= {f"average.{n}": mean for n, mean in enumerate(self._average.weights)}
        run_files.save_state(self._folder, state)

    def _restore(self) -> None:
        arrays = self.state.arrays
        for n, variable in enumerate(self._variables()):
            variable.assign(arrays[f"variable.{n}"])
        self._average.weights = [arrays[f"average.{n}"] for n in range(len(self._average.weights))]
        self._average.updates = self.state.average_updates


def validate(model: keras.Model, batches: Iterable[Batch], metrics: type[T]) -> tuple[T, FloatArray, IntArray]:
    """Return the metrics of a model that outputs logits, the logits, and the targets. Without images, they are NaN."""
    logits, targets = [], []
    for batch in batches:
        logits.append(np.asarray(model.predict_on_batch(batch.pixels)))
        targets.append(batch.targets)
    if not logits:
        return metrics(0, *[math.nan] * (len(fields(metrics)) - 1)), np.empty((0, 0), np.float32), np.empty(0, np.int64)
    all_logits, all_targets = np.concatenate(logits), np.concatenate(targets)
    return metrics.of_logits(all_logits, all_targets), all_logits, all_targets
