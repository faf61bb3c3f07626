"""The decoded images of a run: mapped from a file that is made once where they are small, else decoded as needed."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol

import numpy as np

from densenet_cli.errors import ImageError
from densenet_cli.images.decoding import decode
from densenet_cli.images.preprocessing import DecodedImage
from densenet_cli.images.sources import Source
from densenet_cli.output.atomic import output_errors, sync, write_file
from densenet_cli.weights.file_identity import FileIdentity

if TYPE_CHECKING:
    Records = np.ndarray[Any, np.dtype[np.void]]
    Progress = Callable[[int, int], None]

RECORD = np.dtype(
    [
        ("offset", "<i8"),
        ("height", "<i8"),
        ("width", "<i8"),
        ("full", "<i8", (2,)),
        ("box", "<f8", (4,)),
        ("error", "S400"),
    ]
)
"""Where an image's pixels lie in the mapped file, what ``Image`` says of them, and why there are none."""

SAMPLE = 64
"""Images that are decoded to find out whether all of them would fit into the mapped file."""

MEGABYTE = 1_000_000
AHEAD = 32
"""Images a thread that are decoded before they are written: enough to keep it busy."""


class Images(Protocol):
    """Decoded images by number. Getting one raises ``ImageError`` where it can't be decoded."""

    def __getitem__(self, index: int, /) -> DecodedImage: ...


def open_images(
    paths: Sequence[str], least_side: int, folder: Path, limit: int, threads: int, progress: Progress
) -> Images:
    """The images of ``paths``, decoded to where their shorter side is at least ``least_side`` pixels, or whole.

    Args:
        paths: of the files.
        least_side: pixels; a large JPEG is decoded at a reduced scale that keeps as many.
        folder: where mapped files lie; one that an earlier run left there is used.
        limit: megabytes that such a file may have. Would it be larger, the images are decoded each time.
        threads: that decode.
        progress: called with the number of images decoded and of all.

    Raises ``OutputError`` where the mapped file can't be written.
    """
    stream = Streamed(paths, least_side)
    base = folder / _key(paths, least_side)
    if not base.with_suffix(".index").exists():
        if _estimate(stream, len(paths)) > limit * MEGABYTE:
            return stream
        with output_errors(folder):
            _fill(base, stream, len(paths), threads, progress)
    return Mapped(base)


class Streamed:
    """Images that are decoded whenever they are asked for."""

    def __init__(self, paths: Sequence[str], least_side: int) -> None:
        self._paths = paths
        self._least_side = least_side

    def __getitem__(self, index: int, /) -> DecodedImage:
        path = self._paths[index]
        try:
            return decode(Source(path, path, "path"), self._least_side)
        except ImageError as error:
            raise type(error)(f"{path}: {error}") from None


class Mapped:
    """Images whose pixels lie one behind the other in a file; the system keeps in memory what is in use."""

    def __init__(self, base: Path) -> None:
        pixels = base.with_suffix(".pixels")
        self._pixels = np.memmap(pixels, np.uint8, "r") if pixels.stat().st_size else np.zeros(0, np.uint8)
        self._records: Records = np.frombuffer(base.with_suffix(".index").read_bytes(), RECORD)

    def unreadable(self) -> dict[int, str]:
        """Number -> reason, of the images that couldn't be decoded."""
        return {
            int(n): self._records["error"][n].decode(errors="ignore") for n in np.flatnonzero(self._records["error"])
        }

    def __getitem__(self, index: int, /) -> DecodedImage:
        from PIL import Image

        record = self._records[index]
        if record["error"]:
            raise ImageError(record["error"].decode(errors="ignore"))
        offset, height, width = (int(record[name]) for name in ("offset", "height", "width"))
        pixels = self._pixels[offset : offset + height * width * 3].reshape(height, width, 3)
        full, box = record["full"].tolist(), record["box"].tolist()
        return DecodedImage(Image.fromarray(pixels), (full[0], full[1]), (box[0], box[1], box[2], box[3]))


def _key(paths: Sequence[str], least_side: int) -> str:
    """A name that changes with the files, what is in them, and how they are decoded."""
    digest = hashlib.sha256(json.dumps([RECORD.descr, least_side]).encode())
    for path in paths:
        try:
            digest.update(FileIdentity.of(path).key().encode())
        except OSError:
            digest.update(os.fsencode(path))  # a link to nothing: decoding it says so
    return digest.hexdigest()[:32]


def _estimate(images: Images, count: int) -> float:
    """Bytes that all would take, from every so many's."""
    sizes = []
    for index in range(0, count, max(1, count // SAMPLE)):
        try:
            width, height = images[index].image.size
        except ImageError:
            continue
        sizes.append(width * height * 3)
    return count * float(np.mean(sizes or [0]))


def _fill(base: Path, images: Images, count: int, threads: int, progress: Progress) -> None:
    base.parent.mkdir(parents=True, exist_ok=True)
    aside = base.with_suffix(f".{os.getpid()}.part")
    records = np.zeros(count, RECORD)
    try:
        with aside.open("wb") as file:
            for done, decoded in enumerate(_decoded(images, count, threads)):
                _append(file, records[done], decoded)
                progress(done + 1, count)
            sync(file)
        aside.replace(base.with_suffix(".pixels"))
    finally:
        aside.unlink(missing_ok=True)
    write_file(base.with_suffix(".index"), records.tobytes())


def _decoded(images: Images, count: int, threads: int) -> Iterable[DecodedImage | ImageError]:
    def one(index: int) -> DecodedImage | ImageError:
        try:
            return images[index]
        except ImageError as error:
            return error

    with ThreadPoolExecutor(threads) as pool:
        numbers = iter(range(count))
        while chunk := list(islice(numbers, AHEAD * threads)):
            yield from pool.map(one, chunk)


def _append(file: IO[bytes], record: Any, decoded: DecodedImage | ImageError) -> None:
    if isinstance(decoded, ImageError):
        record["error"] = str(decoded).encode(errors="backslashreplace")[: RECORD["error"].itemsize]
        return
    pixels = np.asarray(decoded.image)
    record["offset"] = file.tell()
    record["height"], record["width"] = pixels.shape[:2]
    record["full"], record["box"] = decoded.size, decoded.box
    file.write(pixels.tobytes())
