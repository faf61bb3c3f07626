"""A string in an HDF5 attribute, read from the file's bytes.

libhdf5 1.14 (what h5py 3 brings) believes what a file says of its strings of variable length: it sets aside and
fills as many bytes as one claims, up to 4 GiB, and never returns from a heap of them that has an object of no length.
Keras keeps a layer's name in such a string: it is read here, where nothing is believed but what lies in the file.

The numbers are those of the HDF5 file format specification, version 3: object headers IV.A.1, attributes IV.A.2.m,
global heaps III.E.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator

Bytes = bytes | mmap.mmap

MAX_MESSAGES = 1000
"""Of one object header; Keras' have a handful."""
MAX_STRING = 1024

ATTRIBUTE, CONTINUATION = 0x0C, 0x10
FIXED_STRING, VARIABLE_LENGTH = 3, 9


def string(data: Bytes, header: int, name: str) -> str:
    """The string in attribute ``name`` of the object whose header lies at byte ``header``.

    Raises ``ValueError`` where the attribute is missing or its bytes are not what they should be. Headers of version 2,
    which h5py writes only on request, are not read.
    """
    for message in _messages(data, header):
        if message[:1] not in (b"\1", b"\2", b"\3"):
            continue
        # Version 1 fills name, type and shape up to a multiple of 8 bytes; version 3 tells the name's encoding.
        step = 8 if message[0] == 1 else 1
        sizes = [-(-_number(message, at, 2) // step) * step for at in (2, 4, 6)]
        start = 9 if message[0] == 3 else 8
        if message[start : start + _number(message, 2, 2)].rstrip(b"\0") != name.encode():
            continue
        kind = message[start + sizes[0] :]
        value = message[start + sum(sizes) :]
        if kind[0] & 15 == VARIABLE_LENGTH:
            length, collection, index = _number(value, 0, 4), _number(value, 4, 8), _number(value, 12, 4)
            value = _heap_object(data, collection, index, length)
        elif kind[0] & 15 == FIXED_STRING:
            value = _slice(value, 0, min(_number(kind, 4, 4), MAX_STRING))
        else:
            raise ValueError(f"attribute {name} is no string")
        return value.rstrip(b"\0").decode()
    raise ValueError(f"attribute {name} is not where it should be")


def _messages(data: Bytes, header: int) -> Iterator[bytes]:
    """The attribute messages of an object header of version 1."""
    if _slice(data, header, 1) != b"\1":
        raise ValueError("an object header is not of version 1")
    blocks = [(header + 16, _number(data, header + 8, 4))]
    for _ in range(MAX_MESSAGES):
        while blocks and blocks[-1][1] < 8:
            blocks.pop()
        if not blocks:
            return
        start, left = blocks.pop()
        kind, size = _number(data, start, 2), _number(data, start + 2, 2)
        blocks.append((start + 8 + size, left - 8 - size))
        if kind == ATTRIBUTE:
            yield _slice(data, start + 8, size)
        elif kind == CONTINUATION:
            blocks.append((_number(data, start + 8, 8), _number(data, start + 16, 8)))
    raise ValueError("an object header has no end")


def _heap_object(data: Bytes, collection: int, index: int, length: int) -> bytes:
    """``length`` bytes of object ``index`` in the global heap collection at byte ``collection``."""
    if _slice(data, collection, 5) != b"GCOL\1" or length > MAX_STRING:
        raise ValueError("a string does not lie in a heap of the file")
    end = collection + _number(data, collection + 8, 8)
    at = collection + 16
    for _ in range(1 << 16):
        if at + 16 > end:
            break
        found, size = _number(data, at, 2), _number(data, at + 8, 8)
        if found == index and length <= size:
            return _slice(data, at + 16, length)
        at += 16 + -(-size // 8) * 8 if found else max(size, 16)
    raise ValueError("a string is missing in its heap")


def _number(data: Bytes, start: int, size: int) -> int:
    return int.from_bytes(_slice(data, start, size), "little")


def _slice(data: Bytes, start: int, size: int) -> bytes:
    piece = data[start : start + size]
    if len(piece) != size:
        raise ValueError("a string lies beyond the end of the file")
    return piece
