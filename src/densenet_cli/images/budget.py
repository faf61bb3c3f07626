"""The memory that the images being decoded may hold together."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from densenet_cli.errors import ImageTooLargeError

MEGABYTE = 1_000_000


class DecodeBudget:
    """A number of bytes that threads share. They wait for one another, first come, first served.

    Args:
        megabytes: all there is, in units of 1,000,000 bytes.
    """

    def __init__(self, megabytes: int) -> None:
        self.bytes = megabytes * MEGABYTE
        self._free = self.bytes
        self._changed = threading.Condition()
        # A large image must not wait for ever while small ones slip past it.
        self._queue: deque[object] = deque()

    @contextmanager
    def reserve(self, needed: int) -> Iterator[None]:
        """Hold ``needed`` bytes, waiting until they are free.

        Raises:
            ImageTooLarge: it is more than there is at all.
        """
        if needed > self.bytes:
            raise ImageTooLargeError(
                f"Decoding it takes about {-(-needed // MEGABYTE):,} MB, "
                f"more than the {self.bytes // MEGABYTE:,} MB set aside for that (--decode-memory)."
            )
        ticket = object()
        with self._changed:
            self._queue.append(ticket)
            try:
                self._changed.wait_for(lambda: self._queue[0] is ticket and self._free >= needed)
                self._free -= needed
            finally:
                self._queue.remove(ticket)
                self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._free += needed
                self._changed.notify_all()


UNLIMITED = DecodeBudget(1 << 40)
