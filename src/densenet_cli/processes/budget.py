"""Memory for decoding that several processes share."""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from densenet_cli.images.memory import DecodeBudget

MAX_TOKENS = 4096
"""Every pipe holds this many bytes, so that returning tokens never blocks."""


class SharedBudget(DecodeBudget):
    """A budget in the form of tokens in a pipe, which all processes take from and return to.

    A second pipe contains one byte. Who has taken it may take tokens, so that no two processes wait for each other.

    Args:
        megabytes: See ``DecodeBudget``.
        descriptors: File descriptors of the pipes, from the process that created them; None to create the budget.

    Attributes:
        descriptors: The file descriptors, to be inherited by the other processes.
    """

    def __init__(self, megabytes: int, descriptors: Sequence[int] | None = None) -> None:
        super().__init__(megabytes)
        self._tokens = min(megabytes, MAX_TOKENS)
        if descriptors is None:
            self.descriptors: tuple[int, ...] = (*os.pipe(), *os.pipe())
            # Closed when nothing refers to the budget: a thread may return tokens long after everything else has ended.
            weakref.finalize(self, _close, self.descriptors)
            os.write(self.descriptors[1], b"." * self._tokens)
            os.write(self.descriptors[3], b".")
        else:
            self.descriptors = tuple(descriptors)

    @contextmanager
    def reserve(self, needed: int) -> Iterator[None]:
        """See ``DecodeBudget.reserve``. The bytes are rounded up to whole tokens."""
        with super().reserve(needed):
            reader, writer, turn_reader, turn_writer = self.descriptors
            missing = -(-needed * self._tokens // self.bytes)
            taken = 0
            try:
                os.read(turn_reader, 1)
                try:
                    while taken < missing:
                        taken += len(os.read(reader, missing - taken))
                finally:
                    os.write(turn_writer, b".")
                yield
            finally:
                os.write(writer, b"." * taken)


def _close(descriptors: Sequence[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
