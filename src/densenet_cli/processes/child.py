"""A process that runs the model: receives sources and sends results until the parent ends."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from densenet_cli.engines import available_outputs
from densenet_cli.images.archives.contents import from_json as contents_from_json
from densenet_cli.images.decoding import Loaded
from densenet_cli.images.isolation.child import Channel, Header, end_with_parent, prefer_oom_kill
from densenet_cli.images.loading import ImageLoader
from densenet_cli.images.pages import Part
from densenet_cli.images.prefetching import prefetch
from densenet_cli.images.preprocessing import Preprocessing
from densenet_cli.images.previews import PREVIEWS
from densenet_cli.images.sources import Source
from densenet_cli.model import Model
from densenet_cli.processes.budget import SharedBudget

if TYPE_CHECKING:
    from densenet_cli.pipeline import Result

MAX_LENGTH = (1 << 63) - 1

PAUSE = 3e-3
"""Seconds in which results are collected, to send fewer messages."""

MAX_RESULTS = 64
MAX_RESULTS_BYTES = 8 << 20
"""Limits of a message, of which the second can be exceeded by one result."""


def main(connection: int) -> None:
    """Serve one stream of sources after another until the parent closes the connection.

    Args:
        connection: File descriptor of the socket to the parent. Standard input is a pipe that closes when the parent
            ends.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # may reach the whole group; the parent decides
        signal.signal(number, signal.SIG_IGN)
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    end_with_parent(lifeline=0)
    prefer_oom_kill()
    with open(connection, "rb") as reader, open(os.dup(connection), "wb") as writer:
        channel = Channel(reader, writer)
        if not channel.receive():
            return
        try:
            worker = ImageWorker(channel, **channel.header)
        except Exception as error:
            channel.send(_describe(error))
            return
        channel.send({"ready": True})
        while channel.receive():
            worker.stream(**channel.header)


class ImageWorker:
    """A model and its loader, which compute the sources in a channel.

    Args:
        channel: The connection to the parent.
        model: Arguments of ``Model``: those of the parent, with the path of its checkpoint.
        quantization: The quantization of the network for int8, or None.
        preprocessing: The fields of ``Preprocessing``.
        batch_size: Number of images per batch.
        threads: Number of threads.
        budget: Arguments of ``SharedBudget``.
        isolate: Decode in worker processes.
        timeout: Time limit for decoding one image in seconds, or None.
        offline: Do not download images.
    """

    def __init__(
        self,
        channel: Channel,
        *,
        model: dict[str, Any],
        quantization: list[Any] | None,
        preprocessing: dict[str, Any],
        batch_size: int,
        threads: int,
        budget: list[Any],
        isolate: bool,
        timeout: float | None,
        offline: bool,
    ) -> None:
        import numpy as np

        self._channel = channel
        self._batch_size, self._threads = batch_size, threads
        self._preprocessing = Preprocessing(**preprocessing)
        self._prefetch: Callable[[Iterator[_Source]], Iterator[_Source]] = iter if offline else prefetch
        self._loader = ImageLoader(SharedBudget(*budget), isolate, timeout, offline)
        self._model = Model(**model, label_file=None, threads=threads, offline=offline)
        engine: Any = self._model.engine
        engine.normalization = (self._preprocessing.mean, self._preprocessing.std)
        if quantization:
            from densenet_cli.engines.int8_graph import Quantization

            engine.quantization = Quantization(*quantization)
        engine.load()
        side = self._preprocessing.input_size
        self._shape = (self._preprocessing.crops, side, side, self._preprocessing.channels)
        # Compiles the network, so that the process is fast when it is ready.
        engine.run(np.zeros((1, *self._shape[1:]), np.uint8), available_outputs(engine.config)[-1:], alone=False)

    def stream(self, outputs: list[str], preview: str | None) -> None:
        """Compute the sources that follow in the channel and send their results."""
        preview_kind = PREVIEWS[preview] if preview else None

        def load(source: _Source, _index: int) -> Loaded:
            if source.kind == "array":
                return Loaded(source.origin)
            return self._loader.load(source, self._preprocessing, preview_kind if source.needs_preview else None)

        sender = _Sender(self._channel, outputs)
        try:
            for result in self._model.stream(
                self._prefetch(self._receive()),
                load,
                outputs,
                crops=self._preprocessing.crops,
                batch_size=self._batch_size,
                threads=self._threads,
                is_isolated=self._loader.is_isolated,
            ):
                sender.put(result)
        except Exception as error:
            sender.put(error)
            sender.finish()
            os._exit(1)  # a thread may still be receiving sources
        sender.finish()

    def _receive(self) -> Iterator[_Source]:
        """Yield the sources that the parent sends, up to the end of the stream."""
        import numpy as np

        while self._channel.receive(MAX_LENGTH):
            if "sources" not in self._channel.header:
                return
            pixels = np.frombuffer(self._channel.data, np.uint8).reshape(-1, *self._shape)
            number = 0
            for kind, origin, page, location, needs_preview in self._channel.header["sources"]:
                if kind == "array":
                    yield _Source("", pixels[number], "array")
                    number += 1
                else:
                    if kind == "member":
                        origin = contents_from_json(origin)
                    place = Part(*location) if isinstance(location, list) else location
                    yield _Source("", origin, kind, page=page, location=place, needs_preview=needs_preview)
        os._exit(1)  # the parent has closed the connection


@dataclass(frozen=True, slots=True)
class _Source(Source):
    """A source that the parent sent. An ``array`` is not an image, but pixels that the parent has loaded."""

    needs_preview: bool = False


class _Sender:
    """A thread that sends results, or the exception that ends the stream."""

    def __init__(self, channel: Channel, outputs: list[str]) -> None:
        self._channel, self._outputs = channel, outputs
        self._results: SimpleQueue[Result[Any] | Exception | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._send_all, daemon=True)
        self._thread.start()

    def put(self, item: Result[Any] | Exception) -> None:
        """Send a result soon."""
        self._results.put(item)

    def finish(self) -> None:
        """Wait until everything is sent."""
        self._results.put(None)
        self._thread.join()

    def _send_all(self) -> None:
        try:
            self._send_until_end()
        except BaseException:  # the parent has closed the connection, or waits for results that cannot be sent
            os._exit(1)

    def _send_until_end(self) -> None:
        while (item := self._results.get()) is not None:
            header: Header = {"results": []}
            pieces: list[Any] = []
            size = 0
            time.sleep(PAUSE)
            while item is not None and not isinstance(item, Exception):
                entry, arrays = self._encode(item, header)
                header["results"].append(entry)
                pieces += arrays
                size += sum(map(len, arrays))
                if len(header["results"]) == MAX_RESULTS or size >= MAX_RESULTS_BYTES:
                    break
                try:
                    item = self._results.get_nowait()
                except Empty:
                    break
            if header["results"]:
                self._channel.send(header, b"".join(pieces))
            if isinstance(item, Exception):
                self._channel.send(_describe(item))
            if item is None:
                break

    def _encode(self, result: Result[Any], header: Header) -> tuple[dict[str, Any], list[bytes]]:
        """Return what the header says about a result, and the bytes that follow."""
        if result.error:
            return {"error": result.error.type, "message": str(result.error)}, []
        arrays = [result.outputs[name] for name in self._outputs]
        header["shapes"] = [array.shape for array in arrays]
        pieces = [array.tobytes() for array in arrays]
        entry: dict[str, Any] = {}
        if result.notes:
            entry["notes"] = result.notes
        if result.preview:
            pieces.append(result.preview.to_bytes())
            entry["preview"] = len(pieces[-1])
        return entry, pieces


def _describe(error: Exception) -> Header:
    """Return a message about an exception that ends the process's work."""
    import traceback

    return {
        "failure": type(error).__name__,
        "message": str(error),
        "traceback": "".join(traceback.format_exception(error))[-8000:],
    }
