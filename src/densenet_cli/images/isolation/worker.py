"""The parent's end of one decoding process."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import asdict
from math import prod
from typing import TYPE_CHECKING, Any

from densenet_cli.errors import (
    DecoderCrashedError,
    DecodingTimedOutError,
    ImageError,
    ImageTooLargeError,
    IsolationError,
    SourceNotFoundError,
    SourceUnreadableError,
    UnreadableImageError,
)
from densenet_cli.images.decoding import NOTES, Loaded
from densenet_cli.images.isolation.child import Header, pack_header, receive_message
from densenet_cli.images.memory import MEGABYTE, DecodeBudget
from densenet_cli.images.reading import Animation

if TYPE_CHECKING:
    from densenet_cli.images.preprocessing import Preprocessing
    from densenet_cli.images.previews import Preview
    from densenet_cli.images.sources import Source

CHILD_CODE = (
    "import json, sys; settings = json.loads(sys.argv[1]); sys.path[:] = settings.pop('path'); "
    "from densenet_cli.images.isolation.child import main; main(**settings)"
)
"""What the process runs. It gets this process's import path."""

START_TIMEOUT = 60.0
"""Seconds for the interpreter to start."""

EXIT_TIMEOUT = 2.0
"""Seconds to wait for a killed process to exit. The system may not let it go, for example on a network file system."""

SUSPENSION_DELAY = 0.5
"""A timer that is late by more seconds than this means that this process was suspended (Ctrl-Z)."""

CHILD_ERRORS: dict[object, type[ImageError]] = {
    kind.__name__.removesuffix("Error"): kind
    for kind in (SourceNotFoundError, SourceUnreadableError, UnreadableImageError, ImageTooLargeError)
}
"""Error types that a process may report. Any other becomes an ``UnreadableImageError``."""


class Worker:
    """A process that decodes one image at a time.

    Args:
        budget: Memory that the images of all processes share.
        timeout: Maximum seconds for an image, not counting the wait for memory; None for no limit.

    Attributes:
        images: Number of images that the process was given.
        animation: The animation that the process has open, or None.
        is_usable: Whether it can decode another image. False while it decodes, and forever after a failure.

    Raises:
        IsolationError: The process cannot be started.
    """

    def __init__(self, budget: DecodeBudget, timeout: float | None) -> None:
        self.images = 0
        self.animation: Animation | None = None
        self.is_usable = True
        self._budget, self._timeout = budget, timeout
        self._is_ready = False
        self._folder = _current_folder()
        try:
            self._connection, child_connection = socket.socketpair()
            with child_connection:
                self._process = self._start(child_connection.fileno())
        except OSError as error:
            raise IsolationError(f"Cannot start a decoding process: {error.strerror}.") from error

    def _start(self, child_connection: int) -> subprocess.Popen[bytes]:
        settings = {
            "path": [entry for entry in sys.path if isinstance(entry, str)],
            "connection": child_connection,
            "decode_memory": self._budget.bytes // MEGABYTE,
        }
        try:
            return subprocess.Popen(
                # -P: do not import modules from the current folder, which may hold files from anywhere.
                [sys.executable, "-P", "-c", CHILD_CODE, json.dumps(settings)],
                stdin=subprocess.PIPE,  # closes when this process ends, which ends the child
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[child_connection],
            )
        except OSError:
            self._connection.close()
            raise

    def wait_until_ready(self) -> None:
        """Wait until the process can decode.

        Raises:
            IsolationError: The process failed to start.
        """
        if self._is_ready:
            return
        try:
            receive_message(_TimedConnection(self._connection, START_TIMEOUT).read, max_bytes=0)
        except (OSError, EOFError, ValueError):
            self.is_usable = False
            raise IsolationError(f"Cannot start a decoding process: it {describe_exit(self._process)}.") from None
        self._is_ready = True

    def load(self, source: Source, preprocessing: Preprocessing, preview: type[Preview] | None) -> Loaded:
        """Load an image like ``decoding.load``.

        Args:
            source: The image, of the kind "path" or "bytes". A path is in the file system's encoding.
            preprocessing: How to fit the image to the network's input.
            preview: The kind of preview to make, if any.

        Raises:
            DecoderCrashedError, DecodingTimedOutError: The process ended or must be ended.
            ImageError: As for ``decoding.load``.
        """
        self.images += 1
        self.is_usable = False
        try:
            header, data = self._request(source, preprocessing, preview)
            if "error" in header:
                failure = CHILD_ERRORS.get(header["error"], UnreadableImageError)(str(header["message"]))
            else:
                failure, loaded = None, _parse_pixels(data, preprocessing, preview, header["notes"])
        except TimeoutError:
            raise DecodingTimedOutError(f"Decoding took longer than {self._timeout:g} s.") from None
        except (OSError, EOFError):
            raise DecoderCrashedError(f"The decoding process {describe_exit(self._process)}.") from None
        except (ValueError, TypeError, KeyError, OverflowError):
            raise DecoderCrashedError("The decoding process sent an invalid response.") from None
        self.is_usable = not header.get("last")
        if failure:
            raise failure
        return loaded

    def _request(
        self, source: Source, preprocessing: Preprocessing, preview: type[Preview] | None
    ) -> tuple[Header, bytes]:
        """Send an image and return the response. Memory for it is reserved when the process asks for it."""
        connection = _TimedConnection(self._connection, self._timeout)
        origin: bytes = source.origin
        if source.kind == "path" and (folder := _current_folder()) != self._folder:
            origin = os.path.join(folder, origin)  # the process is still in the folder where it was started
        animation = source.location if isinstance(source.location, Animation) else None
        is_last = animation is not None and source.page == animation.frames - 1
        self.animation = None if is_last else animation
        request = {
            "kind": source.kind,
            "page": source.page,
            "offset": source.location if isinstance(source.location, int) else None,
            "animation": animation.number if animation else None,
            "preprocessing": asdict(preprocessing),
            "preview": preview.__name__ if preview else None,
        }
        with ExitStack() as reservation:
            header, data = connection.exchange(request, origin)
            for _ in range(2 if preview else 1):  # a preview may need another decode at a larger scale
                if "reserve" not in header:
                    break
                reservation.close()
                needed = int(header["reserve"])
                if not 0 <= needed <= self._budget.bytes:
                    raise ValueError(needed)
                reservation.enter_context(self._budget.reserve(needed))
                max_bytes = prod(_shape(preprocessing)) + (preview.max_bytes if preview else 0)
                header, data = connection.exchange({"reserved": True}, max_bytes=max_bytes)
        return header, data

    def kill(self) -> None:
        """Kill the process. A thread that waits for its response gets an error."""
        self._process.kill()

    def end(self) -> None:
        """Kill the process and release its resources. No thread may be waiting for its response."""
        self.kill()
        self._connection.close()
        if self._process.stdin:
            self._process.stdin.close()
        self.wait()

    def wait(self) -> None:
        """Wait until the process has exited."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(EXIT_TIMEOUT)


class _TimedConnection:
    """Exchanges messages with a process within a time limit. Only the time inside ``exchange`` counts.

    This is not ``multiprocessing.connection``, whose ``recv_bytes`` has no timeout once a message has begun. Killing
    the process would not wake it either if a compromised decoder has forked and the copy keeps the socket open.
    """

    def __init__(self, connection: socket.socket, timeout: float | None) -> None:
        self._connection = connection
        self._remaining = timeout
        self._started = time.monotonic()

    def exchange(self, header: Header, data: bytes = b"", max_bytes: int = 0) -> tuple[Header, bytes]:
        """Send a message and return the response, which may have up to ``max_bytes`` raw bytes.

        Raises:
            TimeoutError: The time limit was exceeded.
            OSError, EOFError: The process ended.
            ValueError: The response is invalid.
        """
        self._started = time.monotonic()
        self._transfer(self._connection.send, pack_header(header, len(data)))
        self._transfer(self._connection.send, data)
        response = receive_message(self.read, max_bytes)
        if self._remaining is not None:
            self._remaining -= time.monotonic() - self._started
        return response

    def read(self, size: int) -> bytes:
        """Read exactly ``size`` bytes."""
        data = bytearray(size)
        self._transfer(self._connection.recv_into, data)
        return bytes(data)

    def _transfer(self, operation: Callable[[memoryview], int], data: bytes | bytearray) -> None:
        """Send or receive all bytes of ``data`` with a socket operation that transfers some and returns how many."""
        view = memoryview(data)
        while view:
            try:
                self._set_timeout()
                count = operation(view)
            except TimeoutError:
                if self._was_suspended():
                    continue
                raise
            if not count:
                raise EOFError
            view = view[count:]

    def _was_suspended(self) -> bool:
        """Return whether the limit passed long ago, so the whole run was suspended (Ctrl-Z). Restart the time then."""
        now = time.monotonic()
        if self._remaining is None or now - self._started - self._remaining < SUSPENSION_DELAY:
            return False
        self._started = now
        return True

    def _set_timeout(self) -> None:
        """Limit the next socket operation to the remaining time."""
        remaining = None if self._remaining is None else self._started + self._remaining - time.monotonic()
        if remaining is not None and remaining <= 0:
            raise TimeoutError
        self._connection.settimeout(remaining)


def describe_exit(process: subprocess.Popen[bytes]) -> str:
    """Wait for a process that should have exited, and return how it did, as the predicate of a sentence."""
    try:
        status = process.wait(EXIT_TIMEOUT)
    except subprocess.TimeoutExpired:
        return "stopped responding"
    if status >= 0:
        return f"stopped with exit status {status}"
    if status == -signal.SIGKILL:
        return "was killed (SIGKILL), possibly because memory ran out"
    with suppress(ValueError):
        return f"crashed ({signal.Signals(-status).name})"
    return f"crashed (signal {-status})"


def _shape(preprocessing: Preprocessing) -> tuple[int, int, int, int]:
    return preprocessing.crops, preprocessing.input_size, preprocessing.input_size, preprocessing.channels


def _parse_pixels(data: bytes, preprocessing: Preprocessing, preview: type[Preview] | None, notes: Any) -> Loaded:
    """Parse a response: the pixels, then the preview. Raises ``ValueError`` if it is not what was requested."""
    import numpy as np

    shape = _shape(preprocessing)
    size = prod(shape)
    made = preview.from_bytes(data[size:]) if preview else None
    pixels = np.frombuffer(data[:size] if preview else data, np.uint8).reshape(shape)
    return Loaded(pixels, made, tuple(note for note in NOTES if note in notes))


def _current_folder() -> bytes:
    """Return the current folder, or nothing if it was deleted or is inaccessible."""
    try:
        return os.getcwdb()
    except OSError:
        return b""
