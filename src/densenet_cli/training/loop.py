"""The training loop, on Keras 3's own interface: any backend, any processor."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import keras
import numpy as np

from densenet_cli.engines import keras_ops
from densenet_cli.errors import ImageError, UsageError
from densenet_cli.images.preprocessing import Preprocessing
from densenet_cli.labels import Labels
from densenet_cli.training import log, network, result, run_files
from densenet_cli.training.averaging import Average
from densenet_cli.training.batches import Part, TrainingBatches, measuring_batches
from densenet_cli.training.measuring import Measured, measure
from densenet_cli.training.schedule import learning_rate
from densenet_cli.training.settings import Settings
from densenet_cli.training.ways import Step, Ways

if TYPE_CHECKING:
    from densenet_cli.training.batches import FloatArray, Indices
    from densenet_cli.weights.contents import Arrays

MEASURING_BATCH = 64


class Run:
    """One run in one folder.

    Args:
        settings: what to compute.
        labels: of the classes.
        training, validation: the images.
        begun: the state to go on from, or that of a run at its start.
        folder: where ``state.npz``, ``log.csv`` and ``model.safetensors`` go; each is whole at any moment.
        ways: how to go about it.
        arrays: to start from, by layer; not looked at where the state has arrays.
    """

    def __init__(
        self,
        settings: Settings,
        labels: Labels,
        training: Part,
        validation: Part,
        begun: run_files.State,
        folder: Path,
        ways: Ways,
        arrays: Arrays | None = None,
    ) -> None:
        self.settings = settings
        self.state = begun
        self._labels = labels
        self._validation = validation
        self._folder = folder
        self._ways = ways
        self._batches = TrainingBatches(training, settings, ways.threads, ways.skip_unreadable)
        self._config = settings.config(len(labels))
        keras.utils.set_random_seed(settings.seed)
        self._network = network.build(self._config, settings.precision)
        self._measured = network.build(self._config, "float32")
        self._weights_of = _class_weights(training, len(labels), settings)
        network.put(self._network, arrays or {})
        network.freeze(self._network, settings.freeze if settings.is_frozen_at(begun.epoch) else "")
        network.compile_for_training(self._network, settings)
        self._average = Average(self._network.get_weights(), settings.averaging)
        if begun.arrays:
            self._restore()
        self._seconds_a_pixel = 0.0
        self._stopping = False

    @property
    def is_finished(self) -> bool:
        """Whether nothing is left to train."""
        return self.state.stopped or self.state.epoch >= self.settings.epochs

    def stop(self) -> None:
        """Let ``train`` save the state and return behind the step at hand."""
        self._stopping = True

    def train(self) -> None:
        """Go on from where the state stands, to the end or until ``stop`` is called.

        Raises ``ImageError`` for an image that can't be decoded and ``OutputError`` for a file that can't be
        written. Before it raises or returns the state is saved, where it can be.
        """
        while not self.is_finished:
            self._train_epoch()
            if self._stopping:
                return
            self._finish_epoch()

    def _train_epoch(self) -> None:
        """The rest of the epoch, or as much of it as ``stop`` lets."""
        here, ways = self.state, self._ways
        saved = time.monotonic()
        try:
            for batch in self._batches.epoch(here.epoch, here.batch):
                self._step(*batch)
                if self._stopping:
                    self._save()
                    return
                if time.monotonic() - saved > ways.save_every:
                    self._save()
                    saved = time.monotonic()
        except ImageError as error:
            self._save()
            raise type(error)(f"{error} Repair it, or give --skip-unreadable; --resume goes on from here.") from None

    def _step(self, pixels: FloatArray, targets: Indices) -> None:
        settings, here = self.settings, self.state
        began = time.monotonic()
        step = here.epoch * len(self._batches) + here.batch + 1
        self._network.optimizer.learning_rate = learning_rate(settings, step / len(self._batches))
        self._network.reset_metrics()
        wanted = np.eye(len(self._labels), dtype=np.float32)[targets]
        weights = self._weights_of[targets] if self._weights_of is not None else None
        found = self._network.train_on_batch(pixels, wanted, weights, return_dict=True)
        if not np.isfinite(found["loss"]):
            raise UsageError(
                f"The loss is no longer finite in epoch {here.epoch + 1}: start the run anew with a "
                "lower --learning-rate or a longer --warmup."
            )
        here.loss += float(found["loss"]) * len(targets)
        here.correct += float(found["categorical_accuracy"]) * len(targets)
        here.seen += len(targets)
        here.batch += 1
        if self._average.is_due(step):
            self._average.update(self._network.get_weights())
        taken = time.monotonic() - began
        here.seconds += taken
        self._tell(taken)

    def _tell(self, taken: float) -> None:
        settings, here = self.settings, self.state
        size = settings.size_at(here.epoch)
        a_pixel = taken / size**2
        self._seconds_a_pixel += (a_pixel - self._seconds_a_pixel) * (0.02 if self._seconds_a_pixel else 1)
        batches_left = len(self._batches) - here.batch
        pixels_left = batches_left * size**2 + sum(
            len(self._batches) * settings.size_at(epoch) ** 2 for epoch in range(here.epoch + 1, settings.epochs)
        )
        self._ways.on_step(
            Step(
                here.epoch + 1,
                settings.epochs,
                here.batch,
                len(self._batches),
                size,
                here.loss / here.seen,
                here.correct / here.seen,
                pixels_left * self._seconds_a_pixel,
            )
        )

    def _finish_epoch(self) -> None:
        """Measure, keep the model if it is the best, write the log, and save the state at the next epoch's start."""
        settings, here = self.settings, self.state
        began = time.monotonic()
        measured = self._measure()
        here.seconds += time.monotonic() - began
        row: dict[str, float] = {
            "epoch": here.epoch + 1,
            "size": settings.size_at(here.epoch),
            "learning_rate": learning_rate(settings, here.epoch + 1),
            "loss": here.loss / here.seen,
            "accuracy": here.correct / here.seen,
            "val_loss": measured.loss,
            "val_accuracy": measured.top1,
            "val_top5": measured.top5,
            "seconds": here.seconds,
        }
        here.history.append(row)
        here.epoch, here.batch = here.epoch + 1, 0
        here.loss, here.correct, here.seen = 0.0, 0.0, 0
        if measured.top1 > here.best:
            here.best, here.best_epoch = measured.top1, here.epoch
            arrays = keras_ops.get_arrays(self._measured)
            result.write(self._folder, arrays, self._config, self._labels, settings, measured, here.epoch)
        here.stopped = 0 < settings.patience <= here.epoch - here.best_epoch
        if settings.is_frozen_at(here.epoch - 1) and not settings.is_frozen_at(here.epoch):
            network.freeze(self._network, "")
            network.compile_for_training(self._network, settings)
        log.write(self._folder, here.history)
        self._save()
        self._ways.on_epoch(row)

    def _measure(self) -> Measured:
        settings, ways = self.settings, self._ways
        self._measured.set_weights(self._average.weights if settings.averaging else self._network.get_weights())
        preprocessing = Preprocessing(settings.preprocess, settings.input_size)
        batches = measuring_batches(
            self._validation, preprocessing, MEASURING_BATCH, ways.threads, ways.skip_unreadable
        )
        return measure(self._measured, batches)

    def _variables(self) -> list[keras.Variable]:
        return [*self._network.weights, *self._network.optimizer.variables]

    def _save(self) -> None:
        here = self.state
        here.updates = self._average.updates
        here.arrays = {f"variable.{n}": keras.ops.convert_to_numpy(v) for n, v in enumerate(self._variables())}
        here.arrays |= {f"average.{n}": mean for n, mean in enumerate(self._average.weights)}
        run_files.save(self._folder, here)

    def _restore(self) -> None:
        arrays = self.state.arrays
        for n, variable in enumerate(self._variables()):
            variable.assign(arrays[f"variable.{n}"])
        self._average.weights = [arrays[f"average.{n}"] for n in range(len(self._average.weights))]
        self._average.updates = self.state.updates


def _class_weights(training: Part, classes: int, settings: Settings) -> FloatArray | None:
    """Class -> weight: as rare as it is, 1 on average over the images."""
    if not settings.class_weights:
        return None
    counts = np.bincount(training.targets, minlength=classes)
    return (len(training) / (np.count_nonzero(counts) * np.maximum(counts, 1))).astype(np.float32)
