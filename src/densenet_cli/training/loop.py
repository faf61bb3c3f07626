"""The training loop, on Keras 3's own interface: any backend, any processor."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np

from densenet_cli.engines import keras_layers
from densenet_cli.training import log, state
from densenet_cli.training.averaging import EVERY, Average
from densenet_cli.training.batches import Batches, whole
from densenet_cli.training.schedule import learning_rate
from densenet_cli.training.settings import Settings
from densenet_cli.training.store import Pictures

MEASURE_BATCH = 100


@dataclass(frozen=True)
class Step:
    """What a reporter hears after each step: running means of the epoch so far."""

    epoch: int
    batch: int
    batches: int
    size: int
    loss: float
    accuracy: float
    seconds: float


@dataclass(frozen=True)
class Part:
    """Pictures and their classes, int64 (n,)."""

    pictures: Pictures
    targets: np.ndarray


def compile_for_training(network: keras.Model, settings: Settings) -> None:
    """Give ``network`` (which puts out logits) its loss and optimizer.

    Keras decouples weight decay from the momentum; divided by ``1 - momentum`` it is worth the L2 factor of the paper.
    """
    optimizer = keras.optimizers.SGD(
        settings.learning_rate,
        momentum=settings.momentum,
        nesterov=settings.momentum > 0,
        weight_decay=settings.weight_decay / (1 - settings.momentum),
    )
    optimizer.exclude_from_weight_decay(var_names=["gamma", "beta", "bias"])
    network.compile(
        optimizer,
        loss=keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=settings.label_smoothing),
        metrics=["categorical_accuracy"],
        jit_compile=keras.backend.backend() == "jax",
    )
    network.optimizer.build(network.trainable_variables)


def measure(network: keras.Model, part: Part, size: int) -> dict[str, float]:
    """Loss, top-1 and top-5 accuracy of ``network`` on ``part``, pictures ``size`` pixels a side, nothing random."""
    loss = top1 = top5 = 0.0
    for first in range(0, len(part.targets), MEASURE_BATCH):
        chosen = range(first, min(first + MEASURE_BATCH, len(part.targets)))
        logits = np.asarray(network.predict_on_batch(whole(part.pictures, chosen, size)), np.float64)
        target = part.targets[chosen.start : chosen.stop]
        own = logits[np.arange(len(target)), target]
        high = logits.max(axis=1)
        loss += float((np.log(np.exp(logits - high[:, None]).sum(axis=1)) + high - own).sum())
        rank = (logits > own[:, None]).sum(axis=1)
        top1 += int((rank < 1).sum())
        top5 += int((rank < 5).sum())
    count = len(part.targets)
    return {"val_loss": loss / count, "val_accuracy": top1 / count, "val_top5": top5 / count}


class Run:
    """One run in one folder: ``state.npz`` and ``log.csv`` are always those of a moment that was."""

    def __init__(
        self,
        settings: Settings,
        classes: tuple[str, ...],
        training: Part,
        validation: Part,
        folder: Path,
        *,
        save_every: float = 180.0,
        on_step: Callable[[Step], None] | None = None,
        on_epoch: Callable[[dict[str, float]], None] | None = None,
    ) -> None:
        self.settings = settings
        self.classes = classes
        self.training = training
        self.validation = validation
        self.folder = folder
        self.save_every = save_every
        self.on_step = on_step
        self.on_epoch = on_epoch
        keras.utils.set_random_seed(settings.seed)
        keras.config.set_dtype_policy(settings.precision)
        self.network = keras_layers.model(settings.config(len(classes)), "logits")
        compile_for_training(self.network, settings)
        self.average = Average(self.network.get_weights(), settings.averaging)
        self.state = state.State(settings=settings.to_dict(), classes=list(classes))
        self.sums = np.zeros(3)

    def save(self) -> None:
        """Write the state as it is between two steps."""
        variables = self.network.weights + self.network.optimizer.variables
        self.state.arrays = {f"variable.{i}": keras.ops.convert_to_numpy(v) for i, v in enumerate(variables)}
        self.state.arrays |= {f"average.{i}": mean for i, mean in enumerate(self.average.weights)}
        self.state.arrays |= {"updates": np.array(self.average.updates), "sums": self.sums}
        state.save(self.folder / "state.npz", self.state)

    def restore(self) -> None:
        """Take up the state that ``save`` wrote."""
        self.state = state.load(self.folder / "state.npz")
        arrays = self.state.arrays
        for i, variable in enumerate(self.network.weights + self.network.optimizer.variables):
            variable.assign(arrays[f"variable.{i}"])
        self.average.weights = [arrays[f"average.{i}"] for i in range(len(self.average.weights))]
        self.average.updates = int(arrays["updates"])
        self.sums = arrays["sums"]

    def train(self) -> None:
        """Go on from where the state stands to the end."""
        while self.state.epoch < self.settings.epochs:
            self._train_epoch()
            self._finish_epoch()

    def _train_epoch(self) -> None:
        settings, here = self.settings, self.state
        batches = Batches(self.training.pictures, self.training.targets, settings)
        labels = np.eye(len(self.classes), dtype=np.float32)
        saved = last = time.monotonic()
        for batch in batches.epoch(here.epoch, here.batch):
            step = here.epoch * len(batches) + here.batch
            self.network.optimizer.learning_rate = learning_rate(settings, (step + 1) / len(batches))
            self.network.reset_metrics()
            result = self.network.train_on_batch(batch.pixels, labels[batch.targets], return_dict=True)
            count = len(batch.targets)
            self.sums += count * np.array([result["loss"], result["categorical_accuracy"], 1.0])
            here.batch += 1
            if (step + 1) % EVERY == 0:
                self.average.update(self.network.get_weights())
            now = time.monotonic()
            here.seconds += now - last
            last = now
            if self.on_step:
                loss, accuracy = self.sums[:2] / self.sums[2]
                size = settings.size_at(here.epoch)
                self.on_step(Step(here.epoch, here.batch, len(batches), size, loss, accuracy, here.seconds))
            if now - saved > self.save_every:
                self.save()
                saved = time.monotonic()

    def _finish_epoch(self) -> None:
        settings, here = self.settings, self.state
        began = time.monotonic()
        own = self.network.get_weights()
        self.network.set_weights(self.average.weights)
        measured = measure(self.network, self.validation, settings.input_size)
        self.network.set_weights(own)
        here.seconds += time.monotonic() - began
        loss, accuracy = (float(value) for value in self.sums[:2] / self.sums[2])
        row: dict[str, float] = {
            "epoch": here.epoch + 1,
            "size": settings.size_at(here.epoch),
            "learning_rate": learning_rate(settings, here.epoch + 1),
            "loss": loss,
            "accuracy": accuracy,
            **measured,
            "seconds": here.seconds,
        }
        here.history.append(row)
        if measured["val_accuracy"] > here.best:
            here.best, here.best_epoch = measured["val_accuracy"], here.epoch
            np.savez(self.folder / "best.npz", *self.average.weights)
        here.epoch, here.batch, self.sums = here.epoch + 1, 0, np.zeros(3)
        self.save()
        log.write(self.folder / "log.csv", here.history)
        if self.on_epoch:
            self.on_epoch(row)
