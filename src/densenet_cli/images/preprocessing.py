"""From a decoded image to what a network sees: which part of it, at which size, in which numbers.

Every way from an image to ``input_size`` square pixels is here, and the one way from pixels to the network's numbers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING

from densenet_cli.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

    Box = tuple[float, float, float, float]

MODES: dict[str, str] = {
    "crop": "shorter side to 256, the middle 224x224 (torchvision's)",
    "squash": "straight to 224x224, whatever the shape",
    "pad": "all of it inside 224x224, the rest in the mean color",
    "keras": "what keras.utils.load_img does: nearest pixels, no EXIF rotation, transparency dropped",
}
"""The values of ``--preprocess`` and what they do, at the usual input size."""

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
"""ImageNet's mean and standard deviation of each channel, of pixels in [0, 1]; those of keras and torchvision."""

PAD_COLOR = (124, 116, 104)
"""The mean color, nearly zero once normalized: what a convolution pads with."""

WORKSPACE = 1 << 22
"""Pixels that resizing may hold beyond the image and the result: 1x5000 to a shorter side of 256 is 256x1,280,000."""


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes what the network sees.

    Attributes:
        way: a name in ``WAYS``.
        input_size: pixels of the network's square input.
        exact: decode large JPEGs at full scale. ``keras`` always does.
        ten_crop: the paper's ten crops in place of one, with ``crop`` only.

    Raises:
        UsageError: an unknown way, an input size below 1, ten crops of another way.
    """

    mode: str = "crop"
    input_size: int = 224
    exact: bool = False
    ten_crop: bool = False

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise UsageError(f"There is no preprocessing {self.mode!r}; there are {', '.join(MODES)}.")
        if self.input_size < 1:
            raise UsageError(f"An input size is 1 or more, not {self.input_size}.")
        if self.ten_crop and self.mode != "crop":
            raise UsageError(f"Ten crops are taken with --preprocess crop only, not with {self.mode}.")

    @property
    def crops(self) -> int:
        """How many squares one image gives: 1 or 10."""
        return 10 if self.ten_crop else 1

    @property
    def shorter_side(self) -> int:
        """What ``crop`` resizes the shorter side to: 256 for an input of 224, and as 256 to 224 for another."""
        return round(self.input_size * 256 / 224)

    @property
    def least_side(self) -> int | None:
        """Pixels that a JPEG's shorter side must keep when it is decoded at reduced scale; None: full scale only.

        Twice as many as it is resized to: no pixel of a photograph then ends more than 5/255 from where full scale
        puts it (most not 1/255). Once as many would save 4 of 17 ms on 12 megapixels, and be up to 21/255 off.
        """
        if self.exact or self.mode == "keras":
            return None
        return 2 * (self.shorter_side if self.mode == "crop" else self.input_size)


@dataclass(frozen=True)
class DecodedImage:
    """An image in RGB, perhaps decoded at a reduced scale.

    Attributes:
        image: its pixels.
        size: width and height at full scale.
        box: the part of ``image`` that is the image: decoding at reduced scale fills the last column and row up.
        orientation: the EXIF orientation that is still to be undone, 1 to 8; other than 1 with ``keras`` only.
    """

    image: Image
    size: tuple[int, int]
    box: Box
    orientation: int = 1

    @classmethod
    def whole(cls, image: Image) -> DecodedImage:
        """An image at full scale."""
        return cls(image, image.size, (0, 0, *image.size))


def apply(decoded: DecodedImage, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """The pixels the network sees, uint8 of (crops, input_size, input_size, 3)."""
    import numpy as np

    return np.stack([np.asarray(square) for square in squares(decoded, preprocessing)])


def squares(decoded: DecodedImage, preprocessing: Preprocessing) -> list[Image]:
    """The same as ``crops`` images in RGB."""
    side = preprocessing.input_size
    match preprocessing.mode:
        case "crop":
            return _crops(decoded, preprocessing)
        case "squash":
            return [_resize(decoded, (side, side))]
        case "pad":
            return [_pad(decoded, side)]
        case _:
            return [_nearest(decoded.image, side)]


def window(size: tuple[int, int], preprocessing: Preprocessing) -> Box:
    """Where the network's square lies in the image at full scale: what ``apply`` shows it, and the way back from it.

    Args:
        size: the image's width and height, as ``apply`` gets it.
        preprocessing: not ``ten_crop``, which has no one square.

    Returns:
        Left, top, right and bottom in the image's pixels; with ``pad`` they lie outside of it on two sides.
    """
    width, height = size
    side = preprocessing.input_size
    match preprocessing.mode:
        case "crop":
            resized = resized_size(size, preprocessing.shorter_side)
            left, top = _middle(resized, side)
        case "pad":
            resized = _padded_size(size, side)
            left, top = -((side - resized[0]) // 2), -((side - resized[1]) // 2)
        case _:
            resized, left, top = (side, side), 0, 0
    across, down = width / resized[0], height / resized[1]
    return left * across, top * down, (left + side) * across, (top + side) * down


def resized_size(size: tuple[int, int], shorter_side: int) -> tuple[int, int]:
    """Width and height once the shorter side is ``shorter_side``: torchvision's ``Resize``, which rounds down."""
    width, height = size
    if width <= height:
        return shorter_side, int(shorter_side * height / width)
    return int(shorter_side * width / height), shorter_side


def _crops(decoded: DecodedImage, preprocessing: Preprocessing) -> list[Image]:
    """The middle square, or the four corners', the middle one, and the mirror image of each."""
    from PIL.Image import Transpose

    side = preprocessing.input_size
    width, height = resized_size(decoded.size, preprocessing.shorter_side)
    right, bottom = width - side, height - side
    middle = _middle((width, height), side)
    if not preprocessing.ten_crop:
        return _squares(decoded, (width, height), [middle], side)
    squares = _squares(decoded, (width, height), [(0, 0), (right, 0), (0, bottom), (right, bottom), middle], side)
    return squares + [square.transpose(Transpose.FLIP_LEFT_RIGHT) for square in squares]


def _middle(size: tuple[int, int], side: int) -> tuple[int, int]:
    """Upper left corner of the middle square: torchvision's ``CenterCrop``, half to even."""
    return round((size[0] - side) / 2), round((size[1] - side) / 2)


def _squares(decoded: DecodedImage, size: tuple[int, int], corners: list[tuple[int, int]], side: int) -> list[Image]:
    """Squares of the image resized to ``size``, by their upper left corners."""
    if size[0] * size[1] <= WORKSPACE:
        resized = _resize(decoded, size)
        return [resized.crop((left, top, left + side, top + side)) for left, top in corners]
    # Too long an image to be resized whole: the same pixels of the same filter, from the part that each square shows.
    left0, top0, right0, bottom0 = decoded.box
    across, down = (right0 - left0) / size[0], (bottom0 - top0) / size[1]
    return [
        _resize(
            replace(
                decoded,
                box=(
                    left0 + left * across,
                    top0 + top * down,
                    min(left0 + (left + side) * across, right0),
                    min(top0 + (top + side) * down, bottom0),
                ),
            ),
            (side, side),
        )
        for left, top in corners
    ]


def _resize(decoded: DecodedImage, size: tuple[int, int]) -> Image:
    """The part of it that ``box`` says, at another size: bilinear, antialiased."""
    from PIL.Image import Resampling

    image, box = decoded.image, decoded.box
    if size[0] > image.width and size[0] * (box[3] - box[1]) > WORKSPACE:
        # Pillow widens before it shortens, and so would make a thin, high image larger than either end.
        image = image.resize((image.width, size[1]), Resampling.BILINEAR, (0, box[1], image.width, box[3]))
        box = (box[0], 0, box[2], size[1])
    return image.resize(size, Resampling.BILINEAR, box)


def _pad(decoded: DecodedImage, side: int) -> Image:
    from PIL import Image

    size = _padded_size(decoded.size, side)
    square = Image.new("RGB", (side, side), PAD_COLOR)
    square.paste(_resize(decoded, size), ((side - size[0]) // 2, (side - size[1]) // 2))
    return square


def _padded_size(size: tuple[int, int], side: int) -> tuple[int, int]:
    """Width and height once the longer side is ``side``."""
    scale = side / max(size)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _nearest(image: Image, side: int) -> Image:
    from PIL.Image import Resampling

    return image.resize((side, side), Resampling.NEAREST)


@cache
def _normalized_levels() -> NDArray[np.float32]:
    """What each of the 256 levels of each channel becomes, (256, 3): keras' steps in keras' order, in float32."""
    import numpy as np

    levels = np.repeat(np.arange(256, dtype=np.float32)[:, None], 3, axis=1)
    levels /= 255.0
    for channel in range(3):
        levels[:, channel] -= MEAN[channel]
        levels[:, channel] /= STD[channel]
    return levels


def normalize(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The network's numbers: of [0, 1], minus the mean, over the standard deviation of each channel.

    Bit for bit ``keras.applications.densenet.preprocess_input``; a table of all levels is faster than its arithmetic.

    Args:
        pixels: uint8 of (n, s, s, 3), RGB.

    Returns:
        float32 of the same shape.
    """
    import numpy as np

    levels = _normalized_levels()
    numbers = np.empty(pixels.shape, np.float32)
    for channel in range(3):
        numbers[..., channel] = levels[:, channel][pixels[..., channel]]
    return numbers
