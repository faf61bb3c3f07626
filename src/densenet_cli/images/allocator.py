"""The memory of an image goes back to the system when it is done: one setting of the C library's allocator."""

from __future__ import annotations

import sys
from contextlib import suppress
from functools import cache

KEPT = 4 << 20
"""Bytes of freed memory that the allocator may keep for each thread; what is larger it never keeps."""

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""glibc's names for them in ``mallopt``."""


@cache
def give_back() -> None:
    """Have it so in this process, on Linux with glibc; elsewhere nothing is changed.

    By itself glibc takes the largest block that was ever freed (up to 32 MiB) for a usual one: it then keeps up to
    twice as much for each thread, and the process grows far beyond what the images being decoded hold together.
    """
    import ctypes

    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # another C library
            allocator = ctypes.CDLL(None)
            allocator.mallopt(_TRIM_THRESHOLD, KEPT)
            allocator.mallopt(_MMAP_THRESHOLD, KEPT)
