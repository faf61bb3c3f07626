"""What a decoding process and its parent say to each other: a small JSON object, and raw bytes behind it.

Nothing else is taken from a process whose decoder an image may have taken over.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from typing import Any

HEAD = struct.Struct(">IQ")
"""Bytes of the JSON, bytes behind it."""

LONGEST = 1 << 16
"""The most that the JSON may have."""

Words = dict[str, Any]


def packed(words: Words, size: int = 0) -> bytes:
    """The beginning of a message, behind which come ``size`` bytes."""
    text = json.dumps(words).encode("ascii")
    return HEAD.pack(len(text), size) + text


def received(read: Callable[[int], bytes], most: int) -> tuple[Words, bytes]:
    """A message, and the bytes behind it.

    Args:
        read: gives exactly as many bytes as it is asked for.
        most: bytes behind the JSON, at most.

    Raises:
        ValueError: it is no message, or one of more than ``most`` bytes.
        Whatever ``read`` raises.
    """
    length, size = HEAD.unpack(read(HEAD.size))
    if length > LONGEST or size > most:
        raise ValueError("Too long a message.")
    try:
        words = json.loads(read(length))
    except RecursionError:
        raise ValueError("A message of nested brackets.") from None
    if not isinstance(words, dict):
        raise ValueError("A message that is no object.")
    return words, read(size)
