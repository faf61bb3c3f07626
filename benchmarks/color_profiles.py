"""The cost of color profiles: ``color_profiles.py IMAGE`` prints milliseconds per image as JSON.

The image is encoded as JPEG in two sizes: without a profile, with an sRGB profile, and with one of other primaries.
"first" is the first image in a process, "others" the median of the next ones. One thread decodes and resizes.
"""

import argparse
import io
import json
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image, ImageCms

from densenet_cli.images.decoding import load
from densenet_cli.images.preprocessing import Preprocessing
from densenet_cli.images.sources import from_object

REPEATS = 20
SIZES = ((640, 480), (4000, 3000))

parser = argparse.ArgumentParser(description="Measure the cost of embedded color profiles.")
parser.add_argument("image")
parser.add_argument("--file", action="store_true", help="Measure this file, instead of making files from it.")
args = parser.parse_args()


def measure(data: bytes) -> dict[str, float]:
    Image.open(io.BytesIO(data)).load()  # imports the plugin
    times = []
    for _ in range(REPEATS + 1):
        start = time.perf_counter()
        load(from_object(data), Preprocessing())
        times.append(1000 * (time.perf_counter() - start))
    return {"first": round(times[0], 2), "others": round(statistics.median(times[1:]), 2)}


def other_profile(srgb: bytes) -> bytes:
    """Return an sRGB profile with another red."""
    position = srgb.index(b"rXYZ")
    offset = struct.unpack_from(">I", srgb, position + 4)[0] + 8
    return srgb[:offset] + struct.pack(">3i", 39960, 20389, 1276) + srgb[offset + 12 :]


if args.file:
    with open(args.image, "rb") as file:
        print(json.dumps(measure(file.read())))
    sys.exit()
srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
results: dict[str, dict[str, object]] = {}
with tempfile.TemporaryDirectory() as folder:
    for width, height in SIZES:
        image = Image.open(args.image).convert("RGB").resize((width, height))
        for name, profile in (("none", None), ("sRGB", srgb), ("other", other_profile(srgb))):
            path = Path(folder, f"{width}-{name}.jpg")
            image.save(path, quality=90, icc_profile=profile)
            command = [sys.executable, __file__, "--file", str(path)]
            measured = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            results.setdefault(f"{width}x{height}", {})[name] = json.loads(measured)
print(json.dumps(results, indent=2))
