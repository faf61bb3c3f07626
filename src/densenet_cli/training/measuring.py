"""How good a network is on the validation images."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from densenet_cli.training.batches import Batch

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True)
class Measured:
    """What was measured on a number of images.

    Attributes:
        images: how many.
        loss: mean negative log-likelihood in nats, nothing smoothed.
        top1, top5: shares in [0, 1] of the images whose class was the likeliest, or among the five likeliest.
    """

    images: int
    loss: float
    top1: float
    top5: float

    def to_dict(self) -> dict[str, Any]:
        """For a model's metadata."""
        return asdict(self)


def measure(network: keras.Model, batches: Iterable[Batch]) -> Measured:
    """Measure ``network``, which puts out logits."""
    losses: list[float] = []
    ranks: list[int] = []
    for batch in batches:
        logits = np.asarray(network.predict_on_batch(batch.pixels), np.float64)
        logits -= logits.max(axis=1, keepdims=True)
        own = logits[np.arange(len(logits)), batch.targets]
        losses += (np.log(np.exp(logits).sum(axis=1)) - own).tolist()
        ranks += (logits > own[:, None]).sum(axis=1).tolist()
    count = len(ranks)
    return Measured(
        count,
        sum(losses) / max(1, count),
        sum(rank < 1 for rank in ranks) / max(1, count),
        sum(rank < 5 for rank in ranks) / max(1, count),
    )
