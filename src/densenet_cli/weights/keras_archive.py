"""``.keras``: a zip archive, of which the member with the weights is read and nothing else.

``config.json`` can name code to run; it is never opened.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from zipfile import BadZipFile, ZipFile
from zlib import error as ZlibError

from densenet_cli.errors import CheckpointError
from densenet_cli.weights import hdf5, keras_formats
from densenet_cli.weights.contents import Contents

MEMBER = "model.weights.h5"
MAX_DIRECTORY = 1 << 18
"""Bytes that the archive's directory may have; three members need 200."""
MAX_RATIO = 4
"""How much smaller packing may have made the weights; those of a real network shrink by a tenth."""
MAX_SLACK = 4 << 20
"""Bytes on top of that: HDF5's own, which shrink to little, are most of a tiny network."""

END_RECORD, END_RECORD_SIZE, MAX_COMMENT = b"PK\5\6", 22, 65535


@contextmanager
def open_contents(path: Path) -> Iterator[Contents]:
    """The checkpoint in the archive ``path``, to be read while the ``with`` block lasts. Raises ``CheckpointError``."""
    with hdf5.open_file(_weights(path)) as root:
        yield keras_formats.contents(root)


def _weights(path: Path) -> bytes:
    _check_directory(path)
    try:
        with ZipFile(path) as archive:
            members = archive.namelist()
            if MEMBER not in members:
                if any(name.endswith("data.pkl") for name in members):
                    raise CheckpointError(PICKLE)
                raise CheckpointError(f"it is a zip archive without {MEMBER}, so no .keras file")
            size = archive.getinfo(MEMBER).file_size
            if size > MAX_RATIO * path.stat().st_size + MAX_SLACK:
                raise CheckpointError(f"its {MEMBER} claims {size} bytes, too many for an archive of this size")
            with archive.open(MEMBER) as file:
                # One more than it claims, so that the checksum of what was read is compared.
                data = file.read(size + 1)
            if len(data) != size:
                raise CheckpointError(f"its {MEMBER} has {len(data)} bytes instead of {size}")
            return data
    except (BadZipFile, ZlibError, EOFError, OSError, RuntimeError, ValueError, LookupError) as error:
        raise CheckpointError(f"it is damaged or cut short ({error or type(error).__name__})") from error


def _check_directory(path: Path) -> None:
    """``ZipFile`` reads the whole directory at once, so its size is looked at before."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - END_RECORD_SIZE - MAX_COMMENT))
        tail = file.read()
    start = tail.rfind(END_RECORD)
    if start < 0:
        raise CheckpointError("it is damaged or cut short (the zip archive has no directory)")
    if int.from_bytes(tail[start + 12 : start + 16], "little") > MAX_DIRECTORY or b"PK\6\7" in tail[:start][-20:]:
        raise CheckpointError(f"it is a zip archive with a directory of more than {MAX_DIRECTORY} bytes")


PICKLE = (
    "it is a pickle, which can run code and is therefore never read; "
    "use the .safetensors of the same network, as timm publishes them"
)
