"""What runs in a decoding process: images in, pixels or an error out, until the parent is gone.

It imports what decoding needs and no more, numpy not before an image of more than 8 bits: a fresh process has to be
there soon.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

from densenet_cli.errors import ImageError
from densenet_cli.images import decoding
from densenet_cli.images.isolation import limits
from densenet_cli.images.isolation.messages import Words, packed, received
from densenet_cli.images.pillow_setup import quieten
from densenet_cli.images.preprocessing import Preprocessing
from densenet_cli.images.previews import PREVIEWS
from densenet_cli.images.sources import Source


def main(connection: int, decode_memory: int) -> None:
    """Answer until the parent closes the connection.

    Args:
        connection: descriptor of the socket to the parent. Standard input is a pipe that closes when it ends.
        decode_memory: megabytes that the images of all processes may hold together.
    """
    for asked in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # to end, perhaps all at once: that's the parent's
        signal.signal(asked, signal.SIG_IGN)
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    limits.end_with_parent(lifeline=0)
    limits.leave_no_core()
    limits.prefer_oom_kill()
    with open(connection, "rb") as reading, open(os.dup(connection), "wb") as writing:
        talk = _Talk(reading, writing)
        budget = _ParentsBudget(talk, decode_memory)
        quieten(budget)  # which imports Pillow
        limits.limit_memory(budget.bytes)
        settled = limits.held() or 0
        talk.say({"ready": True})
        while talk.hear():
            words, data = _answer(talk, budget)
            words["last"] = (limits.held() or 0) > settled + limits.KEPT
            talk.say(words, data)


class _Talk:
    """Messages from and to the parent."""

    def __init__(self, reading: IO[bytes], writing: IO[bytes]) -> None:
        self._reading, self._writing = reading, writing
        self.words: Words = {}
        self.data = b""

    def say(self, words: Words, data: bytes = b"") -> None:
        self._writing.write(packed(words, len(data)))
        self._writing.write(data)
        self._writing.flush()

    def hear(self) -> bool:
        """Wait for the next message; False if there is no parent any more."""
        try:
            self.words, self.data = received(self._read, 1 << 62)
        except EOFError:
            return False
        return True

    def _read(self, size: int) -> bytes:
        data = self._reading.read(size)
        if len(data) < size:
            raise EOFError
        return data


class _ParentsBudget(decoding.DecodeBudget):
    """The budget of all processes, which the parent keeps."""

    def __init__(self, talk: _Talk, megabytes: int) -> None:
        super().__init__(megabytes)
        self._talk = talk

    @contextmanager
    def reserve(self, needed: int) -> Iterator[None]:
        """Wait until the parent has that much left for this image; it takes it back when it is answered."""
        with super().reserve(needed):  # refuses what is more than there is at all
            self._talk.say({"reserve": needed})
            if not self._talk.hear():
                raise EOFError
            yield


def _answer(talk: _Talk, budget: decoding.DecodeBudget) -> tuple[Words, bytes]:
    """Decode the image that was just heard of."""
    words, origin = talk.words, talk.data
    talk.data = b""
    preview_kind = PREVIEWS[words["preview"]] if words["preview"] else None
    source = Source("", os.fsdecode(origin) if words["kind"] == "path" else origin, words["kind"])
    try:
        pixels, preview = decoding.load_bytes(source, Preprocessing(**words["preprocessing"]), budget, preview_kind)
    except ImageError as error:
        return {"error": error.type, "message": str(error)}, b""
    return {"pixels": len(pixels)}, pixels + (preview.to_bytes() if preview else b"")
