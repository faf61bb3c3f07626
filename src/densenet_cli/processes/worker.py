"""The parent's end of one process that runs the model."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from math import prod
from typing import TYPE_CHECKING, NamedTuple

from densenet_cli import errors
from densenet_cli.errors import DensenetError, ImageError, ProcessError, UnreadableImageError
from densenet_cli.images.decoding import NOTES
from densenet_cli.images.isolation.child import Channel, Header
from densenet_cli.images.isolation.worker import EXIT_TIMEOUT, describe_exit

if TYPE_CHECKING:
    from densenet_cli._types import FloatArray
    from densenet_cli.images.previews import Preview

CHILD_CODE = (
    "import json, sys; settings = json.loads(sys.argv[1]); sys.path[:] = settings.pop('path'); "
    "from densenet_cli.processes.child import main; main(**settings)"
)
"""What the process runs. It gets this process's import path."""

MAX_HEADER_LENGTH = 1 << 20
MAX_RESULT_BYTES = 1 << 30
"""Maximum length of a message with results. Processes send them in far smaller pieces."""

IMAGE_ERRORS = {kind.__name__.removesuffix("Error"): kind for kind in ImageError.__subclasses__()}
"""Error types that a process may report for an image. Any other becomes an ``UnreadableImageError``."""


class Outcome(NamedTuple):
    """The result of one source, as ``pipeline.Result`` without the source."""

    outputs: dict[str, FloatArray]
    error: ImageError | None = None
    preview: Preview | None = None
    notes: tuple[str, ...] = ()


class WorkerProcess:
    """A process that computes the images of the sources that it is sent, and returns their results in order.

    Args:
        settings: The arguments of ``child.ImageWorker``.
        descriptors: File descriptors that the process inherits.

    Raises:
        ProcessError: The process cannot be started.
    """

    def __init__(self, settings: Header, descriptors: Sequence[int]) -> None:
        self.threads: int = settings["threads"]
        self._outcomes: deque[Outcome] = deque()
        self._outputs: Sequence[str] = ()
        self._preview: type[Preview] | None = None
        try:
            connection, child_connection = socket.socketpair()
            with connection, child_connection:
                self._process = self._start(child_connection.fileno(), descriptors)
                # Buffered, because a message is read in pieces.
                self._files = connection.makefile("rb"), connection.makefile("wb")
                self._channel = Channel(*self._files)
        except OSError as error:
            raise ProcessError(f"Cannot start a process: {error.strerror}.") from error
        with suppress(OSError):  # it has already ended, which wait_until_ready reports
            self._channel.send(settings)

    def _start(self, connection: int, descriptors: Sequence[int]) -> subprocess.Popen[bytes]:
        settings = {"path": [entry for entry in sys.path if isinstance(entry, str)], "connection": connection}
        return subprocess.Popen(
            # -P: do not import modules from the current folder, which may hold files from anywhere.
            [sys.executable, "-P", "-c", CHILD_CODE, json.dumps(settings)],
            stdin=subprocess.PIPE,  # closes when this process ends, which ends the child
            stdout=subprocess.DEVNULL,
            pass_fds=[connection, *descriptors],
        )

    def wait_until_ready(self) -> None:
        """Wait until the process has loaded the model. Raises ``DensenetError`` if it cannot."""
        self._receive()

    def begin(self, outputs: Sequence[str], preview: type[Preview] | None) -> None:
        """Begin a stream of images, whose results have these outputs and kind of preview."""
        self._outputs, self._preview = outputs, preview
        self.send({"outputs": list(outputs), "preview": preview.__name__ if preview else None})

    def send(self, header: Header, data: bytes = b"") -> None:
        """Send a message. Nothing happens if the process has ended, because its next outcome raises an error."""
        with suppress(OSError, ValueError):
            self._channel.send(header, data)

    def next_outcome(self) -> Outcome:
        """Wait for the outcome of the next source and return it.

        Raises:
            ProcessError: The process has ended.
            DensenetError, RuntimeError: It failed with this error, other than for an image.
        """
        while not self._outcomes:
            header = self._receive()
            try:
                self._outcomes.extend(self._parse(header, self._channel.data))
            except (ValueError, TypeError, KeyError, OverflowError):
                raise ProcessError("A process sent an invalid response.") from None
            self._channel.data = b""
        return self._outcomes.popleft()

    def _receive(self) -> Header:
        try:
            is_open = self._channel.receive(MAX_HEADER_LENGTH, MAX_RESULT_BYTES)
        except OSError:
            is_open = False
        except ValueError:  # also raised by a file that was closed
            raise ProcessError("A process sent an invalid response.") from None
        if not is_open:
            raise ProcessError(
                f"One of the processes {describe_exit(self._process)}. Use fewer `processes`, or less memory "
                "with `decode_memory`."
            )
        header = self._channel.header
        if "failure" in header:
            raise _to_error(header)
        return header

    def _parse(self, header: Header, data: bytes) -> list[Outcome]:
        """Parse results: for each the values of its outputs, then its preview."""
        import numpy as np

        shapes = [tuple(map(int, shape)) for shape in header.get("shapes", ())]
        outcomes = []
        start = 0
        for entry in header["results"]:
            if "error" in entry:
                kind = IMAGE_ERRORS.get(entry["error"], UnreadableImageError)
                outcomes.append(Outcome({}, kind(str(entry["message"]))))
                continue
            outputs = {}
            for name, shape in zip(self._outputs, shapes, strict=True):
                values = np.frombuffer(data, np.float32, prod(shape), start)
                start += values.nbytes
                outputs[name] = values.reshape(shape).copy()  # writable, and without the rest of the message
            preview = None
            if (size := entry.get("preview")) and self._preview:
                preview = self._preview.from_bytes(data[start : start + size])
                start += size
            notes = tuple(note for note in NOTES if note in entry.get("notes", ()))
            outcomes.append(Outcome(outputs, None, preview, notes))
        return outcomes

    def kill(self) -> None:
        """Kill the process. A thread that waits for its results gets an error."""
        self._process.kill()

    def end(self) -> None:
        """Kill the process and wait until it has ended."""
        self.kill()
        for file in (*self._files, self._process.stdin):
            with suppress(OSError, ValueError):
                if file:
                    file.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(EXIT_TIMEOUT)


def _to_error(header: Header) -> Exception:
    """Return the exception that a process reports."""
    kind = getattr(errors, str(header["failure"]), None)
    if isinstance(kind, type) and issubclass(kind, DensenetError):
        return kind(str(header["message"]))
    error = RuntimeError(f"{header['failure']}: {header['message']}")
    error.add_note(str(header.get("traceback")))
    return error
