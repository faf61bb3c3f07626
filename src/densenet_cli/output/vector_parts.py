"""The parts of a file of vectors while a run goes on: a line of JSON a source, and what they are put together from.

A line has ``source`` (and ``source_bytes``) as the results' records have them, and either ``vector``, base64 of
little-endian float32, or ``error``. In the end a line each is left of them, with ``row`` in the vector's place: the
vector's row in the matrix.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from densenet_cli.results import Embedding
from densenet_cli.text import json_line, source_fields

if TYPE_CHECKING:
    import numpy as np

    FloatArray = np.ndarray[Any, np.dtype[np.float32]]

ROWS = 1024
"""Vectors in memory at once while they are put together."""


def part_of(embedding: Embedding) -> str:
    """A source's line: its vector, or its error."""
    fields = source_fields(embedding.source)
    if embedding.error is not None:
        return json_line({**fields, "error": embedding.error.to_dict()}) + "\n"
    assert embedding.vector is not None
    return json_line({**fields, "vector": _encoded(embedding.vector)}) + "\n"


def _encoded(vector: FloatArray) -> str:
    return base64.b64encode(vector.astype("<f4", copy=False).tobytes()).decode()


def records(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of parts, or of a listing, in order. Raises OSError, ValueError."""
    with open(path, "rb") as file:
        for line in file:
            yield json.loads(line)


def vectors(parts: Path, width: int) -> Iterator[FloatArray]:
    """The vectors in order, up to ``ROWS`` at once: float32 (rows, width). Raises OSError, ValueError."""
    import numpy as np

    encoded = (record["vector"] for record in records(parts) if "vector" in record)
    while some := list(islice(encoded, ROWS)):
        yield np.frombuffer(b"".join(map(base64.b64decode, some)), "<f4").reshape(len(some), width)


@dataclass
class Listing:
    """What is left of the parts beside the vectors. Counted while ``lines`` is walked.

    Attributes:
        rows: vectors.
        failed: sources without one.
        longest: characters of the longest name that has a vector.
    """

    parts: Path
    rows: int = 0
    failed: int = 0
    longest: int = 0

    def lines(self) -> Iterator[bytes]:
        """A line each, in order."""
        for record in records(self.parts):
            if record.pop("vector", None) is None:
                self.failed += 1
            else:
                record["row"] = self.rows
                self.rows += 1
                self.longest = max(self.longest, len(record["source"]))
            yield json_line(record).encode() + b"\n"


def sources(listing: Path) -> Iterator[str]:
    """The names that have a vector, in order, as JSON has them."""
    return (record["source"] for record in records(listing) if "row" in record)


def taken_apart(listing: Path, matrix: Iterable[FloatArray]) -> Iterator[bytes]:
    """The lines of which a listing and a matrix, in however many pieces, were put together.

    Raises ValueError where they don't belong together.
    """
    rows = chain.from_iterable(matrix)
    count = 0
    for record in records(listing):
        if "row" in record:
            vector = next(rows, None)
            if record.pop("row") != count or vector is None:
                raise ValueError(f"there is no vector {count}")
            record["vector"] = _encoded(vector)
            count += 1
        yield json_line(record).encode() + b"\n"
    if next(rows, None) is not None:
        raise ValueError("there are more vectors than sources")
