"""A model: a network with its weights and class labels, ready to run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from densenet_cli import engines, labels, variants
from densenet_cli.errors import CheckpointError, UsageError
from densenet_cli.pipeline import Result, stream

if TYPE_CHECKING:
    from densenet_cli._types import DownloadProgress, FloatArray, PathLike
    from densenet_cli.calibration.record import Calibration
    from densenet_cli.engines import Pixels
    from densenet_cli.images.decoding import Loaded
    from densenet_cli.topology import DenseNetConfig
    from densenet_cli.weights.contents import Checkpoint

S = TypeVar("S")

IMAGENET_CLASSES = 1000


class Model:
    """A network with its weights and class labels.

    Args:
        variant: The name of a variant. If neither it nor ``weights`` is given, the default variant. With ``weights``,
            the checkpoint must contain this variant (with any number of classes).
        weights: A checkpoint to use instead of the variant's weights: the path of a file or a folder, or an ``hf://``
            URL.
        label_file: The path of a label file (see ``label_files``), to use instead of the model's labels.
        engine: A key of ``engines.ENGINES``, or None for the default one of the precision.
        precision: One of ``engines.PRECISION_CHOICES``.
        threads: The number of threads to compute with.
        activation: ``softmax`` or ``sigmoid``, for a checkpoint that does not state it.
        uncalibrated: Ignore the calibration in the checkpoint.
        offline: Do not use the network.
        base_url: The URL to download weights from, instead of the published ones.
        progress: Called while weights are downloaded.

    Raises:
        UsageError: The variant or engine does not exist, the label file does not fit, or ``activation`` contradicts the
            checkpoint.
        WeightsError: The weights are not available or do not fit.

    Attributes:
        name: The name in results: ``densenet121``, or that of ``weights`` (see ``locations.model_name``).
        weights: The path of the checkpoint.
        engine: The engine that runs the network.
        engine_name: Its key.
        precision: The precision that it computes in.
        metadata: What the checkpoint states, and notes on what is assumed or ignored.
        labels: One label for each position of the head.
        calibration: The calibration in the checkpoint, or None for none.
    """

    def __init__(
        self,
        variant: str | None,
        weights: PathLike | None,
        label_file: PathLike | None,
        engine: str | None,
        precision: str,
        *,
        threads: int,
        activation: str | None = None,
        uncalibrated: bool = False,
        offline: bool = False,
        base_url: str | None = None,
        progress: DownloadProgress | None = None,
    ) -> None:
        if precision == "float32" and engine in (None, engines.DEFAULT):
            self.engine_name, self.precision = engines.DEFAULT, precision
        else:
            from densenet_cli.engines.precision import choose

            self.engine_name, self.precision = choose(precision, engine)
        if weights is None:
            from densenet_cli.weights import store

            selected = variants.check_activation(variants.get(variant or variants.DEFAULT), activation)
            self.name = selected.model
            self.weights = store.get_file(selected, offline=offline, base_url=base_url, progress=progress)
            requested: DenseNetConfig | None = selected.config
        else:
            from densenet_cli.weights import locations

            self.weights = locations.find_checkpoint(weights, offline=offline, progress=progress)
            self.name = locations.model_name(weights)
            requested = variants.get(variant).config if variant else None
        self._read_arguments = (self.weights, requested, activation)
        try:
            self.engine = engines.create(self.engine_name, self.weights, requested, threads, activation, self.precision)
        except CheckpointError as error:
            if weights is None or variant is None:
                raise
            raise CheckpointError(f"{error} Omit `variant` to infer the network from the file.") from error
        self.metadata = self.engine.metadata
        self.labels = self._select_labels(label_file)
        self.calibration: Calibration | None = None
        if self.metadata.calibration is not None and not uncalibrated:
            from densenet_cli.calibration.record import Calibration

            self.calibration = Calibration.from_dict(self.metadata.calibration, self.engine.config.classes)
        if self.labels == labels.imagenet() and weights is not None and not (label_file or self.metadata.labels):
            note = "The checkpoint contains no labels. Its 1,000 classes are assumed to be ImageNet's."
            self.metadata = replace(self.metadata, notes=(*self.metadata.notes, note))

    def _select_labels(self, label_file: PathLike | None) -> labels.Labels:
        classes, stored = self.engine.config.classes, self.metadata.labels
        if label_file is not None:
            from densenet_cli import label_files

            return label_files.read(label_file, classes, stored)
        if stored is not None:
            return stored
        return labels.imagenet() if classes == IMAGENET_CLASSES else labels.placeholders(classes)

    def run(self, pixels: Pixels, outputs: tuple[str, ...], alone: bool = True) -> dict[str, FloatArray]:
        """Return the named outputs of the network for a batch. See ``engines.Engine.run``.

        The probabilities of a calibrated model are calibrated; ``raw_probabilities`` are those of the network.

        Raises:
            CheckpointError: The network produces NaN or infinite values.
        """
        import numpy as np

        calibrated = "logits" if self.calibration else "probabilities"
        names = {
            name: {"probabilities": calibrated, "raw_probabilities": "probabilities"}.get(name, name)
            for name in outputs
        }
        arrays = self.engine.run(pixels, tuple(dict.fromkeys(names.values())), alone=alone)
        if not all(np.isfinite(array).all() for array in arrays.values()):
            raise CheckpointError(f"The model in {self.weights} produced NaN or infinite values.")
        arrays = {name: arrays[names[name]] for name in outputs}
        if self.calibration and "probabilities" in outputs:
            arrays["probabilities"] = self.calibration.probabilities(arrays["probabilities"])
        return arrays

    def stream(
        self,
        sources: Iterable[S],
        load: Callable[[S, int], Loaded],
        outputs: Sequence[str],
        *,
        crops: int,
        batch_size: int,
        threads: int,
        is_isolated: bool,
    ) -> Iterator[Result[S]]:
        """Yield the result of each source, in order, with outputs averaged over crops. See ``pipeline.stream``.

        Args:
            sources: The sources.
            load: Loads a source; see ``pipeline.stream``.
            outputs: The names of the outputs.
            crops: The number of crops of each image.
            batch_size: The number of images per batch, each crop counting as one.
            threads: The number of threads.
            is_isolated: Whether worker processes decode, one for each thread.
        """
        engine = self.engine
        results = stream(
            sources,
            load,
            partial(self.run, outputs=tuple(outputs)),
            batch_size=-(-batch_size // crops),
            threads=self._pipeline_threads(threads, is_isolated),
            prepare=engine.load,
            concurrent=engine.concurrent,
        )
        for result in results:
            # The mean over a single crop is that crop, bit for bit.
            yield result._replace(outputs={name: rows.mean(axis=0) for name, rows in result.outputs.items()})

    def _pipeline_threads(self, threads: int, is_isolated: bool) -> int:
        """Return the number of threads for the pipeline: some decode while as many as there are cores compute."""
        if not self.engine.concurrent or threads == 1:
            return threads
        extra = min(threads, engines.available_cores())
        if is_isolated:  # each needs a process, and in float32 decoding takes a small part of the time
            extra = 0 if self.precision == "float32" else -(-extra // 2)
        return threads + extra

    def check_head(self) -> None:
        """Check that the network has a head that is supported.

        Raises:
            CheckpointError: There is no head, or it is not supported.
            UsageError: The activation of its single output is not stated.
        """
        if self.metadata.head_error:
            hint = "The network without its head can be used for embeddings, and as the start of a training run."
            try:
                self.read_checkpoint()
            except (CheckpointError, UsageError) as error:
                raise type(error)(f"{error} {hint}") from error
        if not self.engine.config.classes:
            raise CheckpointError(
                f"{self.weights} contains a network without a head, which cannot classify. It can be used for"
                " embeddings, and as the start of a training run."
            )

    def read_checkpoint(self) -> Checkpoint:
        """Read the checkpoint again, with its arrays. Raises ``CheckpointError``."""
        from densenet_cli.weights import checkpoint

        return checkpoint.read(*self._read_arguments)
