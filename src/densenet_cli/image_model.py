"""A model with its preprocessing, which turns images into the outputs of its network."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Self, TypeVar

from densenet_cli import variants
from densenet_cli.engines import BATCH_SIZE, available_cores, choose_processes
from densenet_cli.errors import UsageError
from densenet_cli.images import DECODE_MEMORY, sources
from densenet_cli.images.loading import ImageLoader, MemberBuffer
from densenet_cli.images.memory import DecodeBudget
from densenet_cli.images.normalization import normalize
from densenet_cli.images.prefetching import prefetch
from densenet_cli.images.sources import Source
from densenet_cli.model import Model
from densenet_cli.model_preprocessing import ModelOptions, resolve

if TYPE_CHECKING:
    from densenet_cli._types import DownloadProgress, FloatArray, ImageInput, PathLike, UInt8Array
    from densenet_cli.engines import Pixels
    from densenet_cli.engines.int8_graph import Quantization
    from densenet_cli.images.decoding import Loaded
    from densenet_cli.images.preprocessing import Preprocessing
    from densenet_cli.images.previews import Preview
    from densenet_cli.pipeline import Result
    from densenet_cli.processes import ProcessPool
    from densenet_cli.weights.contents import Checkpoint

S = TypeVar("S", bound=Source)


class ImageModel:
    """Loads images and runs a network on them. See ``classifier.Classifier`` for the parameters and attributes."""

    def __init__(
        self,
        variant: str | None = None,
        *,
        weights: PathLike | None = None,
        labels: PathLike | None = None,
        engine: str | None = None,
        precision: str = "float32",
        int8_images: PathLike | Quantization | None = None,
        allow_low_agreement: bool = False,
        activation: str | None = None,
        preprocess: str | None = None,
        input_size: int | None = None,
        mean: float | Sequence[float] | None = None,
        std: float | Sequence[float] | None = None,
        interpolation: str | None = None,
        crop_ratio: float | None = None,
        uncalibrated: bool = False,
        exact: bool = False,
        ten_crop: bool = False,
        truncated: str = "refuse",
        bit_depth: str = "auto",
        pages: str = "first",
        batch_size: int = BATCH_SIZE,
        threads: int | None = None,
        processes: int | None = None,
        decode_memory: int = DECODE_MEMORY,
        isolate: bool = False,
        timeout: float | None = None,
        offline: bool = False,
        base_url: str | None = None,
        progress: DownloadProgress | None = None,
        int8_progress: Callable[[int, int], object] | None = None,
    ) -> None:
        counts = {"batch_size": batch_size, "threads": threads, "processes": processes, "decode_memory": decode_memory}
        for name, value in counts.items():
            if value is not None and value < 1:
                raise UsageError(f"`{name}` must be at least 1, not {value}.")
        if processes and processes > 1 and os.name != "posix":
            raise UsageError("`processes` above 1 needs a POSIX system such as Linux or macOS.")
        # Invalid values are rejected before anything is downloaded.
        if precision != "int8" and (int8_images is not None or allow_low_agreement):
            name = "allow_low_agreement" if int8_images is None else "int8_images"
            raise UsageError(f"`{name}` requires the precision int8.")
        options = ModelOptions(activation, preprocess, input_size, mean, std, interpolation, crop_ratio)
        checked = options.check(exact, ten_crop, truncated, bit_depth, pages)
        self.batch_size = batch_size
        self.threads = threads = threads or available_cores()
        self._offline = offline
        budget = DecodeBudget(decode_memory)
        self._loader = ImageLoader(budget, isolate, timeout, offline)
        self._finalizers = [weakref.finalize(self, self._loader.close)]
        self._model = model = Model(
            variant,
            weights,
            labels,
            engine,
            precision,
            threads=threads,
            activation=activation,
            uncalibrated=uncalibrated,
            offline=offline,
            base_url=base_url,
            progress=progress,
        )
        self.model, self.weights, self.labels = model.name, model.weights, model.labels
        self.engine, self.precision = model.engine_name, model.precision
        self.config, self.metadata, self.calibration = model.engine.config, model.metadata, model.calibration
        self.preprocessing, self.assumptions = resolve(
            options, None if weights is None else model.weights, self.config, self.metadata, checked
        )
        model.engine.normalization = (self.preprocessing.mean, self.preprocessing.std)
        self.quantization: Quantization | None = None
        if self.precision == "int8":
            from densenet_cli.int8 import prepare

            self.quantization = prepare(
                model.engine,
                self.preprocessing,
                self._loader,
                int8_images,
                threads,
                allow_low_agreement=allow_low_agreement,
                progress=int8_progress,
            )
        is_scalable = os.name == "posix" and model.engine.concurrent
        self.processes = processes or (choose_processes(threads, self.precision) if is_scalable else 1)
        self._pool: ProcessPool | None = None
        if self.processes > 1:
            from densenet_cli.processes import ProcessPool

            settings = {
                "model": {
                    "variant": variant or (variants.DEFAULT if weights is None else None),
                    "weights": os.fspath(model.weights),
                    "engine": self.engine,
                    "precision": self.precision,
                    "activation": activation,
                    "uncalibrated": uncalibrated,
                },
                "quantization": self.quantization,
                "preprocessing": asdict(self.preprocessing),
                "batch_size": batch_size,
                "isolate": isolate,
                "timeout": timeout,
                "offline": offline,
            }
            self._pool = ProcessPool(self.processes, threads, settings, budget, is_optional=processes is None)
            self._finalizers.append(weakref.finalize(self, self._pool.close))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the processes of ``isolate`` and ``processes``. A classifier without them has nothing to close."""
        for finalizer in self._finalizers:
            finalizer()

    def use_preprocessing(self, preprocessing: Preprocessing) -> None:
        """Prepare images in another way from now on. Processes of ``processes`` do not."""
        self.preprocessing = preprocessing
        self._model.engine.normalization = (preprocessing.mean, preprocessing.std)

    def stream(
        self,
        sources: Iterable[S],
        outputs: Sequence[str] = ("probabilities",),
        *,
        preview: type[Preview] | None = None,
        preview_limit: int | None = None,
        batch_size: int | None = None,
        threads: int | None = None,
    ) -> Iterator[Result[S]]:
        """Decode sources and run the network on them, lazily and in order. All other methods build on this one.

        Args:
            sources: Sources, for example from ``images.sources.expand``. Iterated in a separate thread.
            outputs: ``probabilities``, ``raw_probabilities`` (without calibration), ``logits``, or ``features``.
            preview: Kind of preview to add to results (``Thumbnail`` or ``DisplayImage``), or None.
            preview_limit: Number of results that get a preview, the first ones; None for all.
            batch_size: Number of images per batch; None for the classifier's. Only TensorFlow processes batches. With
                this argument or ``threads``, everything is computed in this process.
            threads: Number of decoding threads; None for the classifier's.

        Yields:
            A result per source. Its outputs are float32 arrays, averaged over crops: ``features`` of shape (rows,
            columns, channels), and all others of shape (classes,).
        """
        if set(outputs) - {"features"}:
            self.check_head()
        preprocessing = self.preprocessing

        def load(source: S, index: int) -> Loaded:
            needs_preview = preview_limit is None or index < preview_limit
            return self._loader.load(source, preprocessing, preview if needs_preview else None)

        def compute(sources: Iterable[S]) -> Iterator[Result[S]]:
            return self._model.stream(
                sources if self._offline else prefetch(sources),
                load,
                outputs,
                crops=preprocessing.crops,
                batch_size=batch_size or self.batch_size,
                threads=threads or self.threads,
                is_isolated=self._loader.is_isolated,
            )

        buffer = MemberBuffer(sources)
        try:
            if self._pool is None or batch_size or threads:
                yield from compute(buffer)
            else:
                from densenet_cli.processes import Request

                yield from self._pool.stream(buffer, compute, load, Request(outputs, preview, preview_limit))
        finally:
            buffer.close()

    def load(self, image: ImageInput | Source) -> FloatArray:
        """Decode one image to the network's input: normalized pixels, float32 (crops, height, width, channels).

        Raises:
            ImageError: The image cannot be decoded.
        """
        return normalize(self.load_pixels(image), self.preprocessing.mean, self.preprocessing.std)

    def load_pixels(self, image: ImageInput | Source) -> UInt8Array:
        """Decode one image to pixels that ``run`` normalizes: uint8 (crops, height, width, channels). See ``load``."""
        return self._loader.load(self.to_source(image), self.preprocessing).pixels

    def to_source(self, image: ImageInput | Source) -> Source:
        """Return the source for one image, which is not read yet. Raises ``UsageError`` if it is none."""
        return sources.from_object(image, offline=self._offline)

    def run(
        self, pixels: Pixels, outputs: Sequence[str] = ("probabilities",), *, alone: bool = True
    ) -> dict[str, FloatArray]:
        """Run the network on pixels (n, height, width, channels). Return n rows, float32, of each output.

        The pixels are uint8, or float32 and normalized.

        Several threads can call this at the same time if ``is_concurrent``, and should then pass ``alone=False``.

        Raises:
            CheckpointError: The network produced NaN or infinite values.
        """
        return self._model.run(pixels, tuple(outputs), alone)

    @property
    def is_concurrent(self) -> bool:
        """Whether the engine is fastest with one image per thread. Otherwise it is fastest with batches."""
        return self._model.engine.concurrent

    def check_head(self) -> None:
        """Raise ``CheckpointError`` if the network has no head, so that it can only compute embeddings."""
        self._model.check_head()

    def read_checkpoint(self) -> Checkpoint:
        """Read the checkpoint with its arrays. Raises ``CheckpointError``."""
        return self._model.read_checkpoint()
