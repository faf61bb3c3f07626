"""The formats of vector files: NumPy archives, NumPy arrays, and Parquet, written and read in batches of rows.

The same vectors give the same bytes: no file contains the time at which it was written.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, BinaryIO, NamedTuple

from densenet_cli.output.checks import check_package, format_from_suffix
from densenet_cli.text import to_unicode

if TYPE_CHECKING:
    from densenet_cli._types import FloatArray

BATCH_ROWS = 1024
"""Vectors in memory at the same time."""

_ZIP_EPOCH = (1980, 1, 1, 0, 0, 0)
"""The earliest time that a zip archive can contain."""


@dataclass(frozen=True)
class VectorTable:
    """The contents of a vector file.

    Attributes:
        rows: Number of vectors.
        width: Length of each vector.
        max_name_length: Characters of the longest source name.
        vectors: Batches of float32 (``BATCH_ROWS``, width); the last one may have fewer rows.
        sources: A name for each row.
        metadata: More text for readers, by name.
    """

    rows: int
    width: int
    max_name_length: int
    vectors: Iterable[FloatArray]
    sources: Iterable[str]
    metadata: dict[str, str]


def _write_header(file: IO[bytes], dtype: str, shape: tuple[int, ...]) -> None:
    from numpy.lib import format as npy

    npy.write_array_header_1_0(file, {"descr": dtype, "fortran_order": False, "shape": shape})


def _write_matrix(file: IO[bytes], table: VectorTable) -> None:
    _write_header(file, "<f4", (table.rows, table.width))
    for rows in table.vectors:
        file.write(rows.tobytes())


def _read_matrix(file: IO[bytes], width: int) -> Iterator[FloatArray]:
    import numpy as np
    from numpy.lib import format as npy

    if npy.read_magic(file) != (1, 0):
        raise ValueError("another version of the format")
    shape, fortran_order, dtype = npy.read_array_header_1_0(file)
    if len(shape) != 2 or shape[1] != width or fortran_order or dtype.str != "<f4":
        raise ValueError(f"an array of {dtype}, {shape}")
    remaining = shape[0]
    while remaining:
        count = min(remaining, BATCH_ROWS)
        data = file.read(4 * count * width)
        yield np.frombuffer(data, "<f4").reshape(count, width)
        remaining -= count


def _write_npz(file: BinaryIO, table: VectorTable) -> None:
    import numpy as np
    from numpy.lib import format as npy

    with zipfile.ZipFile(file, "w") as archive:
        with _member(archive, "features", zipfile.ZIP_STORED) as member:
            _write_matrix(member, table)
        # Every name takes as much space as the longest one, so this member is compressed.
        with _member(archive, "sources", zipfile.ZIP_DEFLATED) as member:
            length = max(table.max_name_length, 1)
            _write_header(member, f"<U{length}", (table.rows,))
            for name in table.sources:
                member.write(name.encode("utf-32-le").ljust(4 * length, b"\0"))
        for key, text in table.metadata.items():
            with _member(archive, key, zipfile.ZIP_STORED) as member:
                npy.write_array(member, np.array(text), allow_pickle=False)


def _member(archive: zipfile.ZipFile, name: str, compression: int) -> IO[bytes]:
    info = zipfile.ZipInfo(f"{name}.npy", _ZIP_EPOCH)
    info.compress_type = compression
    return archive.open(info, "w", force_zip64=True)


def _read_npz(file: BinaryIO, width: int) -> Iterator[FloatArray]:
    with zipfile.ZipFile(file) as archive, archive.open("features.npy") as member:
        yield from _read_matrix(member, width)


def _write_parquet(file: BinaryIO, table: VectorTable) -> None:
    import pyarrow
    from pyarrow import parquet

    columns = {"source": pyarrow.string(), "vector": pyarrow.list_(pyarrow.float32(), table.width)}
    schema = pyarrow.schema(columns, metadata=table.metadata)
    names = iter(table.sources)
    with parquet.ParquetWriter(file, schema, compression="none", use_dictionary=False) as writer:
        for rows in table.vectors:
            lists = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(rows.reshape(-1)), table.width)
            sources = pyarrow.array(list(islice(names, len(rows))), pyarrow.string())
            writer.write_batch(pyarrow.record_batch([sources, lists], schema=schema))


def _read_parquet(file: BinaryIO, width: int) -> Iterator[FloatArray]:
    from pyarrow import parquet

    parquet_file = parquet.ParquetFile(file)
    for number in range(parquet_file.num_row_groups):  # iter_batches would keep all of them in memory
        group = parquet_file.read_row_group(number, columns=["vector"])
        rows: FloatArray = group["vector"].combine_chunks().flatten().to_numpy().reshape(len(group), width)
        yield rows


class VectorFormat(NamedTuple):
    """A format of vector files.

    ``write`` takes a seekable file. ``read`` takes a file and the length of its vectors, and yields batches of rows; it
    raises ValueError or an error of its library if the file has another format. ``package`` is an optional package that
    the format needs.
    """

    write: Callable[[BinaryIO, VectorTable], None]
    read: Callable[[BinaryIO, int], Iterator[FloatArray]]
    package: str | None = None


VECTOR_FORMATS: dict[str, VectorFormat] = {
    "npz": VectorFormat(_write_npz, _read_npz),
    "npy": VectorFormat(_write_matrix, _read_matrix),
    "parquet": VectorFormat(_write_parquet, _read_parquet, "pyarrow"),
}
"""Format name -> format. The suffix of a file is a dot and the name."""


def resolve_vector_format(path: Path) -> VectorFormat:
    """Return the format of a vector file.

    Raises:
        UsageError: The suffix does not name a format, or the format needs a package that is not installed.
    """
    format_ = VECTOR_FORMATS[format_from_suffix(path, {name: f".{name}" for name in VECTOR_FORMATS})]
    if format_.package:
        check_package(format_.package, format_.package, to_unicode(str(path)))
    return format_


def describe(settings: dict[str, Any]) -> dict[str, str]:
    """Return the metadata of a vector file: the name of the model, and the preprocessing as JSON."""
    keys = ("preprocess", "input_size", "exact", "ten_crop", "truncated", "bit_depth")
    keys_of_normalization = ("interpolation", "crop_ratio", "mean", "std")
    preprocessing = {key: settings[key] for key in (*keys, *keys_of_normalization) if key in settings}
    return {"model": to_unicode(str(settings.get("model", ""))), "preprocessing": json.dumps(preprocessing)}
