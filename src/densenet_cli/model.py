"""A model: a network with its weights and class labels, ready to run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from densenet_cli import engines, labels, variants
from densenet_cli.errors import CheckpointError

if TYPE_CHECKING:
    from pathlib import Path

    from densenet_cli._types import DownloadProgress, FloatArray, PathLike

IMAGENET_CLASSES = 1000


class Model:
    """A network with its weights and class labels.

    Args:
        variant: The name of a variant. If neither it nor ``weights`` is given, the default variant. With ``weights``,
            the checkpoint must contain this variant (with any number of classes).
        weights: A checkpoint to use instead of the variant's weights: the path of a file or a folder, or an ``hf://``
            URL.
        label_file: The path of a label file (see ``label_files``), to use instead of the model's labels.
        engine: A key of ``engines.ENGINES``.
        threads: The number of threads to compute with.
        offline: Do not use the network.
        base_url: The URL to download weights from, instead of the published ones.
        progress: Called while weights are downloaded.

    Raises:
        UsageError: The variant or engine does not exist, or the label file does not fit.
        WeightsError: The weights are not available or do not fit.

    Attributes:
        name: The name in results: ``densenet121``, or that of ``weights`` (see ``locations.model_name``).
        weights: The path of the checkpoint.
        engine: The engine that runs the network.
        labels: One label for each position of the head.
    """

    def __init__(
        self,
        variant: str | None,
        weights: PathLike | None,
        label_file: PathLike | None,
        engine: str,
        *,
        threads: int,
        offline: bool = False,
        base_url: str | None = None,
        progress: DownloadProgress | None = None,
    ) -> None:
        if weights is None:
            from densenet_cli.weights import store

            selected = variants.get(variant or variants.DEFAULT)
            self.name = selected.model
            self.weights = store.get_file(selected, offline=offline, base_url=base_url, progress=progress)
            self.engine = engines.create(engine, self.weights, selected.config, threads)
        else:
            from densenet_cli.weights import locations

            self.weights = locations.find_checkpoint(weights, offline=offline, progress=progress)
            self.name = locations.model_name(weights)
            self.engine = _open_checkpoint(self.weights, variant, engine, threads)
        self.labels = self._select_labels(label_file)

    def _select_labels(self, label_file: PathLike | None) -> labels.Labels:
        classes, stored = self.engine.config.classes, self.engine.metadata.labels
        if label_file is not None:
            from densenet_cli import label_files

            return label_files.read(label_file, classes, stored)
        if stored is not None:
            return stored
        return labels.imagenet() if classes == IMAGENET_CLASSES else labels.placeholders(classes)

    def run(self, pixels: FloatArray, outputs: tuple[str, ...]) -> dict[str, FloatArray]:
        """Return the named outputs of the network for a batch. See ``engines.Engine.run``.

        Raises:
            CheckpointError: The network produces NaN or infinite values.
        """
        import numpy as np

        arrays = self.engine.run(pixels, outputs)
        if not all(np.isfinite(array).all() for array in arrays.values()):
            raise CheckpointError(f"The model in {self.weights} produced NaN or infinite values.")
        return arrays


def _open_checkpoint(weights: Path, variant: str | None, engine: str, threads: int) -> engines.Engine:
    if variant is None:
        return engines.create(engine, weights, None, threads)
    config = variants.get(variant).config
    try:
        return engines.create(engine, weights, config, threads)
    except CheckpointError as error:
        hint = "Omit `variant` to infer the network from the file."
        raise CheckpointError(f"{error} {hint}") from error
