"""The decoding process: receives images and sends pixels or errors until the parent ends.

It imports only what decoding needs, and numpy only for images of more than 8 bits, so that it starts fast.
"""

from __future__ import annotations

import fcntl
import json
import os
import resource
import select
import signal
import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import IO, Any

from densenet_cli.errors import ImageError, guard
from densenet_cli.images import decoding
from densenet_cli.images.memory import DecodeBudget, configure_pillow
from densenet_cli.images.preprocessing import Preprocessing
from densenet_cli.images.previews import PREVIEWS
from densenet_cli.images.reading import Animation
from densenet_cli.images.sources import Source

Header = dict[str, Any]
"""A message is a small JSON object, the header, followed by raw bytes."""

LENGTHS = struct.Struct(">IQ")
"""What precedes a message: the length of its header and the number of raw bytes."""

MAX_HEADER_LENGTH = 1 << 16

OVERHEAD_BYTES = 256 << 20
"""Memory allowed in addition to images: modules imported later, decoder tables, and what an allocator keeps."""

THREAD_OVERHEAD_BYTES = 16 << 20
"""Memory allowed for each thread that a decoder may start (stack and heap). AVIF's starts one per core."""

MAX_GROWTH_BYTES = OVERHEAD_BYTES // 2
"""A process that has grown by more than this between two images is replaced."""


def main(connection: int, decode_memory: int) -> None:
    """Serve decoding requests until the parent closes the connection.

    Args:
        connection: File descriptor of the socket to the parent. Standard input is a pipe that closes when the parent
            ends.
        decode_memory: Megabytes that the images of all processes share.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # may reach the whole group; the parent decides
        signal.signal(number, signal.SIG_IGN)
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    end_with_parent(lifeline=0)
    disable_core_dumps()
    prefer_oom_kill()
    with open(connection, "rb") as reader, open(os.dup(connection), "wb") as writer:
        channel = Channel(reader, writer)
        budget = ParentBudget(channel, decode_memory)
        configure_pillow(budget)  # imports Pillow
        limit_memory(budget.bytes)
        initial_memory = private_memory() or 0
        channel.send({"ready": True})
        animations: dict[int, Animation] = {}
        while channel.receive():
            header, data = _decode(channel, budget, animations)
            has_grown = (private_memory() or 0) > initial_memory + MAX_GROWTH_BYTES
            header["last"] = has_grown and not animations
            channel.send(header, data)


def pack_header(header: Header, size: int = 0) -> bytes:
    """Return the beginning of a message, to be followed by ``size`` raw bytes."""
    text = json.dumps(header).encode("ascii")
    return LENGTHS.pack(len(text), size) + text


def receive_message(
    read: Callable[[int], bytes], max_bytes: int, max_header_length: int = MAX_HEADER_LENGTH
) -> tuple[Header, bytes]:
    """Read and validate a message.

    Args:
        read: Returns exactly as many bytes as requested.
        max_bytes: Maximum number of raw bytes.
        max_header_length: Maximum length of the header in bytes.

    Raises:
        ValueError: The message is invalid or too long.
    """
    length, size = LENGTHS.unpack(read(LENGTHS.size))
    if length > max_header_length or size > max_bytes:
        raise ValueError("message too long")
    try:
        header = json.loads(read(length))
    except RecursionError:
        raise ValueError("header nested too deeply") from None
    if not isinstance(header, dict):
        raise ValueError("header is not an object")
    return header, read(size)


class Channel:
    """Exchanges messages with another process.

    Attributes:
        header, data: The message received last.
    """

    def __init__(self, reader: IO[bytes], writer: IO[bytes]) -> None:
        self._reader, self._writer = reader, writer
        self.header: Header = {}
        self.data = b""

    def send(self, header: Header, data: bytes = b"") -> None:
        """Send a message."""
        self._writer.write(pack_header(header, len(data)))
        self._writer.write(data)
        self._writer.flush()

    def receive(self, max_header_length: int = MAX_HEADER_LENGTH, max_bytes: int = sys.maxsize) -> bool:
        """Wait for the next message. Return False if the other process has closed the connection.

        Raises:
            OSError: The connection is broken.
            ValueError: The message is invalid or too long.
        """
        try:
            self.header, self.data = receive_message(self._read, max_bytes, max_header_length)
        except EOFError:
            return False
        return True

    def _read(self, size: int) -> bytes:
        data = self._reader.read(size)
        if len(data) < size:
            raise EOFError
        return data


class ParentBudget(DecodeBudget):
    """The budget shared by all processes, which the parent manages."""

    def __init__(self, channel: Channel, megabytes: int) -> None:
        super().__init__(megabytes)
        self._channel = channel

    @contextmanager
    def reserve(self, needed: int) -> Iterator[None]:
        """Wait until the parent has reserved the memory. It releases the memory when it gets the response."""
        with super().reserve(needed):  # rejects more than the whole budget
            self._channel.send({"reserve": needed})
            if not self._channel.receive():
                raise EOFError
            yield


def _decode(channel: Channel, budget: DecodeBudget, animations: dict[int, Animation]) -> tuple[Header, bytes]:
    """Decode the image that was just received. ``animations`` holds the one that is open, by its number."""
    header, origin = channel.header, channel.data
    channel.data = b""
    preview_kind = PREVIEWS[header["preview"]] if header["preview"] else None
    path_or_bytes = os.fsdecode(origin) if header["kind"] == "path" else origin
    source = Source("", path_or_bytes, header["kind"], page=header["page"], location=header["offset"])
    try:
        if header["animation"] is not None:
            source = guard(lambda: _find_frame(source, header["animation"], animations))
        preprocessing = Preprocessing(**header["preprocessing"])
        pixels, preview, notes = decoding.load_bytes(source, preprocessing, budget, preview_kind)
    except ImageError as error:
        return {"error": error.type, "message": str(error)}, b""
    return {"pixels": len(pixels), "notes": notes}, pixels + (preview.to_bytes() if preview else b"")


def _find_frame(source: Source, number: int, animations: dict[int, Animation]) -> Source:
    """Return a frame with the animation that is open, or open it instead of another one."""
    from densenet_cli.images.pages import locate

    if animation := animations.get(number):
        source = replace(source, location=animation)
    else:
        animations.clear()
        source = locate(source)
        animations[number] = source.location
    if source.page == source.location.frames - 1:
        animations.clear()
    return source


def end_with_parent(lifeline: int) -> None:
    """Let the kernel kill this process when the parent's end of the pipe ``lifeline`` closes.

    Unlike a watcher thread, this works while a decoder hangs and holds the interpreter lock.
    """
    with suppress(OSError, AttributeError):
        signal.signal(signal.SIGIO, signal.SIG_DFL)  # the default action ends the process
        if hasattr(fcntl, "F_SETSIG"):  # Linux: SIGKILL ends even a stopped process
            fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)
    if select.select([lifeline], [], [], 0)[0]:  # the parent ended before the signal was set up
        sys.exit(1)


def disable_core_dumps() -> None:
    """Write no core file after a crash. A limit of 1 byte also keeps the kernel from piping the core to a program."""
    for limit in (1, 0):
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_CORE, (limit, limit))
            return


def prefer_oom_kill() -> None:
    """Make the kernel kill this process instead of the parent when the machine runs out of memory (Linux)."""
    with suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")


def private_memory() -> int | None:
    """Return the bytes of private writable memory, as ``RLIMIT_DATA`` counts them. None if unknown (not Linux)."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[5]) * resource.getpagesize()
    except OSError:
        return None


def limit_memory(image_bytes: int) -> None:
    """Limit this process to its current memory plus ``image_bytes`` and a fixed overhead (Linux only).

    Other systems do not count all allocations. There the process has no limit.
    """
    current = private_memory()
    if current is None:
        return
    limit = current + image_bytes + OVERHEAD_BYTES + THREAD_OVERHEAD_BYTES * (os.cpu_count() or 1)
    _, hard_limit = resource.getrlimit(resource.RLIMIT_DATA)
    if hard_limit != resource.RLIM_INFINITY:
        limit = min(limit, hard_limit)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
