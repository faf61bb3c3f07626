"""Pillow's settings that are the process's, not a picture's, and as little of them as can be changed."""

from __future__ import annotations

from densenet_cli.images.budget import DecodeBudget

LEAST_PIXEL_BYTES = 5
"""No picture of any format and mode is decoded in less; a test holds ``memory`` to it."""

_state = {"quiet": False}


def quieten(budget: DecodeBudget) -> None:
    """Let a budget take the place of Pillow's limit of pixels, and keep Pillow's warnings off standard error.

    Some plugins compare a size to ``Image.MAX_IMAGE_PIXELS`` themselves and refuse twice as much. A caller's own
    pictures are under that limit too, so it is never lifted: it is raised, and only where a picture that the
    budget admits would meet it (budgets of 900 MB and more).

    Warnings can't be filtered for one thread. Only those that Pillow's own modules give are: what they say of a
    picture (a damaged tag, an odd size) either matters, and is then an error, or doesn't.
    """
    from PIL import Image

    admitted = budget.bytes // LEAST_PIXEL_BYTES
    if Image.MAX_IMAGE_PIXELS is not None and admitted > 2 * Image.MAX_IMAGE_PIXELS:
        Image.MAX_IMAGE_PIXELS = -(-admitted // 2)
    if not _state["quiet"]:
        import warnings

        warnings.filterwarnings("ignore", module=r"PIL\.")
        _state["quiet"] = True
