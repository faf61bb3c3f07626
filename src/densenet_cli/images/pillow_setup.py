"""Process-wide settings of Pillow, changed as little as possible."""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from densenet_cli.images.memory import DecodeBudget

MIN_PIXEL_BYTES = 5
"""No image of any format and mode is converted to RGB in less."""

_is_silenced = threading.Event()


def configure_pillow(budget: DecodeBudget) -> None:
    """Replace Pillow's pixel limit with a memory budget, and keep Pillow from writing to standard error.

    Some plugins compare a size with ``Image.MAX_IMAGE_PIXELS`` themselves and reject twice as much. The limit also
    protects images that the caller opens, so it is never removed. It is raised only if an image that the budget
    admits would exceed it (budgets of 900 MB and more).
    """
    from PIL import Image

    max_pixels = budget.bytes // MIN_PIXEL_BYTES
    if Image.MAX_IMAGE_PIXELS is not None and max_pixels > 2 * Image.MAX_IMAGE_PIXELS:
        Image.MAX_IMAGE_PIXELS = -(-max_pixels // 2)
    if not _is_silenced.is_set():
        _silence()
        _is_silenced.set()


def _silence() -> None:
    """Suppress warnings from Pillow's modules, and messages that libtiff writes to standard error.

    Neither can be suppressed for one thread only. A damaged tag or an odd size either raises an exception or does not
    matter. Pillow's log records go to the caller's handlers only, never to logging's last-resort handler.
    """
    import ctypes
    import logging
    import warnings

    from PIL import _imaging

    warnings.filterwarnings("ignore", module=r"PIL\.")
    logging.getLogger("PIL").addHandler(logging.NullHandler())
    # Find libtiff through the module that is linked to it. Builds of Pillow that hide its symbols stay as they are.
    with suppress(OSError, AttributeError):
        libtiff = ctypes.CDLL(_imaging.__file__)
        libtiff.TIFFSetErrorHandler(None)
        libtiff.TIFFSetWarningHandler(None)
