"""ICC profiles (version 2), written byte by byte, with the colors that they stand for computed independently."""

from __future__ import annotations

import struct

import numpy as np

D50 = (0.9642, 1.0, 0.8249)

ADOBE_RGB = np.array([[0.60974, 0.20528, 0.14919], [0.31111, 0.62567, 0.06322], [0.01947, 0.06087, 0.74457]])
DISPLAY_P3 = np.array([[0.51512, 0.29198, 0.15710], [0.24120, 0.69225, 0.06657], [-0.00105, 0.04189, 0.78407]])
SRGB = np.array([[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061], [0.01392, 0.09708, 0.71410]])
"""Columns: CIE XYZ of red, green, and blue, adapted to D50."""


def _tag(kind: bytes, data: bytes) -> bytes:
    data = kind + bytes(4) + data
    return data + bytes(-len(data) % 4)


def xyz(values) -> bytes:
    return _tag(b"XYZ ", struct.pack(">3i", *(round(value * 65536) for value in values)))


def gamma_curve(gamma: float) -> bytes:
    return _tag(b"curv", struct.pack(">IH", 1, round(gamma * 256)))


def srgb_table(size: int = 1024) -> bytes:
    x = np.linspace(0, 1, size)
    levels = np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4)
    return _tag(b"curv", struct.pack(">I", size) + np.rint(levels * 65535).astype(">u2").tobytes())


def srgb_function() -> bytes:
    parameters = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
    return _tag(b"para", struct.pack(">HH5i", 3, 0, *(round(value * 65536) for value in parameters)))


def profile(space: bytes, tags: dict[bytes, bytes], connection: bytes = b"XYZ ", name: bytes = b"test") -> bytes:
    """Assemble a profile."""
    tags = {
        b"desc": _tag(b"desc", struct.pack(">I", len(name) + 1) + name + bytes(79)),
        b"cprt": _tag(b"text", b"none\0"),
        b"wtpt": xyz(D50),
        **tags,
    }
    table, data = b"", b""
    start = 128 + 4 + 12 * len(tags)
    for key, tag in tags.items():
        table += struct.pack(">4sII", key, start + len(data), len(tag))
        data += tag
    device = b"prtr" if space == b"CMYK" else b"mntr"
    header = struct.pack(">I4sI4s4s4s", start + len(data), b"none", 0x02400000, device, space, connection)
    header += bytes(12) + b"acsp" + bytes(28) + xyz(D50)[8:] + bytes(48)
    return header[:128].ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + data


def rgb_profile(colorants=ADOBE_RGB, curve: bytes = gamma_curve(2.19921875), name: bytes = b"test") -> bytes:
    tags = {f"{channel}XYZ".encode(): xyz(colorants[:, index]) for index, channel in enumerate("rgb")}
    return profile(b"RGB ", tags | dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve), name=name)


def gray_profile(curve: bytes = gamma_curve(1.8)) -> bytes:
    return profile(b"GRAY", {b"kTRC": curve})


def cmyk_profile() -> bytes:
    """A profile with a table of 2x2x2x2 nodes: whatever the inks, lightness is 100 * (1 - C)(1 - M)(1 - Y)(1 - K)."""
    nodes = bytearray()
    for index in range(16):
        nodes += bytes([255 if index == 0 else 0, 128, 128])
    identity = bytes(range(256))
    header = struct.pack(">4B9i", 4, 3, 2, 0, *(65536 * (i in (0, 4, 8)) for i in range(9)))
    table = _tag(b"mft1", header + identity * 4 + bytes(nodes) + identity * 3)
    return profile(b"CMYK", {b"A2B0": table, b"A2B1": table}, connection=b"Lab ")


def to_srgb(pixels: np.ndarray, colorants=ADOBE_RGB, gamma: float = 2.19921875) -> np.ndarray:
    """Convert RGB levels (0 to 255) to sRGB by definition."""
    linear = (pixels / 255) ** gamma @ (np.linalg.inv(SRGB) @ colorants).T
    linear = linear.clip(0, 1)
    return 255 * np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)
