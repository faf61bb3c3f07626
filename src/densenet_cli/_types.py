"""Type aliases that several modules share. Importing it imports neither numpy nor Pillow."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import IO, TYPE_CHECKING, Any, TypeAlias, Union

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

    FloatArray: TypeAlias = np.ndarray[Any, np.dtype[np.float32]]
    UInt8Array: TypeAlias = np.ndarray[Any, np.dtype[np.uint8]]
    IntArray: TypeAlias = np.ndarray[Any, np.dtype[np.int64]]
    BoolArray: TypeAlias = np.ndarray[Any, np.dtype[np.bool_]]

PathLike: TypeAlias = Union[str, "os.PathLike[str]"]

ImageInput: TypeAlias = Union[str, "os.PathLike[str]", bytes, bytearray, memoryview, IO[bytes], "Image", "UInt8Array"]
"""What a ``Classifier`` accepts as an image: a path, an http(s) URL, the bytes of an image file, a binary file object,
a ``PIL.Image.Image``, or a uint8 RGB array of shape (height, width, 3)."""

Size: TypeAlias = tuple[int, int]
"""Width and height in pixels."""

Box: TypeAlias = tuple[float, float, float, float]
"""Left, top, right, and bottom in pixels."""

DownloadProgress: TypeAlias = Callable[[str, int, "int | None"], None]
"""Called with (file name, bytes so far, total bytes or None if unknown)."""
