"""The formats that a file of vectors can have: written from a stream of rows, and read as one.

The same content gives the same bytes: no format's file holds the time at which it was written.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, BinaryIO, NamedTuple

from densenet_cli.errors import UsageError
from densenet_cli.output.vector_parts import ROWS
from densenet_cli.text import to_unicode

if TYPE_CHECKING:
    import numpy as np

    FloatArray = np.ndarray[Any, np.dtype[np.float32]]

_LONG_AGO = (1980, 1, 1, 0, 0, 0)
"""The first moment that an archive can hold."""


@dataclass(frozen=True)
class Content:
    """What is written.

    Attributes:
        rows: how many vectors.
        width: the numbers of each.
        longest: characters of the longest name.
        vectors: float32 (up to ``ROWS``, width), all but the last of ``ROWS`` rows.
        sources: a name for each row.
        about: by name, what else a reader may want to know: text.
    """

    rows: int
    width: int
    longest: int
    vectors: Iterable[FloatArray]
    sources: Iterable[str]
    about: dict[str, str]


def _write_header(file: IO[bytes], dtype: str, shape: tuple[int, ...]) -> None:
    from numpy.lib import format as npy

    npy.write_array_header_1_0(file, {"descr": dtype, "fortran_order": False, "shape": shape})


def _write_matrix(file: IO[bytes], content: Content) -> None:
    _write_header(file, "<f4", (content.rows, content.width))
    for rows in content.vectors:
        file.write(rows.tobytes())


def _read_matrix(file: IO[bytes], width: int) -> Iterator[FloatArray]:
    import numpy as np
    from numpy.lib import format as npy

    if npy.read_magic(file) != (1, 0):
        raise ValueError("another version of the format")
    shape, fortran_order, dtype = npy.read_array_header_1_0(file)
    if len(shape) != 2 or shape[1] != width or fortran_order or dtype.str != "<f4":
        raise ValueError(f"an array of {dtype}, {shape}")
    missing = shape[0]
    while missing:
        count = min(missing, ROWS)
        data = file.read(4 * count * width)
        yield np.frombuffer(data, "<f4").reshape(count, width)
        missing -= count


def _write_npz(file: BinaryIO, content: Content) -> None:
    import numpy as np
    from numpy.lib import format as npy

    with zipfile.ZipFile(file, "w") as archive:
        with _member(archive, "features", zipfile.ZIP_STORED) as member:
            _write_matrix(member, content)
        # As wide as the longest name, each of them; so pressed together, it is small again.
        with _member(archive, "sources", zipfile.ZIP_DEFLATED) as member:
            longest = max(content.longest, 1)
            _write_header(member, f"<U{longest}", (content.rows,))
            for name in content.sources:
                member.write(name.encode("utf-32-le").ljust(4 * longest, b"\0"))
        for key, text in content.about.items():
            with _member(archive, key, zipfile.ZIP_STORED) as member:
                npy.write_array(member, np.array(text), allow_pickle=False)


def _member(archive: zipfile.ZipFile, name: str, compression: int) -> IO[bytes]:
    info = zipfile.ZipInfo(f"{name}.npy", _LONG_AGO)
    info.compress_type = compression
    return archive.open(info, "w", force_zip64=True)


def _read_npz(file: BinaryIO, width: int) -> Iterator[FloatArray]:
    with zipfile.ZipFile(file) as archive, archive.open("features.npy") as member:
        yield from _read_matrix(member, width)


def _write_parquet(file: BinaryIO, content: Content) -> None:
    import pyarrow
    from pyarrow import parquet

    columns = {"source": pyarrow.string(), "vector": pyarrow.list_(pyarrow.float32(), content.width)}
    schema = pyarrow.schema(columns, metadata=content.about)
    names = iter(content.sources)
    with parquet.ParquetWriter(file, schema, compression="none", use_dictionary=False) as writer:
        for rows in content.vectors:
            lists = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(rows.reshape(-1)), content.width)
            some = pyarrow.array(list(islice(names, len(rows))), pyarrow.string())
            writer.write_batch(pyarrow.record_batch([some, lists], schema=schema))


def _read_parquet(file: BinaryIO, width: int) -> Iterator[FloatArray]:
    from pyarrow import parquet

    opened = parquet.ParquetFile(file)
    for number in range(opened.num_row_groups):  # iter_batches would hold them all
        group = opened.read_row_group(number, columns=["vector"])
        rows: FloatArray = group["vector"].combine_chunks().flatten().to_numpy().reshape(len(group), width)
        yield rows


class Format(NamedTuple):
    """``write`` to a file that can be sought in; ``read`` its rows (ValueError and the like where it is no such file).

    ``library``: the package it needs, the name of the extra that brings it; None where all is at hand.
    """

    write: Callable[[BinaryIO, Content], None]
    read: Callable[[BinaryIO, int], Iterator[FloatArray]]
    library: tuple[str, str] | None = None


FORMATS: dict[str, Format] = {
    "npz": Format(_write_npz, _read_npz),
    "npy": Format(_write_matrix, _read_matrix),
    "parquet": Format(_write_parquet, _read_parquet, ("pyarrow", "parquet")),
}
"""By name; a file's suffix is a dot and the name."""


def format_of(path: Path) -> Format:
    """The format that the suffix says. Raises UsageError where it says none, or its library is missing."""
    format_ = FORMATS.get(path.suffix.lower().removeprefix("."))
    name = to_unicode(str(path))
    if format_ is None:
        *names, last = (f".{known}" for known in FORMATS)
        raise UsageError(f"The suffix of {name} names no format; end it in {', '.join(names)} or {last}.")
    if format_.library and find_spec(format_.library[0]) is None:
        raise UsageError(f"{name} needs one more package: pip install 'densenet-cli[{format_.library[1]}]'.")
    return format_


def about(settings: dict[str, Any]) -> dict[str, str]:
    """What a file says of itself: the model's name, and how images were prepared, as JSON."""
    preparing = {key: settings[key] for key in ("preprocess", "input_size", "exact", "ten_crop") if key in settings}
    return {"model": to_unicode(str(settings.get("model", ""))), "preprocessing": json.dumps(preparing)}
