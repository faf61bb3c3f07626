"""Pillow's settings that are the process's, not an image's, and as little of them as can be changed."""

from __future__ import annotations

import threading
from contextlib import suppress

from densenet_cli.images.budget import DecodeBudget

LEAST_PIXEL_BYTES = 5
"""No image of any format and mode is brought to RGB in less."""

_silenced = threading.Event()


def quieten(budget: DecodeBudget) -> None:
    """Let a budget take the place of Pillow's limit of pixels, and keep Pillow off standard error.

    Some plugins compare a size to ``Image.MAX_IMAGE_PIXELS`` themselves and refuse twice as much. A caller's own
    images are under that limit too, so it is never lifted: it is raised, and only where an image that the
    budget admits would meet it (budgets of 900 MB and more).
    """
    from PIL import Image

    admitted = budget.bytes // LEAST_PIXEL_BYTES
    if Image.MAX_IMAGE_PIXELS is not None and admitted > 2 * Image.MAX_IMAGE_PIXELS:
        Image.MAX_IMAGE_PIXELS = -(-admitted // 2)
    if not _silenced.is_set():
        _silence()
        _silenced.set()


def _silence() -> None:
    """No warnings of Pillow's own modules, and no messages of libtiff, which writes to standard error by itself.

    Neither can be had for one thread alone. What they say of an image (a damaged tag, an odd size) either
    matters, and is an error then, or doesn't. What Pillow logs goes where a caller's own handlers send it, and not,
    for want of one, to standard error.
    """
    import ctypes
    import logging
    import warnings

    from PIL import _imaging

    warnings.filterwarnings("ignore", module=r"PIL\.")
    logging.getLogger("PIL").addHandler(logging.NullHandler())
    # Found through the module that is linked to it, whoever built Pillow; a build that hides it stays as it is.
    with suppress(OSError, AttributeError):
        linked = ctypes.CDLL(_imaging.__file__)
        linked.TIFFSetErrorHandler(None)
        linked.TIFFSetWarningHandler(None)
