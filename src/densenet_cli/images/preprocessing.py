"""Preprocessing: from a decoded image to the square crops that a network expects. ``normalization`` comes last."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict, dataclass
from math import floor, inf, nextafter
from typing import TYPE_CHECKING, Any, NamedTuple

from densenet_cli.errors import UsageError
from densenet_cli.images.normalization import MEAN, STD, check_normalization, pad_color

if TYPE_CHECKING:
    from PIL.Image import Image

    from densenet_cli._types import Box, Size, UInt8Array

MODES = ("crop", "squash", "pad", "keras")
"""How to fit an image to the input. For an input size of 224:

- ``crop``: resize the shorter side to 256 and center-crop to 224x224, as torchvision does.
- ``squash``: resize to 224x224, ignoring the aspect ratio.
- ``pad``: fit into 224x224 and pad with the mean color (letterbox).
- ``keras``: match ``keras.utils.load_img``: nearest-neighbor resize, no EXIF rotation, alpha dropped.
"""

INTERPOLATIONS = ("bilinear", "bicubic", "nearest")
"""How to compute pixels when resizing. The first two reduce with antialiasing, as Pillow and torchvision do."""

MIN_CROP_RATIO = 0.01
DEFAULT_CROP_RATIO = 0.875
"""What ``Preprocessing.crop_ratio`` None stands for, up to rounding."""
MAX_INPUT_SIZE = 4096

TRUNCATED = ("refuse", "accept")
"""What to do with an image whose file ends early: report an error, or use what there is and note it in the result."""

PAGES = ("first", "all")
"""Which pages of a TIFF file, or frames of an animation, are images."""

WORKSPACE_PIXELS = 1 << 22
"""Maximum pixels of an intermediate image. Resizing the shorter side of a 1x5000 image would take 256x1,280,000."""


@dataclass(frozen=True)
class Preprocessing:
    """How to turn an image into the network's input.

    Attributes:
        mode: One of ``MODES``.
        input_size: Side of the network's square input in pixels.
        exact: Decode large JPEGs at full scale. ``keras`` mode always does.
        ten_crop: Take ten crops (corners, center, and their mirror images) instead of one. Only in ``crop`` mode.
        truncated: One of ``TRUNCATED``.
        bit_depth: The range of values that becomes black to white, for images of more than 8 bits with one channel:
            ``auto`` (from the values), ``full`` (of the data type), a number of bits, or ``LOW:HIGH``.
        pages: One of ``PAGES``. The pages are chosen before preprocessing; results depend on it all the same.
        interpolation: One of ``INTERPOLATIONS``. Defaults to bilinear, and to nearest in ``keras`` mode, which allows
            no other.
        crop_ratio: Fraction of the resized image's shorter side that ``crop`` mode keeps, in [0.01, 1]. None for the
            default of 224/256.
        mean: Mean per channel, for pixels in [0, 1]: three values for RGB images, one for grayscale images.
        std: Standard deviation per channel, as many values.

    Raises:
        UsageError: A value is not allowed.
    """

    mode: str = "crop"
    input_size: int = 224
    exact: bool = False
    ten_crop: bool = False
    truncated: str = "refuse"
    bit_depth: str = "auto"
    pages: str = "first"
    interpolation: str = ""
    crop_ratio: float | None = None
    mean: tuple[float, ...] = MEAN
    std: tuple[float, ...] = STD

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise UsageError(f"`preprocess` must be one of {', '.join(MODES)}, not {self.mode!r}.")
        if self.truncated not in TRUNCATED:
            raise UsageError(f"`truncated` must be one of {', '.join(TRUNCATED)}, not {self.truncated!r}.")
        if self.pages not in PAGES:
            raise UsageError(f"`pages` must be one of {', '.join(PAGES)}, not {self.pages!r}.")
        if self.bit_depth not in ("auto", "full"):
            parse_bit_depth(self.bit_depth)
        if self.bit_depth != "auto" and self.mode == "keras":
            raise UsageError("`bit_depth` cannot be used with `preprocess` keras, which clips values as Keras does.")
        if self.input_size < 1:
            raise UsageError(f"`input_size` must be at least 1, not {self.input_size}.")
        if self.ten_crop and self.mode != "crop":
            raise UsageError(f"`ten_crop` requires `preprocess` crop, not {self.mode}.")
        self._check_resizing()
        for name in ("mean", "std"):
            object.__setattr__(self, name, tuple(map(float, getattr(self, name))))  # JSON has lists
        check_normalization(self.mean, self.std)

    def _check_resizing(self) -> None:
        default = "nearest" if self.mode == "keras" else INTERPOLATIONS[0]
        object.__setattr__(self, "interpolation", self.interpolation or default)
        if self.interpolation not in INTERPOLATIONS:
            raise UsageError(f"`interpolation` must be one of {', '.join(INTERPOLATIONS)}, not {self.interpolation!r}.")
        if self.mode == "keras" and self.interpolation != "nearest":
            raise UsageError(f"`preprocess` keras resizes with `interpolation` nearest, not {self.interpolation}.")
        if self.crop_ratio is not None:
            if not MIN_CROP_RATIO <= self.crop_ratio <= 1:
                raise UsageError(f"`crop_ratio` must be between {MIN_CROP_RATIO} and 1, not {self.crop_ratio}.")
            if self.mode != "crop":
                raise UsageError(f"`crop_ratio` requires `preprocess` crop, not {self.mode}.")

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON types, under the names of the parameters of ``Classifier``, with their defaults."""
        fields = asdict(self)
        if self.mode == "crop" and self.crop_ratio is None:
            fields["crop_ratio"] = DEFAULT_CROP_RATIO
        return {"preprocess": fields.pop("mode"), **fields, "mean": list(self.mean), "std": list(self.std)}

    @property
    def channels(self) -> int:
        """Number of channels of the network's input: 3 for RGB, 1 for grayscale."""
        return len(self.mean)

    @property
    def crops(self) -> int:
        """Number of crops per image: 1 or 10."""
        return 10 if self.ten_crop else 1

    @property
    def resize_side(self) -> int:
        """Length to which ``crop`` mode resizes the shorter side: 256 for an input of 224, else in proportion.

        With a ``crop_ratio``, it is rounded down, as timm does.
        """
        if self.crop_ratio is None:
            return round(self.input_size * 256 / 224)
        return floor(self.input_size / self.crop_ratio)

    @property
    def min_decoded_side(self) -> int | None:
        """Minimum shorter side of a JPEG decoded at reduced scale, in pixels. None: decode at full scale only.

        It is twice the side after resizing. For an input of 224 or 288, pixels of photographs then differ from those at
        full scale by at most 7/255, bilinear as well as bicubic, and mostly by less than 1/255. A factor of 1 would
        save 4 of 17 ms for 12 megapixels, but differ by up to 30/255.
        """
        if self.exact or self.interpolation == "nearest":
            return None
        return 2 * (self.resize_side if self.mode == "crop" else self.input_size)


def crop_ratio(input_size: int, resize_side: int) -> float:
    """Return the ratio with which ``crop`` mode resizes the shorter side to ``resize_side``, whatever rounding does."""
    ratio = input_size / resize_side
    return ratio if floor(input_size / ratio) == resize_side else nextafter(ratio, 0)


def parse_bit_depth(text: str) -> tuple[float, float]:
    """Return the range of values that a number of bits or ``LOW:HIGH`` stands for.

    Raises:
        UsageError: It is neither.
    """
    low, separator, high = text.partition(":")
    with suppress(ValueError):
        if not separator and 1 <= int(text) <= 32:
            return 0, 2 ** int(text) - 1
        if separator and -inf < float(low) < float(high) < inf:
            return float(low), float(high)
    raise UsageError(
        f"`bit_depth` must be auto, full, a number of bits from 1 to 32, or a range such as 0:4000, not {text!r}."
    )


class DecodedImage(NamedTuple):
    """An RGB image, possibly decoded at reduced scale.

    Attributes:
        image: The pixels.
        size: Width and height at full scale.
        box: The part of ``image`` to use. Decoding at reduced scale pads the last column and row.
        orientation: EXIF orientation of ``image``, 1 to 8. It differs from 1 only in ``keras`` mode.
    """

    image: Image
    size: Size
    box: Box
    orientation: int = 1

    @classmethod
    def at_full_scale(cls, image: Image) -> DecodedImage:
        """Wrap an image that was decoded at full scale."""
        return cls(image, image.size, (0, 0, *image.size))


def preprocess(decoded: DecodedImage, preprocessing: Preprocessing) -> UInt8Array:
    """Return the network's input before normalization: uint8 of shape (crops, input_size, input_size, channels)."""
    import numpy as np

    crops = np.stack([np.asarray(crop) for crop in make_crops(decoded, preprocessing)])
    return crops.reshape(*crops.shape[:3], preprocessing.channels)


def make_crops(decoded: DecodedImage, preprocessing: Preprocessing) -> list[Image]:
    """Return the same as ``preprocess``, as one image per crop: RGB, or grayscale for one channel."""
    side, resampling = preprocessing.input_size, preprocessing.interpolation.upper()
    if preprocessing.channels == 1:
        decoded = decoded._replace(image=decoded.image.convert("L"))
    match preprocessing.mode:
        case "crop":
            return _crop(decoded, preprocessing, resampling)
        case "squash":
            return [_resize(decoded, (side, side), resampling)]
        case "pad":
            return [_pad(decoded, side, resampling, pad_color(preprocessing.mean))]
        case _:
            return [_resize_nearest(decoded.image, side)]


def visible_box(size: Size, preprocessing: Preprocessing) -> Box:
    """Return the part of the full-scale image that the network sees, to map positions in its input back to the image.

    Args:
        size: Width and height of the image as ``preprocess`` gets it.
        preprocessing: Without ``ten_crop``, which has no single box.

    Returns:
        Left, top, right, and bottom in pixels. In ``pad`` mode the box extends beyond the image on two sides.
    """
    width, height = size
    side = preprocessing.input_size
    match preprocessing.mode:
        case "crop":
            resized = resized_size(size, preprocessing.resize_side)
            left, top = _center_offset(resized, side)
        case "pad":
            resized = _padded_size(size, side)
            left, top = -((side - resized[0]) // 2), -((side - resized[1]) // 2)
        case _:
            resized, left, top = (side, side), 0, 0
    scale_x, scale_y = width / resized[0], height / resized[1]
    return left * scale_x, top * scale_y, (left + side) * scale_x, (top + side) * scale_y


def resized_size(size: Size, shorter_side: int) -> Size:
    """Return width and height after resizing the shorter side. Rounds down, as torchvision's ``Resize`` does."""
    width, height = size
    if width <= height:
        return shorter_side, int(shorter_side * height / width)
    return int(shorter_side * width / height), shorter_side


def _crop(decoded: DecodedImage, preprocessing: Preprocessing, resampling: str) -> list[Image]:
    """Return the center crop, or with ``ten_crop`` the corners, the center, and the mirror image of each."""
    from PIL.Image import Transpose

    side = preprocessing.input_size
    width, height = resized_size(decoded.size, preprocessing.resize_side)
    right, bottom = width - side, height - side
    center = _center_offset((width, height), side)
    if not preprocessing.ten_crop:
        return _crop_at(decoded, (width, height), [center], side, resampling)
    offsets = [(0, 0), (right, 0), (0, bottom), (right, bottom), center]
    crops = _crop_at(decoded, (width, height), offsets, side, resampling)
    return crops + [crop.transpose(Transpose.FLIP_LEFT_RIGHT) for crop in crops]


def _center_offset(size: Size, side: int) -> tuple[int, int]:
    """Return left and top of the center crop. Rounds half to even, as torchvision's ``CenterCrop`` does."""
    return round((size[0] - side) / 2), round((size[1] - side) / 2)


def _crop_at(
    decoded: DecodedImage, size: Size, offsets: list[tuple[int, int]], side: int, resampling: str
) -> list[Image]:
    """Return square crops of the image resized to ``size``, at the given offsets (left, top)."""
    if size[0] * size[1] <= WORKSPACE_PIXELS:
        resized = _resize(decoded, size, resampling)
        return [resized.crop((left, top, left + side, top + side)) for left, top in offsets]
    # The image is too elongated to resize as a whole. Resize only the part that each crop shows, with the same filter.
    left0, top0, right0, bottom0 = decoded.box
    scale_x, scale_y = (right0 - left0) / size[0], (bottom0 - top0) / size[1]
    return [
        _resize(
            decoded._replace(
                box=(
                    left0 + left * scale_x,
                    top0 + top * scale_y,
                    min(left0 + (left + side) * scale_x, right0),
                    min(top0 + (top + side) * scale_y, bottom0),
                ),
            ),
            (side, side),
            resampling,
        )
        for left, top in offsets
    ]


def _resize(decoded: DecodedImage, size: Size, resampling: str) -> Image:
    """Resize the part of the image inside ``box``. ``resampling`` is a name of Pillow's."""
    from PIL.Image import Resampling

    image, box, method = decoded.image, decoded.box, Resampling[resampling]
    if size[0] > image.width and size[0] * (box[3] - box[1]) > WORKSPACE_PIXELS:
        # Pillow resizes the width first. For a thin, tall image, that would be larger than both input and result.
        image = image.resize((image.width, size[1]), method, (0, box[1], image.width, box[3]))
        box = (box[0], 0, box[2], size[1])
    return image.resize(size, method, box)


def _pad(decoded: DecodedImage, side: int, resampling: str, color: tuple[int, ...]) -> Image:
    from PIL import Image

    size = _padded_size(decoded.size, side)
    canvas = Image.new(decoded.image.mode, (side, side), color)
    canvas.paste(_resize(decoded, size, resampling), ((side - size[0]) // 2, (side - size[1]) // 2))
    return canvas


def _padded_size(size: Size, side: int) -> Size:
    """Return width and height after resizing the longer side to ``side``."""
    scale = side / max(size)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _resize_nearest(image: Image, side: int) -> Image:
    from PIL.Image import Resampling

    return image.resize((side, side), Resampling.NEAREST)
