"""Stream sources through decoding and inference, in threads, with the results in the order of the sources.

One thread walks the sources, and ``threads`` threads decode them. With an engine that several threads can call at the
same time, each of these threads also computes the image that it has decoded, so that nothing waits for a batch. With
others, the caller's thread computes batches. At most ``window`` images are in flight, so memory use does not grow with
the number of images. An image that fails is a result with an error, in its place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

from densenet_cli.errors import ImageError
from densenet_cli.workers import Slot, Workers

if TYPE_CHECKING:
    from densenet_cli._types import FloatArray
    from densenet_cli.images.decoding import Loaded
    from densenet_cli.images.previews import Preview

S = TypeVar("S")

MAX_BATCHES_AHEAD = 4
"""Limit of decoding threads, in batches. More threads would only hold more images in memory."""

WINDOW = 40
"""Images in flight besides two per thread, if threads compute: finished ones wait here for one that takes long."""


class Result(NamedTuple, Generic[S]):
    """The outcome of one source: outputs or an error.

    Attributes:
        source: The source.
        outputs: Name -> array with a row per crop (``Classifier.stream`` averages them); empty if there is an error.
        error: Why there are no outputs, or None.
        preview: The preview, if one was requested and the image could be decoded.
        notes: What there is to say about the image; see ``images.decoding.NOTES``.
    """

    source: S
    outputs: dict[str, FloatArray]
    error: ImageError | None = None
    preview: Preview | None = None
    notes: tuple[str, ...] = ()


def stream(
    sources: Iterable[S],
    load: Callable[[S, int], Loaded],
    run: Callable[..., dict[str, FloatArray]],
    *,
    batch_size: int,
    threads: int,
    prepare: Callable[[], None] = lambda: None,
    concurrent: bool = False,
) -> Iterator[Result[S]]:
    """Yield the result of each source, in order.

    Args:
        sources: Anything that ``load`` accepts; walked in a separate thread, not far ahead.
        load: Called with a source and its number (from 0) in a worker thread. Raises ``ImageError``.
        run: Called with pixels of shape (n, height, width, channels); returns name -> array of n rows. By default,
            called in this thread with the concatenated crops of several images. If ``concurrent``, called in the worker
            threads with the crops of one image each, and with ``alone``: whether no other image is in flight.
        batch_size: Maximum number of images per call of ``run``, at least 1. Not used if ``concurrent``.
        threads: Number of worker threads, at least 1. Without ``concurrent``, at most
            ``MAX_BATCHES_AHEAD * batch_size`` are started.
        prepare: Called once while the first images are being decoded, to load whatever ``run`` needs.
        concurrent: Whether several threads may call ``run`` at the same time.

    Raises:
        Whatever ``sources``, ``run``, or (except ``ImageError``) ``load`` raise.
    """
    if concurrent:
        workers = Workers(sources, load, run, window=WINDOW + 2 * threads, threads=threads)
    else:
        decoders = min(threads, MAX_BATCHES_AHEAD * batch_size)
        workers = Workers(sources, load, None, window=3 * batch_size + decoders, threads=decoders)
    try:
        prepare()
        workers.prepared.set()
        while slots := workers.take() if concurrent else workers.take_batch(batch_size):
            yield from map(_result, slots) if concurrent else _run(slots, run)
    finally:
        workers.stop()


def _run(batch: list[Slot[S]], run: Callable[[FloatArray], dict[str, FloatArray]]) -> Iterator[Result[S]]:
    """Run a batch and split its outputs by image."""
    import numpy as np

    inputs = [slot.loaded.pixels for slot in batch if not isinstance(slot.loaded, ImageError)]
    outputs: Iterator[dict[str, FloatArray]] = iter(())
    if inputs:
        ends = np.cumsum([len(crops) for crops in inputs])[:-1]
        split = {name: np.split(rows, ends) for name, rows in run(np.concatenate(inputs)).items()}
        outputs = (dict(zip(split, arrays, strict=True)) for arrays in zip(*split.values(), strict=True))
    for slot in batch:
        if not isinstance(slot.loaded, ImageError):
            slot.outputs = next(outputs)
        yield _result(slot)


def _result(slot: Slot[S]) -> Result[S]:
    if isinstance(slot.loaded, ImageError):
        return Result(slot.source, {}, slot.loaded)
    return Result(slot.source, slot.outputs, preview=slot.loaded.preview, notes=slot.loaded.notes)
