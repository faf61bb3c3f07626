"""A network with its weights and its labels: found, read, and ready to compute."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from densenet_cli import engines, labels, variants
from densenet_cli.errors import CheckpointError

if TYPE_CHECKING:
    import numpy as np

    from densenet_cli.weights import Progress

    FloatArray = np.ndarray[Any, np.dtype[np.float32]]

IMAGENET_CLASSES = 1000


class Model:
    """A variant with its own weights, or what a checkpoint holds.

    Args:
        variant: a name of the registry; the default one where neither it nor ``weights`` is given. With ``weights``,
            which then must hold that network, its head aside.
        weights: a checkpoint's file instead of the variant's own.
        label_file: a file of class names, one a line, instead of the model's own.
        engine: a name of ``engines.ENGINES``.
        threads: that compute.
        offline: never touch the network.
        base_url: where to fetch weights from, instead of the published places.
        progress: called with (file name, bytes done, bytes in all or None) while weights arrive.

    Raises:
        UsageError: there is no such variant or engine; labels of another number than the head's.
        WeightsError: weights that can't be had, or don't fit.

    Attributes:
        name: what results call it: ``densenet121``, or the checkpoint's without its suffix.
        weights: path of the checkpoint in use.
        engine: what computes.
        labels: a label for each position of the head.
    """

    def __init__(
        self,
        variant: str | None,
        weights: str | os.PathLike[str] | None,
        label_file: str | os.PathLike[str] | None,
        *,
        engine: str,
        threads: int,
        offline: bool = False,
        base_url: str | None = None,
        progress: Progress | None = None,
    ) -> None:
        if weights is None:
            from densenet_cli.weights import store

            chosen = variants.get(variant or variants.DEFAULT)
            self.name = chosen.model
            self.weights = store.get_file(chosen, offline=offline, base_url=base_url, progress=progress)
            self.engine = engines.create(engine, self.weights, chosen.config, threads)
        else:
            self.weights = Path(weights)
            self.name = self.weights.name.removesuffix(self.weights.suffix).removesuffix(".weights")
            self.engine = _open(self.weights, variant, engine, threads)
        self.labels = self._choose_labels(label_file)

    def _choose_labels(self, file: str | os.PathLike[str] | None) -> labels.Labels:
        classes = self.engine.config.classes
        if file is not None:
            return labels.read_file(Path(file), classes)
        if self.engine.metadata.labels is not None:
            return self.engine.metadata.labels
        table = labels.imagenet() if classes == IMAGENET_CLASSES else None
        return table or labels.placeholders(classes)

    def run(self, pixels: FloatArray, outputs: tuple[str, ...]) -> dict[str, FloatArray]:
        """What ``engines.Engine.run_all`` gives. Raises ``CheckpointError`` where it is no number."""
        import numpy as np

        arrays = self.engine.run_all(pixels, outputs)
        if not all(np.isfinite(array).all() for array in arrays):
            raise CheckpointError(f"{self.weights} holds a network whose answer to an image is no number.")
        return dict(zip(outputs, arrays, strict=True))


def _open(weights: Path, variant: str | None, engine: str, threads: int) -> engines.Engine:
    """The engine on a checkpoint, which must hold ``variant`` where one is asked for (its head aside)."""
    if variant is None:
        return engines.create(engine, weights, None, threads)
    config = variants.get(variant).config
    try:
        return engines.create(engine, weights, config, threads)
    except CheckpointError as error:
        said = f"{error} The variant {variant} was asked for; without it the file decides."
        raise CheckpointError(said) from error
