"""A fake HEIC decoder that does what the image says: crash, hang, exhaust memory, send messages, or decode.

With this folder on the import path, it takes the place of the real package.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import struct
import sys
import time

from PIL import Image, ImageFile

HEADER = b"\0\0\0\x18ftypheic"


def heic(behavior: str, color: int = 0, mark: object = None) -> bytes:
    """Return an image file whose decoding shows a behavior.

    Args:
        behavior: a key of ``BEHAVIORS``, to happen while decoding, or with " on open" while opening the file.
        color: gray level of the decoded image of 8x8 pixels.
        mark: a file to which the decoder then appends its process ID.
    """
    return HEADER + json.dumps({"behavior": behavior, "color": color, "mark": mark and str(mark)}).encode()


class HeifImageFile(ImageFile.ImageFile):
    format = "HEIF"

    def _open(self) -> None:
        settings = json.loads(self.fp.read()[len(HEADER) :])
        self._size, self._mode = (8, 8), "RGB"
        self._behavior, self._color, self._mark = settings["behavior"], settings["color"], settings["mark"]
        if self._behavior.endswith(" on open"):
            self._misbehave()

    def load(self):
        if self._im is None:
            self._misbehave()
            self.tile = []
            self.im = Image.new("RGB", self.size, (self._color,) * 3).im
        return super().load()

    def _misbehave(self) -> None:
        if self._mark:
            with open(self._mark, "a") as file:
                file.write(f"{os.getpid()}\n")
        BEHAVIORS[self._behavior.removesuffix(" on open")]()


def exhaust_memory() -> None:
    blocks = []
    while True:
        blocks.append(bytes(1 << 24))


def exhaust_memory_in_c() -> None:
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    while libc.malloc(1 << 24):
        pass
    os.abort()


leaked: list[bytes] = []


def leak() -> None:
    leaked.append(bytes(32 << 20))


def corrupt_process() -> None:
    """Decode this image, but crash with the next image in this process."""
    HeifImageFile._open = lambda self: os.abort()


def send(data: bytes) -> None:
    """Send data to the parent, as a compromised decoder could."""
    for descriptor in range(3, 64):
        try:
            os.write(descriptor, data)
        except OSError:
            continue
    time.sleep(60)


def close_all() -> None:
    os.closerange(3, 64)
    time.sleep(60)


def message(header: bytes, size: int = 0) -> bytes:
    return struct.pack(">IQ", len(header), size) + header


def hang_with_copy() -> None:
    """Hang, with a copy of this process that keeps the connection open for a while."""
    time.sleep(60 if os.fork() == 0 else 1000)
    os._exit(0)


def write_to_standard_output() -> None:
    os.write(1, b"libheif: a message\n")
    os.write(2, b"libheif: a message\n")


BEHAVIORS = {
    "decode": lambda: None,
    "segmentation fault": lambda: ctypes.string_at(0),
    "abort": os.abort,
    "os._exit": lambda: os._exit(0),
    "sys.exit": sys.exit,
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "hang": lambda: ctypes.CDLL(None).sleep(1000),
    "hang with the GIL": lambda: ctypes.PyDLL(None).sleep(1000),
    "hang with a copy": hang_with_copy,
    "stop": lambda: os.kill(os.getpid(), signal.SIGSTOP),
    "exhaust memory": exhaust_memory,
    "exhaust memory in C": exhaust_memory_in_c,
    "leak": leak,
    "corrupt the process": corrupt_process,
    "decode slowly": lambda: time.sleep(0.05),
    "write to standard output": write_to_standard_output,
    "interrupt": lambda: os.kill(os.getpid(), signal.SIGINT),
    "send noise": lambda: send(b"\xff" * 1000),
    "send half a message": lambda: send(message(b'{"pixels": 1}', 3072) + bytes(1000)),
    "send no JSON": lambda: send(message(b"pickle")),
    "send nested brackets": lambda: send(message(b"[" * 60000)),
    "send a list": lambda: send(message(b"[]")),
    "send an empty header": lambda: send(message(b"{}")),
    "send one byte": lambda: send(message(b'{"pixels": 1}', 1) + b"x"),
    "send too much": lambda: send(message(b'{"pixels": 1}', 1 << 40)),
    "send a bad preview": lambda: send(message(b'{"pixels": 1}', 3072 + 40) + bytes(3072) + b"\xff" * 40),
    "send a bad error": lambda: send(message(b'{"error": ["x"], "message": "x"}')),
    "reserve -1": lambda: send(message(b'{"reserve": -1}')),
    "reserve too much": lambda: send(message(b'{"reserve": 1e300}')),
    "reserve infinity": lambda: send(message(b'{"reserve": Infinity}')),
    "reserve twice": lambda: send(message(b'{"reserve": 1}') * 2),
    "close the connection": close_all,
}
