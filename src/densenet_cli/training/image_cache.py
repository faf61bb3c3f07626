"""The decoded images of a run: mapped from a file that is written once, or decoded on demand if they are too many."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol

import numpy as np
from PIL import Image

from densenet_cli.errors import ImageError
from densenet_cli.images.decoding import PIXELS_VERSION, decode
from densenet_cli.images.memory import MEGABYTE
from densenet_cli.images.preprocessing import DecodedImage
from densenet_cli.images.sources import Source
from densenet_cli.output.atomic import output_errors, sync, write_file
from densenet_cli.text import to_unicode
from densenet_cli.weights.file_identity import FileIdentity

if TYPE_CHECKING:
    RecordArray = np.ndarray[Any, np.dtype[np.void]]
    ProgressCallback = Callable[[int, int], None]

logger = logging.getLogger(__name__)

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
"""An entry of the index: where the pixels of an image are, the fields of its ``DecodedImage``, or why it has none."""

SAMPLE_SIZE = 64
"""Number of images to decode for an estimate of the size of all."""

CHUNK_PER_THREAD = 32
"""Images per thread to decode before any of them is written."""


class Images(Protocol):
    """Decoded images by index. Indexing raises ``ImageError`` if the image cannot be decoded."""

    @property
    def paths(self) -> Sequence[str]:
        """Paths of the image files."""

    @property
    def min_side(self) -> int | None:
        """Large JPEGs are decoded at a reduced scale that keeps this many pixels of the shorter side, if not None."""

    def errors(self) -> dict[int, str]:
        """Return the index and error message of each image that is already known not to be decodable."""

    def __getitem__(self, index: int, /) -> DecodedImage: ...


def open_images(
    paths: Sequence[str],
    min_side: int | None,
    folder: Path,
    max_megabytes: int,
    threads: int,
    progress: ProgressCallback,
    *,
    as_is: bool = False,
) -> Images:
    """Return decoded images: from a cache file, which is written if it is missing, or decoded on demand.

    Args:
        paths: Paths of the image files.
        min_side: Large JPEGs are decoded at a reduced scale whose shorter side has at least this many pixels. None for
            full scale.
        as_is: Decode as ``keras`` mode does: no EXIF rotation, no white background.
        folder: Folder of the cache files.
        max_megabytes: Maximum size of a cache file. If it would be larger, images are decoded on demand.
        threads: Number of decoding threads.
        progress: Called with the number of decoded images and the number of all images.

    Raises:
        OutputError: The cache file cannot be written.
    """
    images = DecodedOnDemand(paths, min_side, as_is)
    base = folder / _cache_key(paths, min_side, as_is)
    if not _is_complete(base, len(paths)):
        if max_megabytes == 0 or _estimate_size(images, len(paths)) > max_megabytes * MEGABYTE:
            return images
        with output_errors(folder):
            _write_cache(base, images, len(paths), threads, progress)
    return MappedImages(base, paths, min_side)


class DecodedOnDemand:
    """Images that are decoded each time they are requested."""

    def __init__(self, paths: Sequence[str], min_side: int | None, as_is: bool = False) -> None:
        self.paths = paths
        self.min_side = min_side
        self._as_is = as_is
        self._reported: set[str] = set()

    def errors(self) -> dict[int, str]:
        """Return nothing: no image has been decoded."""
        return {}

    def __getitem__(self, index: int, /) -> DecodedImage:
        path = self.paths[index]
        notes: set[str] = set()
        try:
            decoded = decode(Source(path, path, "path"), self.min_side, notes=notes, as_is=self._as_is)
        except ImageError as error:
            raise type(error)(f"{to_unicode(path)}: {error}") from None
        if "more_pages" in notes and path not in self._reported:
            self._reported.add(path)
            logger.info("%s has more pages or frames. Only the first is used.", to_unicode(path))
        return decoded


class MappedImages:
    """Images in a memory-mapped file. The operating system keeps the pages in use in memory."""

    def __init__(self, base: Path, paths: Sequence[str], min_side: int | None) -> None:
        self.paths = paths
        self.min_side = min_side
        pixels = base.with_suffix(".pixels")
        self._pixels = np.memmap(pixels, np.uint8, "r") if pixels.stat().st_size else np.zeros(0, np.uint8)
        self._records: RecordArray = np.frombuffer(base.with_suffix(".index").read_bytes(), RECORD)

    def errors(self) -> dict[int, str]:
        """Return the index and error message of each image that could not be decoded."""
        return {
            int(n): self._records["error"][n].decode(errors="ignore") for n in np.flatnonzero(self._records["error"])
        }

    def __getitem__(self, index: int, /) -> DecodedImage:
        record = self._records[index]
        if record["error"]:
            raise ImageError(record["error"].decode(errors="ignore"))
        offset, height, width = (int(record[name]) for name in ("offset", "height", "width"))
        pixels = self._pixels[offset : offset + height * width * 3].reshape(height, width, 3)
        full, box = record["full"].tolist(), record["box"].tolist()
        return DecodedImage(Image.fromarray(pixels), (full[0], full[1]), (box[0], box[1], box[2], box[3]))


class SkippableImages:
    """Images that remember which of them could not be decoded.

    Args:
        images: The images.
        names: Their names.
        skipped: Name -> error message, to which images are added. Threads may do so at the same time.
    """

    def __init__(self, images: Images, names: Sequence[str], skipped: dict[str, str]) -> None:
        self.paths = images.paths
        self.min_side = images.min_side
        self._images = images
        self._names = names
        self._skipped = skipped

    def errors(self) -> dict[int, str]:
        """Return the errors of the images."""
        return self._images.errors()

    def __getitem__(self, index: int, /) -> DecodedImage:
        try:
            return self._images[index]
        except ImageError as error:
            self.skip(index, str(error))
            raise

    def skip(self, index: int, message: str) -> None:
        """Note that an image cannot be decoded."""
        name = self._names[index]
        if name not in self._skipped:
            logger.info("Skipped %s", message)
            self._skipped[name] = message


def _cache_key(paths: Sequence[str], min_side: int | None, as_is: bool) -> str:
    """Return a file name that depends on the image files, their contents, and how they are decoded."""
    digest = hashlib.sha256(json.dumps([RECORD.descr, min_side, as_is, PIXELS_VERSION]).encode())
    for path in paths:
        try:
            digest.update(FileIdentity.of(path).key().encode())
        except OSError:
            digest.update(os.fsencode(path))  # a broken link; decoding it will fail
    return digest.hexdigest()[:32]


def _is_complete(base: Path, count: int) -> bool:
    """Return whether the cache files exist and have the sizes that they were written with."""
    try:
        records: RecordArray = np.frombuffer(base.with_suffix(".index").read_bytes(), RECORD)
        size = base.with_suffix(".pixels").stat().st_size
    except (OSError, ValueError):  # missing, or no whole number of records
        return False
    return len(records) == count and size == int((records["height"] * records["width"]).sum()) * 3


def _estimate_size(images: Images, count: int) -> float:
    """Return the estimated size of all decoded images in bytes."""
    sizes = []
    for index in range(0, count, max(1, count // SAMPLE_SIZE)):
        try:
            width, height = images[index].image.size
        except ImageError:
            continue
        sizes.append(width * height * 3)
    return count * float(np.mean(sizes or [0]))


def _write_cache(base: Path, images: Images, count: int, threads: int, progress: ProgressCallback) -> None:
    base.parent.mkdir(parents=True, exist_ok=True)
    part = base.with_suffix(f".{os.getpid()}.part")
    records = np.zeros(count, RECORD)
    try:
        with part.open("wb") as file:
            for index, decoded in enumerate(_decode_all(images, count, threads)):
                _write_image(file, records[index], decoded)
                progress(index + 1, count)
            sync(file)
        part.replace(base.with_suffix(".pixels"))
    finally:
        part.unlink(missing_ok=True)
    # The index is written last: a cache without an index is incomplete.
    write_file(base.with_suffix(".index"), records.tobytes())


def _decode_all(images: Images, count: int, threads: int) -> Iterable[DecodedImage | ImageError]:
    def decode_one(index: int) -> DecodedImage | ImageError:
        try:
            return images[index]
        except ImageError as error:
            return error

    with ThreadPoolExecutor(threads) as pool:
        indices = iter(range(count))
        while chunk := list(islice(indices, CHUNK_PER_THREAD * threads)):
            yield from pool.map(decode_one, chunk)


def _write_image(file: IO[bytes], record: Any, decoded: DecodedImage | ImageError) -> None:
    if isinstance(decoded, ImageError):
        record["error"] = str(decoded).encode(errors="backslashreplace")[: RECORD["error"].itemsize]
        return
    pixels = np.asarray(decoded.image)
    record["offset"] = file.tell()
    record["height"], record["width"] = pixels.shape[:2]
    record["full"], record["box"] = decoded.size, decoded.box
    file.write(pixels.tobytes())
