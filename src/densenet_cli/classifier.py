"""The Python API: ``Classifier`` turns images into predictions, embeddings, and explanations."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Self, TypeVar, Unpack

from densenet_cli import engines
from densenet_cli.engines import BATCH_SIZE, available_cores
from densenet_cli.errors import UsageError
from densenet_cli.images import DECODE_MEMORY, sources
from densenet_cli.images.loading import ImageLoader
from densenet_cli.images.normalization import normalize
from densenet_cli.images.sources import Source
from densenet_cli.model import Model
from densenet_cli.model_preprocessing import ModelOptions, resolve
from densenet_cli.pipeline import Result, stream
from densenet_cli.predictor import Decisions, Predictor
from densenet_cli.results import Embedding, Prediction

if TYPE_CHECKING:
    from densenet_cli._types import DownloadProgress, FloatArray, ImageInput, PathLike
    from densenet_cli.explain.cam import Explainer, Explanation
    from densenet_cli.images.decoding import Loaded
    from densenet_cli.images.previews import Preview
    from densenet_cli.weights.contents import Checkpoint

S = TypeVar("S", bound=Source)


class Classifier:
    """A DenseNet with its weights and labels.

        with Classifier("121") as classifier:
            print(classifier.predict("cat.jpg").scores[0].label)

    Args:
        variant: Name of a variant, such as ``169`` or ``tiny``. Defaults to ``121``, or to the variant that ``weights``
            contains. If both are given, they must match.
        weights: Checkpoint to use instead of the variant's published weights: a file, a folder that contains one, or
            ``hf://ORGANIZATION/NAME`` on the Hugging Face Hub.
        labels: File of class names (text, JSON, YAML, or CSV), to use instead of the model's labels.
        engine: ``onnx`` (the default) or ``tensorflow``.
        preprocess: How to fit images to the input: ``crop``, ``squash``, ``pad``, or ``keras``. Defaults to the model's
            mode, or else ``crop``.
        input_size: Side of the square input in pixels. Defaults to the model's input size.
        mean: Mean of each channel for pixels in [0, 1], or one number for all. Like the next four, it is for a
            checkpoint that does not state it, and must not contradict one that does. The default is ImageNet's.
        std: Standard deviation of each channel, likewise.
        interpolation: How to resize: ``bilinear``, ``bicubic``, or ``nearest``.
        crop_ratio: Fraction of the resized image's shorter side that ``crop`` keeps, at most 1.
        activation: What makes probabilities of the outputs: ``softmax`` or, for independent classes, ``sigmoid``.
        uncalibrated: Ignore the calibration in the checkpoint, and report the network's own probabilities.
        exact: Decode large JPEGs at full scale.
        ten_crop: Average over ten crops of each image (``crop`` mode only).
        truncated: ``accept`` to use what there is of an image whose file ends early, and note it in its result.
        bit_depth: Range of values from black to white, for images of more than 8 bits: ``auto``, ``full``, a number of
            bits, or ``LOW:HIGH``.
        pages: Which pages of a TIFF file, or frames of an animation, the methods for many images process: ``first``,
            with a note in the result if there are more, or ``all``.
        batch_size: Number of images per batch, at least 1; 8 by default.
        threads: Number of threads for decoding and for inference. Defaults to the number of cores.
        decode_memory: Memory limit for concurrent decoding in megabytes; 700 by default.
        isolate: Decode in worker processes so that a crash fails one image only. ``close`` ends them.
        timeout: Time limit for decoding one image in seconds, above 0 and at most 86,400. Implies ``isolate``.
        offline: Never access the network, neither for weights nor for images.
        base_url: Where to download weights from, instead of the published URLs.
        progress: Called while weights are downloaded, with (file name, bytes so far, total bytes or None).

    Raises:
        UsageError: A value is invalid or contradicts the checkpoint, or labels do not fit the model's classes.
        IsolationError: No worker process can be started.
        WeightsError: The weights are unavailable or do not fit the variant.

    Attributes:
        model: Name in results, such as ``densenet121``, or the name of the checkpoint's file, folder, or repository.
        weights: Path of the checkpoint.
        config: Configuration of the network.
        metadata: What the checkpoint states besides the network.
        labels: Labels, in the order of the output.
        calibration: The calibration of the probabilities, or None.
        preprocessing: How images are fitted to the input.
        assumptions: What neither the checkpoint nor an argument states, as ``NAME=VALUE``.
        batch_size: Number of images per batch.
        threads: Number of threads.
    """

    def __init__(
        self,
        variant: str | None = None,
        *,
        weights: PathLike | None = None,
        labels: PathLike | None = None,
        engine: str = engines.DEFAULT,
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
        decode_memory: int = DECODE_MEMORY,
        isolate: bool = False,
        timeout: float | None = None,
        offline: bool = False,
        base_url: str | None = None,
        progress: DownloadProgress | None = None,
    ) -> None:
        for name, value in (("batch_size", batch_size), ("threads", threads), ("decode_memory", decode_memory)):
            if value is not None and value < 1:
                raise UsageError(f"`{name}` must be at least 1, not {value}.")
        # Invalid values are rejected before anything is downloaded.
        options = ModelOptions(activation, preprocess, input_size, mean, std, interpolation, crop_ratio)
        checked = options.check(exact, ten_crop, truncated, bit_depth, pages)
        self.batch_size = batch_size
        self.threads = threads = threads or available_cores()
        self._loader = ImageLoader(decode_memory, isolate, timeout, offline)
        self._finalizer = weakref.finalize(self, self._loader.close)
        self._model = model = Model(
            variant,
            weights,
            labels,
            engine,
            threads=threads,
            activation=activation,
            uncalibrated=uncalibrated,
            offline=offline,
            base_url=base_url,
            progress=progress,
        )
        self.model, self.weights, self.labels = model.name, model.weights, model.labels
        self.config, self.metadata, self.calibration = model.engine.config, model.metadata, model.calibration
        self.preprocessing, self.assumptions = resolve(
            options, None if weights is None else model.weights, self.config, self.metadata, checked
        )
        model.engine.normalization = (self.preprocessing.mean, self.preprocessing.std)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the worker processes of ``isolate``. A classifier without them has nothing to close."""
        self._finalizer()

    def predict(
        self, image: ImageInput, top_k: int | None = None, min_prob: float | None = None, **decisions: Unpack[Decisions]
    ) -> Prediction:
        """Classify one image.

        Args:
            image: A path or http(s) URL, also of a page such as ``file.tif[2]``; the bytes of an image file, a binary
                file object, a PIL image, or a uint8 RGB array of shape (height, width, 3).
            top_k: Maximum number of classes to return, at least 1. Defaults to 5, or to all for a multi-label model.
            min_prob: Leave out classes with a lower probability, in [0, 1]. Defaults to 0, or, for a multi-label model
                without ``top_k``, to 0.5 or the thresholds of its calibration.
            **decisions: What a calibrated model must guarantee; see ``Decisions``.

        Raises:
            UsageError: A value is invalid, or the model lacks the calibration for it.
            ImageError: The image cannot be classified. The subclass says why.
        """
        return self.predictor(top_k, min_prob, **decisions)(self._process(image))

    def predict_many(
        self,
        images: Iterable[ImageInput],
        top_k: int | None = None,
        min_prob: float | None = None,
        **decisions: Unpack[Decisions],
    ) -> Iterator[Prediction]:
        """Classify any number of images lazily and in order, in constant memory.

        Args:
            images: What ``predict`` accepts; paths can also be folders or globs. Iterated in a separate thread.
            top_k: See ``predict``.
            min_prob: See ``predict``.
            **decisions: See ``Decisions``.

        Yields:
            A prediction per image, or page with ``pages="all"``, with its ``error`` if the image failed.

        Raises:
            UsageError: A value is invalid, or ``images`` is a single image.
        """
        predictor = self.predictor(top_k, min_prob, **decisions)
        results = self.stream(self._loader.expand(images, self.preprocessing.pages))
        return (predictor(result) for result in results)

    def embed(self, image: ImageInput) -> Embedding:
        """Compute the feature vector of one image, for search and near-duplicates. See ``predict`` for the arguments.

        The vector is the average of the last feature maps, or their maximum if the model's head takes it.
        """
        return self.embedding(self._process(image, ("features",)))

    def embed_many(self, images: Iterable[ImageInput]) -> Iterator[Embedding]:
        """Compute the feature vectors of any number of images, as ``predict_many`` does."""
        return map(self.embedding, self.stream(self._loader.expand(images, self.preprocessing.pages), ("features",)))

    def explain(self, image: ImageInput, top_k: int = 1, classes: Sequence[int | str] | None = None) -> Explanation:
        """Compute class activation maps: which regions of one image drove its prediction.

        Args:
            image: As for ``predict``.
            top_k: Number of most probable classes to explain, at least 1.
            classes: Explain these instead: the label, WordNet ID, or index of each.

        Raises:
            UsageError: A class is unknown, or the classifier uses ``ten_crop``.
            ImageError: The image cannot be classified.
        """
        explainer = self.explainer(top_k, classes)
        return explainer(self._process(image, explainer.outputs, explainer.preview))

    def explain_many(
        self, images: Iterable[ImageInput], top_k: int = 1, classes: Sequence[int | str] | None = None
    ) -> Iterator[Explanation]:
        """Explain any number of images, as ``predict_many`` classifies them."""
        explainer = self.explainer(top_k, classes)
        results = self.stream(
            self._loader.expand(images, self.preprocessing.pages), explainer.outputs, preview=explainer.preview
        )
        return map(explainer, results)

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
            batch_size: Number of images per batch; None for the classifier's.
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

        engine = self._model.engine
        threads = threads or self.threads
        results = stream(
            sources,
            load,
            partial(self._model.run, outputs=tuple(outputs)),
            batch_size=-(-(batch_size or self.batch_size) // preprocessing.crops),
            # While as many threads as there are cores compute, the others decode.
            threads=threads + min(threads, available_cores()) if engine.concurrent and threads > 1 else threads,
            prepare=engine.load,
            concurrent=engine.concurrent,
        )
        for result in results:
            # The mean over a single crop is that crop, bit for bit.
            yield result._replace(outputs={name: rows.mean(axis=0) for name, rows in result.outputs.items()})

    def load(self, image: ImageInput | Source) -> FloatArray:
        """Decode one image to the network's input: normalized pixels, float32 (crops, height, width, channels).

        Raises:
            ImageError: The image cannot be decoded.
        """
        pixels = self._loader.load(sources.from_object(image), self.preprocessing).pixels
        return normalize(pixels, self.preprocessing.mean, self.preprocessing.std)

    def run(
        self, pixels: FloatArray, outputs: Sequence[str] = ("probabilities",), *, alone: bool = True
    ) -> dict[str, FloatArray]:
        """Run the network on normalized pixels (n, height, width, channels). Return n rows, float32, of each output.

        Several threads can call this at the same time if ``is_concurrent``, and should then pass ``alone=False``.

        Raises:
            CheckpointError: The network produced NaN or infinite values.
        """
        return self._model.run(pixels, tuple(outputs), alone)

    def predictor(
        self, top_k: int | None = None, min_prob: float | None = None, **decisions: Unpack[Decisions]
    ) -> Predictor:
        """Return a callable that converts results with ``probabilities``. See ``predict`` for the arguments."""
        model = (self.model, self.labels, self.config.is_multi_label, self.calibration, self.preprocessing)
        return Predictor(*model, top_k, min_prob, **decisions)

    def embedding(self, result: Result[S]) -> Embedding:
        """Convert a result with ``features`` to an ``Embedding``."""
        return Embedding.of(result, self.model, self.config.pooling)

    def explainer(self, top_k: int = 1, classes: Sequence[int | str] | None = None) -> Explainer:
        """Return a callable that converts results to explanations. See ``explain`` for the arguments.

        The results must have its ``outputs`` and ``preview``: ``stream(sources, explainer.outputs,
        preview=explainer.preview)``.
        """
        from densenet_cli.explain.cam import Explainer

        self.predictor(top_k)  # raises if the number is invalid
        head = self._model.engine.head
        return Explainer(self.model, self.labels, self.preprocessing, self.config, head, top_k, classes)

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

    def _process(
        self, image: ImageInput, outputs: Sequence[str] = ("probabilities",), preview: type[Preview] | None = None
    ) -> Result[Source]:
        """Return the result of one image, or raise its ``ImageError``."""
        (result,) = self.stream([sources.from_object(image)], outputs, preview=preview, threads=1)
        if result.error:
            raise result.error
        return result
