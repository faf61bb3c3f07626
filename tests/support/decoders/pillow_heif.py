"""A decoder of HEIC images that does what the image says: crash, hang, swell, lie, or give an image.

Whoever puts this folder on the path gets it in the place of the real one, where no test has installed that.
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

HEAD = b"\0\0\0\x18ftypheic"


def heic(behavior: str, color: int = 0, mark: object = None) -> bytes:
    """The file of an image, 8x8 of one gray, that ``behavior`` decodes; ``mark`` is a file that it makes then."""
    return HEAD + json.dumps({"behavior": behavior, "color": color, "mark": mark and str(mark)}).encode()


class HeifImageFile(ImageFile.ImageFile):
    format = "HEIF"

    def _open(self) -> None:
        said = json.loads(self.fp.read()[len(HEAD) :])
        self._size, self._mode = (8, 8), "RGB"
        self._behavior, self._color, self._mark = said["behavior"], said["color"], said["mark"]
        if self._behavior.endswith(" as it is opened"):
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
        BEHAVIORS[self._behavior.removesuffix(" as it is opened")]()


def swell_in_python() -> None:
    held = []
    while True:
        held.append(bytes(1 << 24))


def swell_in_c() -> None:
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    while libc.malloc(1 << 24):
        pass
    os.abort()


leaked: list[bytes] = []


def leak() -> None:
    leaked.append(bytes(32 << 20))


def corrupt_for_the_next() -> None:
    """Nothing shows now; the next image in this process crashes."""
    HeifImageFile._open = lambda self: os.abort()


def answer(data: bytes) -> None:
    """What a decoder that was taken over could say to the parent."""
    for descriptor in range(3, 64):
        try:
            os.write(descriptor, data)
        except OSError:
            continue
    time.sleep(60)


def close_all() -> None:
    os.closerange(3, 64)
    time.sleep(60)


def message(text: bytes, size: int = 0) -> bytes:
    return struct.pack(">IQ", len(text), size) + text


def write_to_standard_output() -> None:
    os.write(1, b"libheif: a message\n")
    os.write(2, b"libheif: a message\n")


BEHAVIORS = {
    "decode": lambda: None,
    "segmentation fault": lambda: ctypes.string_at(0),
    "abort": os.abort,
    "exit": lambda: os._exit(0),
    "leave": sys.exit,
    "killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "hang": lambda: ctypes.CDLL(None).sleep(1000),
    "hang with the interpreter's lock": lambda: ctypes.PyDLL(None).sleep(1000),
    "stop": lambda: os.kill(os.getpid(), signal.SIGSTOP),
    "swell": swell_in_python,
    "swell in C": swell_in_c,
    "leak": leak,
    "corrupt": corrupt_for_the_next,
    "slow": lambda: time.sleep(0.05),
    "messages": write_to_standard_output,
    "deaf to interrupts": lambda: os.kill(os.getpid(), signal.SIGINT),
    "say noise": lambda: answer(b"\xff" * 1000),
    "say no JSON": lambda: answer(message(b"pickle")),
    "say brackets": lambda: answer(message(b"[" * 60000)),
    "say a list": lambda: answer(message(b"[]")),
    "say nothing of use": lambda: answer(message(b"{}")),
    "say half an image": lambda: answer(message(b'{"pixels": 1}', 1) + b"x"),
    "say a bad copy": lambda: answer(message(b'{"pixels": 1}', 3072 + 40) + bytes(3072) + b"\xff" * 40),
    "say another error": lambda: answer(message(b'{"error": ["x"], "message": "x"}')),
    "ask for less than nothing": lambda: answer(message(b'{"reserve": -1}')),
    "ask for too much": lambda: answer(message(b'{"reserve": 1e300}')),
    "ask for infinity": lambda: answer(message(b'{"reserve": Infinity}')),
    "ask twice": lambda: answer(message(b'{"reserve": 1}') * 2),
    "close": close_all,
}
