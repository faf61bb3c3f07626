"""Decoded pictures: every file is decoded once, into one memory-mapped file of pixels that later runs use again."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from densenet_cli.training.folders import Collection


class Pictures(Protocol):
    """Pictures by number: uint8 (height, width, 3)."""

    def __getitem__(self, index: int) -> np.ndarray: ...


def decode(path: Path) -> np.ndarray:
    """A file's pixels, uint8 (height, width, 3)."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


class Mapped:
    """Pixels of all pictures one behind the other in a mapped file; ``bounds`` holds offset, height and width."""

    def __init__(self, pixels: np.ndarray, bounds: np.ndarray) -> None:
        self._pixels = pixels
        self._bounds = bounds

    def __getitem__(self, index: int) -> np.ndarray:
        offset, height, width = (int(n) for n in self._bounds[index])
        return self._pixels[offset : offset + height * width * 3].reshape(height, width, 3)


def _key(collection: Collection) -> str:
    digest = hashlib.sha256()
    for path in collection.paths:
        stat = path.stat()
        digest.update(json.dumps([str(path.resolve()), stat.st_size, stat.st_mtime_ns]).encode())
    return digest.hexdigest()[:32]


def mapped(collection: Collection, folder: Path, progress: Callable[[int, int], None] | None = None) -> Mapped:
    """The decoded pictures of ``collection``, from ``folder`` where an earlier run left them there."""
    base = folder / _key(collection)
    pixels_file, bounds_file = base.with_suffix(".pixels"), base.with_suffix(".npy")
    if not bounds_file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        temporary = base.with_suffix(f".{os.getpid()}.part")
        bounds = np.zeros((len(collection), 3), dtype=np.int64)
        offset = 0
        with temporary.open("wb") as file, ThreadPoolExecutor() as pool:
            for index, picture in enumerate(pool.map(decode, collection.paths)):
                bounds[index] = offset, *picture.shape[:2]
                offset += picture.nbytes
                file.write(picture.tobytes())
                if progress:
                    progress(index + 1, len(collection))
        temporary.replace(pixels_file)
        with temporary.open("wb") as file:
            np.save(file, bounds)
        temporary.replace(bounds_file)
    return Mapped(np.memmap(pixels_file, np.uint8, "r"), np.load(bounds_file))
