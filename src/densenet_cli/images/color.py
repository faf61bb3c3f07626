"""Embedded color profiles: conversion to sRGB, which networks are trained on.

An sRGB profile, by far the most common one, is recognized from its tables, and the image is used unchanged. Other
profiles are converted with Little CMS (``PIL.ImageCms``, imported only then).
"""

from __future__ import annotations

import io
import struct
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageCms import ImageCmsTransform

MODES = {
    b"RGB ": frozenset(("RGB", "RGBA", "RGBa", "RGBX", "P", "PA")),
    b"GRAY": frozenset(("L", "LA", "La", "I;16", "I;16L", "I;16B", "I;16N")),
    b"CMYK": frozenset(("CMYK",)),
}
"""Color space of a profile -> Pillow modes of the images that it applies to."""

MAX_PROFILE_BYTES = 4 << 20
"""Larger profiles are ignored. Those of printers take up to 3 MB."""

MAX_PROFILES = 16
"""Number of profiles to remember. A transform takes up to 1 MB."""

SRGB_COLORANTS = {
    b"rXYZ": (0.4361, 0.2225, 0.0139),
    b"gXYZ": (0.3851, 0.7169, 0.0971),
    b"bXYZ": (0.1431, 0.0606, 0.7141),
}
"""CIE XYZ of sRGB's primaries, adapted to D50 (ICC's sRGB profile)."""

CURVES = (b"rTRC", b"gTRC", b"bTRC", b"kTRC")

COLORANT_TOLERANCE = 0.002
CURVE_TOLERANCE = 0.004
"""Differences between sRGB profiles of different makers. They change a pixel by about one level."""


class ProfileConverter:
    """Converts images with one color profile to sRGB. Thread-safe.

    Args:
        profile: The bytes of the profile.

    Raises:
        Exception: The profile is damaged, or Little CMS cannot use it. It may be any exception.
    """

    def __init__(self, profile: bytes) -> None:
        from PIL import ImageCms

        self._space = profile[16:20]
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        target = ImageCms.createProfile("sRGB")
        modes = {b"RGB ": (("RGB", "RGB"), ("RGBA", "RGBA")), b"GRAY": (("L", "RGB"),), b"CMYK": (("CMYK", "RGB"),)}
        self._transforms: dict[str, ImageCmsTransform] = {
            mode: ImageCms.buildTransform(
                source,
                target,
                mode,
                output,
                ImageCms.Intent.RELATIVE_COLORIMETRIC,
                ImageCms.Flags.BLACKPOINTCOMPENSATION,
            )
            for mode, output in modes[self._space]
        }

    def pixel_bytes(self, mode: str) -> int:
        """Return the bytes per pixel that the conversion needs besides those for an image without a profile."""
        if self._space == b"RGB ":
            return 4
        return 6 if mode in ("LA", "La") else 0

    def to_srgb(self, image: Image) -> Image:
        """Return a new image of mode RGB, or RGBA if the image has an alpha channel (mode RGBA or LA)."""
        has_alpha = image.mode in ("RGBA", "LA")
        if self._space == b"GRAY":
            converted = self._transforms["L"].apply(image if image.mode == "L" else image.getchannel(0))
            if has_alpha:
                converted.putalpha(image.getchannel("A"))
            return converted
        if image.mode not in self._transforms:
            image = image.convert("RGB")
        return self._transforms[image.mode].apply(image)


_converters: dict[bytes, ProfileConverter | None] = {}
"""Digest of a profile -> its converter, or None if its images are used unchanged."""
_lock = threading.Lock()


def find_converter(image: Image) -> ProfileConverter | None:
    """Return the converter for an image's embedded profile.

    Returns:
        None if the image has no profile, an sRGB profile, a damaged one, or one for another kind of pixels.
    """
    profile = image.info.get("icc_profile")
    if not isinstance(profile, bytes) or not 128 < len(profile) <= MAX_PROFILE_BYTES:
        return None
    if image.mode not in MODES.get(profile[16:20], ()):
        return None
    import hashlib  # a millisecond, which images without a profile need not wait for

    key = hashlib.sha256(profile).digest()
    with _lock:
        if key not in _converters:
            if len(_converters) >= MAX_PROFILES:
                del _converters[next(iter(_converters))]  # the oldest
            _converters[key] = _create_converter(profile)
        return _converters[key]


def _create_converter(profile: bytes) -> ProfileConverter | None:
    if is_srgb(profile):
        return None
    with suppress(Exception):  # a damaged profile is ignored
        return ProfileConverter(profile)
    return None


def is_srgb(profile: bytes) -> bool:
    """Return whether a profile describes the colors of sRGB, or its gray levels for a gray profile.

    Whatever the profile is called, its primaries and its tone curves are compared with those of sRGB.
    """
    with suppress(struct.error, LookupError, ArithmeticError):
        tags = dict(_read_tags(profile))
        if any(name.startswith(b"A2B") for name in tags):  # tables that take precedence
            return False
        colorants = {} if profile[16:20] == b"GRAY" else SRGB_COLORANTS
        for name, expected in colorants.items():
            values = [value / 65536 for value in struct.unpack_from(">3i", tags[name], 8)]
            if any(abs(a - b) > COLORANT_TOLERANCE for a, b in zip(values, expected, strict=True)):
                return False
        curves = [tags[name] for name in CURVES if name in tags]
        return len(curves) == (3 if colorants else 1) and all(_is_srgb_curve(curve) for curve in set(curves))
    return False


def _read_tags(profile: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the name and data of the tags that ``is_srgb`` compares, and of those that take precedence."""
    (count,) = struct.unpack_from(">I", profile, 128)
    for index in range(min(count, 100)):
        name, offset, size = struct.unpack_from(">4sII", profile, 132 + 12 * index)
        if name in SRGB_COLORANTS or name in CURVES or name.startswith(b"A2B"):
            yield name, profile[offset : offset + size]


def _is_srgb_curve(tag: bytes) -> bool:
    """Return whether a tone curve is sRGB's. The curve is a table or a parametric function."""
    samples = [index / 16 for index in range(17)]
    return all(abs(_evaluate_curve(tag, x) - _srgb_curve(x)) <= CURVE_TOLERANCE for x in samples)


def _evaluate_curve(tag: bytes, x: float) -> float:
    """Return the value of a tone curve at ``x`` in [0, 1] (ICC.1:2022, 10.6 and 10.18)."""
    if tag[:4] == b"curv":
        (count,) = struct.unpack_from(">I", tag, 8)
        if count < 2:
            return float(x ** (struct.unpack_from(">H", tag, 12)[0] / 256)) if count else x
        position = min(int(x * (count - 1)), count - 2)
        low, high = struct.unpack_from(">2H", tag, 12 + 2 * position)
        return float(low + (high - low) * (x * (count - 1) - position)) / 65535
    if tag[:4] == b"para" and struct.unpack_from(">H", tag, 8)[0] in (3, 4):
        g, a, b, c, d = (value / 65536 for value in struct.unpack_from(">5i", tag, 12))
        value: Any = (a * x + b) ** g if x >= d else c * x
        return float(value) if isinstance(value, float) else -1.0
    return -1.0


def _srgb_curve(x: float) -> float:
    """Return the linear intensity of an sRGB value (IEC 61966-2-1)."""
    return x / 12.92 if x <= 0.04045 else float(((x + 0.055) / 1.055) ** 2.4)
