"""The public face: a network with its weights, and images in, labels out."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from densenet_cli import engines
from densenet_cli.errors import DownloadFailedError, ImageError, UsageError
from densenet_cli.images import decoding, sources
from densenet_cli.images.preprocessing import Preprocessing, normalize
from densenet_cli.model import Model
from densenet_cli.pipeline import stream
from densenet_cli.results import Failure, Prediction, Score

if TYPE_CHECKING:
    import numpy as np

    from densenet_cli.explain.cam import Explanation
    from densenet_cli.images.sources import Source
    from densenet_cli.weights import Progress

    FloatArray = np.ndarray[Any, np.dtype[np.float32]]
    Decoder = Callable[[Source, Preprocessing], np.ndarray[Any, np.dtype[np.uint8]]]

BATCH_SIZE = 8
DECODE_MEMORY = 700
LONGEST_TIMEOUT = 86_400
TOP_K = 5


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Classifier:
    """A DenseNet with its weights.

    ``Classifier("121").predict("cat.jpg", top_k=5)`` gives a ``Prediction``.

    Args:
        variant: a name of the registry; 121 where neither it nor ``weights`` is given. With ``weights``, which then
            must hold that network.
        weights: a checkpoint's file (HDF5, ``.keras``, safetensors) instead of the variant's published one.
        labels: a file of class names, one a line, instead of the model's own.
        engine: ``onnx`` or ``tensorflow``.
        preprocess: a name of ``images.preprocessing.WAYS``; None for the model's own way, else ``crop``.
        input_size: pixels a side of what the network sees, at least as many as leave something behind its
            reductions; None for the model's own.
        exact: never decode a large JPEG at reduced scale.
        ten_crop: average over the paper's ten crops (only with ``crop``).
        batch_size: images computed at once, at least 1.
        threads: threads that compute, and as many that decode; None for the number of cores.
        decode_memory: megabytes that the images being decoded may hold together.
        isolate: decode in processes of their own, which an image may crash; they end with ``close``, or with the
            classifier.
        timeout: seconds that decoding one image may take, above 0 and at most ``LONGEST_TIMEOUT``; it implies
            ``isolate``. None for no limit.
        offline: never touch the network, neither for weights nor for images.
        base_url: where to fetch weights from, instead of the published places.
        progress: called with (file name, bytes done, bytes in all or None) while weights arrive.

    Raises:
        UsageError: a value that isn't allowed, or labels of another number than the head's.
        IsolationError: no process to decode in can be started.
        WeightsError: weights that can't be had, or don't fit.

    Attributes:
        model: the name that results carry: ``densenet121``, or the checkpoint's without its suffix.
        weights: path of the checkpoint in use.
        config: the network's configuration.
        labels: a label for each position of the head.
        preprocessing: how images are prepared.
    """

    _end: Callable[[], object] | None = None

    def __init__(
        self,
        variant: str | None = None,
        *,
        weights: str | os.PathLike[str] | None = None,
        labels: str | os.PathLike[str] | None = None,
        engine: str = engines.DEFAULT,
        preprocess: str | None = None,
        input_size: int | None = None,
        exact: bool = False,
        ten_crop: bool = False,
        batch_size: int = BATCH_SIZE,
        threads: int | None = None,
        decode_memory: int = DECODE_MEMORY,
        isolate: bool = False,
        timeout: float | None = None,
        offline: bool = False,
        base_url: str | None = None,
        progress: Progress | None = None,
    ) -> None:
        for name, value in (("batch_size", batch_size), ("threads", threads), ("decode_memory", decode_memory)):
            if value is not None and value < 1:
                raise UsageError(f"{name} must be at least 1, not {value}.")
        if timeout is not None and not 0 < timeout <= LONGEST_TIMEOUT:
            raise UsageError(f"timeout must be above 0 seconds and at most {LONGEST_TIMEOUT:,}, not {timeout}.")
        self._offline = offline
        self._batch_size = batch_size
        self._threads = threads or cores()
        ways = {"exact": exact, "ten_crop": ten_crop}
        # What is refused is refused before anything is fetched.
        Preprocessing(preprocess or "crop", 224 if input_size is None else input_size, **ways)
        self._decode = self._choose_decoder(decode_memory, isolate or timeout is not None, timeout)
        self._network = Model(
            variant,
            weights,
            labels,
            engine=engine,
            threads=self._threads,
            offline=offline,
            base_url=base_url,
            progress=progress,
        )
        self.model, self.weights, self.labels = self._network.name, self._network.weights, self._network.labels
        self.config = self._network.engine.config
        metadata = self._network.engine.metadata
        mode = preprocess or metadata.preprocess or "crop"
        size = input_size or metadata.input_size or self.config.input_size
        self.preprocessing = Preprocessing(mode, size, **ways)
        if input_size:
            self._check_size(input_size)

    def _check_size(self, input_size: int) -> None:
        from densenet_cli.layers import layers

        try:
            layers(self.config, input_size)
        except ValueError as error:
            raise UsageError(f"The input size can't be {input_size}: {error}.") from None

    def _choose_decoder(self, decode_memory: int, isolate: bool, timeout: float | None) -> Decoder:
        budget = decoding.DecodeBudget(decode_memory)
        if not isolate:
            return partial(decoding.load, budget=budget)
        if os.name != "posix":
            raise UsageError("Decoding in processes of their own (isolate, timeout) is for Linux, macOS and the like.")
        from densenet_cli.images.isolation.workers import Workers

        workers = Workers(budget, timeout)
        self._end = weakref.finalize(self, workers.close)
        return workers.load

    def close(self) -> None:
        """End the processes of ``isolate``, if there are any. No image can be decoded in them then."""
        if self._end:
            self._end()

    def predict(self, image: object, top_k: int = TOP_K, min_prob: float = 0.0) -> Prediction:
        """Classify one image.

        Args:
            image: a path, a URL, encoded bytes, a binary file object, a PIL image, or an array of uint8
                (height, width, 3), RGB.
            top_k: how many classes to give, at least 1; more than there are means all.
            min_prob: leave out classes less probable, in [0, 1].

        Raises:
            ImageError: the image can't be classified; the subclass says why.
        """
        _check_selection(top_k, min_prob)
        source = sources.from_object(image)
        (_, outputs), *_ = self._stream([source], threads=1)
        if isinstance(outputs, ImageError):
            raise outputs
        return self._prediction(source, outputs[0], top_k, min_prob)

    def predict_many(self, images: Iterable[object], top_k: int = TOP_K, min_prob: float = 0.0) -> Iterator[Prediction]:
        """Classify any number of images, streaming, in order; memory does not grow with their number.

        Args:
            images: what ``predict`` takes; a string or path may also be a folder or a glob. It is walked in a
                thread of its own.
            top_k: how many classes to give, at least 1.
            min_prob: leave out classes less probable, in [0, 1].

        Yields:
            A ``Prediction`` an image; where one failed, with its ``error`` set.

        Raises:
            UsageError: ``images`` is itself one image, or another value that isn't allowed.
        """
        return self.classify(sources.expand_objects(images), top_k, min_prob)

    def classify(self, found: Iterable[Source], top_k: int = TOP_K, min_prob: float = 0.0) -> Iterator[Prediction]:
        """Like ``predict_many``, on sources that were expanded already (``images.sources.expand``)."""
        _check_selection(top_k, min_prob)
        return self._classify(found, top_k, min_prob)

    def _classify(self, found: Iterable[Source], top_k: int, min_prob: float) -> Iterator[Prediction]:
        for source, outputs in self._stream(found, self._threads):
            if isinstance(outputs, ImageError):
                yield Prediction(source.name, self.model, error=Failure.of(outputs))
            else:
                yield self._prediction(source, outputs[0], top_k, min_prob)

    def explain(self, image: object, top_k: int = 1, classes: Sequence[int | str] | None = None) -> Explanation:
        """Say where in one image the network saw its classes: class activation maps on the original.

        ``explain("cat.jpg").draw().save("maps.png")``

        Args:
            image: as for ``predict``.
            top_k: maps of how many of the most probable classes, at least 1.
            classes: maps of these instead: label, WordNet id or index of each.

        Raises:
            UsageError: ten crops; a class that the model doesn't know.
            ImageError: the image can't be classified.
        """
        source = sources.from_object(image)
        (_, explained), *_ = self._explain([source], 1, top_k, classes)
        if isinstance(explained, ImageError):
            raise explained
        return explained

    def explain_many(
        self, images: Iterable[object], top_k: int = 1, classes: Sequence[int | str] | None = None
    ) -> Iterator[Explanation]:
        """Explain any number of images, streaming, in order: ``images`` as for ``predict_many``.

        Yields an ``Explanation`` an image; where one failed, with its ``error`` set. Raises as ``explain``.
        """
        return self.explain_sources(sources.expand_objects(images), top_k, classes)

    def explain_sources(
        self, found: Iterable[Source], top_k: int = 1, classes: Sequence[int | str] | None = None
    ) -> Iterator[Explanation]:
        """Like ``explain_many``, on sources that were expanded already (``images.sources.expand``)."""
        from densenet_cli.explain.cam import Explanation

        return (
            Explanation(source.name, self.model, error=Failure.of(explained))
            if isinstance(explained, ImageError)
            else explained
            for source, explained in self._explain(found, self._threads, top_k, classes)
        )

    def _explain(
        self, found: Iterable[Source], threads: int, top_k: int, classes: Sequence[int | str] | None
    ) -> Iterator[tuple[Source, Explanation | ImageError]]:
        from densenet_cli.explain.cam import Explainer

        _check_selection(top_k, 0)
        explainer = Explainer(self.model, self.labels, self.preprocessing, self._network.engine.head)
        choose = explainer.chooser(top_k, classes)
        streamed = self._stream(explainer.remember(found), threads, ("probabilities", "features"))
        return ((source, explainer.explain(source, outputs, choose)) for source, outputs in streamed)

    def probabilities(self, images: Iterable[object]) -> Iterator[tuple[str, FloatArray | ImageError]]:
        """Each image's name and the probabilities of all classes, float32 (classes,), or the error it ended in."""
        for source, outputs in self._stream(sources.expand_objects(images), self._threads):
            yield source.name, outputs if isinstance(outputs, ImageError) else outputs[0]

    def embed(self, images: Iterable[object]) -> Iterator[tuple[str, FloatArray | ImageError]]:
        """Each image's name and its vector, for search and the like, or the error it ended in; streaming, in order.

        A vector is float32 (channels,): the last feature maps, averaged (``keras.applications`` with
        ``include_top=False, pooling="avg"``). Args and errors are those of ``predict_many``.
        """
        streamed = self._stream(sources.expand_objects(images), self._threads, ("features",))
        return (
            (source.name, out if isinstance(out, ImageError) else out[0].mean(axis=(0, 1))) for source, out in streamed
        )

    def thumbnail(self, source: Source) -> bytes | None:
        """A small JPEG of an image (``images.thumbnails``), for which it is decoded anew; None where that fails."""
        from dataclasses import replace

        from densenet_cli.images.previews import Thumbnail

        thumbnail = Thumbnail()
        with suppress(ImageError):
            self._load(replace(source, thumbnail=thumbnail))
        return thumbnail.data

    def _stream(
        self, found: Iterable[Source], threads: int, outputs: tuple[str, ...] = ("probabilities",)
    ) -> Iterator[tuple[Source, tuple[FloatArray, ...] | ImageError]]:
        """Each source with what the engine gives for it (names among ``engines.OUTPUTS``), averaged over its crops."""
        streamed = stream(
            found,
            self._load,
            partial(self._network.run, outputs=outputs),
            batch_size=-(-self._batch_size // self.preprocessing.crops),
            threads=threads,
            prepare=self._network.engine.load,
        )
        for source, arrays in streamed:
            # One crop stays as it is: a mean over one row is that row, bit for bit.
            yield source, arrays if isinstance(arrays, ImageError) else tuple(rows.mean(axis=0) for rows in arrays)

    def _load(self, source: Source) -> FloatArray:
        if self._offline and source.kind == "url":
            raise DownloadFailedError("The image lies on the network, which offline means not to touch.")
        return normalize(self._decode(source, self.preprocessing))

    def _prediction(self, source: Source, probabilities: FloatArray, top_k: int, min_prob: float) -> Prediction:
        best = (-probabilities).argsort(kind="stable")[:top_k]
        scores = (
            Score.of(label, rank, probabilities[position])
            for rank, position in enumerate(best, start=1)
            if probabilities[position] >= min_prob and (label := self.labels[position])
        )
        return Prediction(source.name, self.model, tuple(scores))


def _check_selection(top_k: int, min_prob: float) -> None:
    if top_k < 1:
        raise UsageError(f"top_k must be at least 1, not {top_k}.")
    if not 0 <= min_prob <= 1:
        raise UsageError(f"min_prob must lie between 0 and 1, not {min_prob}.")
