"""How much memory a picture takes at the peak of being decoded, told from its header.

Bytes a pixel, measured (``tests/images/test_memory.py`` measures them again).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image


def of_header(format: str, size: tuple[int, int], mode: str) -> int:
    return 1


def of_image(image: Image, size: tuple[int, int]) -> int:
    return 1
