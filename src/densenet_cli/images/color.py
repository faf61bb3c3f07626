"""From any of Pillow's modes to RGB: transparency laid on white, other depths brought to 8 bits, not clipped."""

from __future__ import annotations

from typing import TYPE_CHECKING

from densenet_cli.images.depth import DEEP_MODES, to_eight_bits

if TYPE_CHECKING:
    from PIL.Image import Image

WHITE = (255, 255, 255)

ALPHA_MODES = frozenset(("RGBA", "LA", "PA", "RGBa", "La"))


def to_rgb(image: Image) -> Image:
    """The same image in mode RGB: itself where it is in that mode and opaque."""
    image.load()
    if image.mode in DEEP_MODES:
        image = to_eight_bits(image)
    if is_transparent(image):
        return _on_white(image)
    return image if image.mode == "RGB" else image.convert("RGB")


def is_transparent(image: Image) -> bool:
    """Whether it has an alpha channel, a palette with one, or a color that stands for nothing (PNG, GIF)."""
    if image.mode in ALPHA_MODES:
        return True
    if image.mode == "P" and image.palette is not None and image.palette.mode == "RGBA":
        return True
    return image.mode in ("1", "L", "P", "RGB") and "transparency" in image.info


def _on_white(image: Image) -> Image:
    from PIL import Image as pillow

    layer = image if image.mode in ("RGBA", "LA") else image.convert("LA" if image.mode == "La" else "RGBA")
    canvas = pillow.new("RGB", image.size, WHITE)
    canvas.paste(layer, (0, 0), layer)
    return canvas
