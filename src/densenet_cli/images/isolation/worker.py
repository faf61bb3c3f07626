"""The parent's end of one decoding process."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from dataclasses import asdict
from math import prod
from typing import TYPE_CHECKING

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
from densenet_cli.images.budget import MEGABYTE, DecodeBudget
from densenet_cli.images.decoding import Loaded
from densenet_cli.images.isolation.messages import Words, packed, received

if TYPE_CHECKING:
    from densenet_cli.images.preprocessing import Preprocessing
    from densenet_cli.images.previews import Preview

CODE = (
    "import json, sys; settings = json.loads(sys.argv[1]); sys.path[:] = settings.pop('path'); "
    "from densenet_cli.images.isolation.child import main; main(**settings)"
)
"""What the process runs: its modules come from where this one's come from."""

START_LIMIT = 60.0
"""Seconds in which an interpreter has to be there."""

END_LIMIT = 2.0
"""Seconds to wait for a process to be gone. One that the system won't let go (a network's folder) is left to it."""

SUSPENSION = 0.5
"""Seconds by which a timer is late only where this process itself stood still."""

ERRORS: dict[object, type[ImageError]] = {
    kind.__name__.removesuffix("Error"): kind
    for kind in (SourceNotFoundError, SourceUnreadableError, UnreadableImageError, ImageTooLargeError)
}
"""What a process may say of an image. Any other word is an ``UnreadableImage``."""


class Worker:
    """A process that decodes one image at a time.

    Args:
        budget: the memory that the images of all processes share.
        timeout: seconds that an image may take, the wait for memory not counted; None for no limit.

    Attributes:
        images: how many it was given.
        is_free: whether it can be given another: never again once anything went wrong.

    Raises:
        IsolationError: the system starts no process.
    """

    def __init__(self, budget: DecodeBudget, timeout: float | None) -> None:
        self.images = 0
        self.is_free = True
        self._budget, self._timeout = budget, timeout
        self._is_ready = False
        self._folder = _current_folder()
        try:
            self._connection, theirs = socket.socketpair()
            with theirs:
                settings = {
                    "path": [entry for entry in sys.path if isinstance(entry, str)],
                    "connection": theirs.fileno(),
                    "decode_memory": budget.bytes // MEGABYTE,
                }
                self._process = subprocess.Popen(
                    # Without -P a module in the current folder, among images from anywhere, would be imported.
                    [sys.executable, "-P", "-c", CODE, json.dumps(settings)],
                    stdin=subprocess.PIPE,  # closes when this process ends, and says so
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                )
        except OSError as error:
            raise IsolationError(f"No process to decode in can be started: {error.strerror}.") from error

    def wait_until_ready(self) -> None:
        """Wait until it can decode.

        Raises:
            IsolationError: it never will.
        """
        if self._is_ready:
            return
        try:
            received(_Clock(self._connection, START_LIMIT).read, most=0)
        except (OSError, EOFError, ValueError):
            self.is_free = False
            raise IsolationError(f"No process to decode in can be started: one {self._ending()}.") from None
        self._is_ready = True

    def load(self, kind: str, origin: bytes, preprocessing: Preprocessing, preview: type[Preview] | None) -> Loaded:
        """What ``decoding.load`` gives.

        Args:
            kind: "path" or "bytes".
            origin: the path as the system has it, or an image's file.
            preprocessing: which part of it, at which size.
            preview: the kind of preview to make, if any.

        Raises:
            DecoderCrashed, DecodingTimedOut: the process is gone, or is to go.
            ImageError: as ``decoding.load`` does.
        """
        self.images += 1
        self.is_free = False
        try:
            words, data = self._ask(kind, origin, preprocessing, preview)
            if "error" in words:
                failure = ERRORS.get(words["error"], UnreadableImageError)(str(words["message"]))
            else:
                failure, loaded = None, _loaded(data, preprocessing, preview)
        except TimeoutError:
            raise DecodingTimedOutError(f"Decoding it took longer than {self._timeout:g} s (--timeout).") from None
        except (OSError, EOFError):
            raise DecoderCrashedError(f"The process that decoded it {self._ending()}.") from None
        except (ValueError, TypeError, KeyError, OverflowError):
            raise DecoderCrashedError("The process that decoded it gave an answer without sense.") from None
        self.is_free = not words.get("last")
        if failure:
            raise failure
        return loaded

    def _ask(
        self, kind: str, origin: bytes, preprocessing: Preprocessing, preview: type[Preview] | None
    ) -> tuple[Words, bytes]:
        """The answer to an image, memory reserved for it in between."""
        clock = _Clock(self._connection, self._timeout)
        if kind == "path" and (folder := _current_folder()) != self._folder:
            origin = os.path.join(folder, origin)  # the process is still where this one was when it was started
        image = {
            "kind": kind,
            "preprocessing": asdict(preprocessing),
            "preview": preview.__name__ if preview else None,
        }
        with ExitStack() as reserved:
            words, data = clock.ask(image, origin)
            for _ in range(2 if preview else 1):  # a preview may need to be decoded at a larger scale
                if "reserve" not in words:
                    break
                reserved.close()
                needed = int(words["reserve"])
                if not 0 <= needed <= self._budget.bytes:
                    raise ValueError(needed)
                reserved.enter_context(self._budget.reserve(needed))
                words, data = clock.ask(
                    {"go": True}, most=prod(_shape(preprocessing)) + (preview.max_bytes if preview else 0)
                )
        return words, data

    def _ending(self) -> str:
        """How the process ended: the verb of a sentence."""
        try:
            status = self._process.wait(END_LIMIT)
        except subprocess.TimeoutExpired:
            return "stopped talking"
        if status >= 0:
            return f"ended (exit status {status})"
        if status == -signal.SIGKILL:
            return "was killed (SIGKILL), by somebody or for want of memory"
        with suppress(ValueError):
            return f"crashed ({signal.Signals(-status).name})"
        return f"crashed (signal {-status})"

    def kill(self) -> None:
        """End it now, whatever it is doing; whoever waits for its answer gets an error."""
        self._process.kill()

    def end(self) -> None:
        """End it, and leave nothing of it behind. Nobody may be waiting for its answer."""
        self.kill()
        self._connection.close()
        if self._process.stdin:
            self._process.stdin.close()
        self.wait()

    def wait(self) -> None:
        """Wait until it is gone."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(END_LIMIT)


class _Clock:
    """Talks to a process for no longer than ``seconds``, those between an answer and the next question not counted."""

    def __init__(self, connection: socket.socket, seconds: float | None) -> None:
        self._connection = connection
        self._left = seconds
        self._begun = time.monotonic()

    def ask(self, words: Words, data: bytes = b"", most: int = 0) -> tuple[Words, bytes]:
        """Say something and hear the answer, with no more than ``most`` bytes of data.

        Raises:
            TimeoutError: the time is over.
            OSError, EOFError: the process is gone.
            ValueError: it says something else than messages.
        """
        self._begun = time.monotonic()
        for part in (packed(words, len(data)), data):
            self._limit()
            self._connection.sendall(part)
        answer = received(self.read, most)
        if self._left is not None:
            self._left -= time.monotonic() - self._begun
        return answer

    def read(self, size: int) -> bytes:
        """Exactly that many bytes."""
        data = bytearray(size)
        view = memoryview(data)
        while view:
            self._limit()
            try:
                read = self._connection.recv_into(view)
            except TimeoutError:
                if self._was_suspended():
                    continue
                raise
            if not read:
                raise EOFError
            view = view[read:]
        return bytes(data)

    def _was_suspended(self) -> bool:
        """Whether the time was over long ago: then the whole run was stopped (Ctrl-Z), and the time begins anew."""
        now = time.monotonic()
        if self._left is None or now - self._begun - self._left < SUSPENSION:
            return False
        self._begun = now
        return True

    def _limit(self) -> None:
        """Let the next operation take no longer than there is time."""
        left = None if self._left is None else self._begun + self._left - time.monotonic()
        if left is not None and left <= 0:
            raise TimeoutError
        self._connection.settimeout(left)


def _shape(preprocessing: Preprocessing) -> tuple[int, int, int, int]:
    return preprocessing.crops, preprocessing.input_size, preprocessing.input_size, 3


def _loaded(data: bytes, preprocessing: Preprocessing, preview: type[Preview] | None) -> Loaded:
    """Parse an answer: the pixels, then the preview. Raises ``ValueError`` if it is not what was requested."""
    import numpy as np

    shape = _shape(preprocessing)
    size = prod(shape)
    made = preview.from_bytes(data[size:]) if preview else None
    pixels = np.frombuffer(data[:size] if preview else data, np.uint8).reshape(shape)
    return Loaded(pixels, made)


def _current_folder() -> bytes:
    """Empty where it was deleted, or can't be told."""
    try:
        return os.getcwdb()
    except OSError:
        return b""
