"""What decoding at reduced scale changes: ``reduced_scale.py WEIGHTS FOLDER`` prints the differences as JSON.

Times are of decoding and resizing one image in one thread; pixels are those that the network sees, 224x224.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
from material import LARGE_KINDS

from densenet_cli import Classifier
from densenet_cli.images.decoding import load
from densenet_cli.images.preprocessing import Preprocessing
from densenet_cli.images.sources import from_object

parser = argparse.ArgumentParser(description="Compare decoding at reduced scale with decoding all of a JPEG.")
parser.add_argument("weights", type=Path)
parser.add_argument("folder", type=Path)
asked = parser.parse_args()

paths = sorted(asked.folder.iterdir())
pixels, seconds, rows = {}, {}, {}
for exact in (False, True):
    preprocessing = Preprocessing(exact=exact)
    load(from_object(paths[0]), preprocessing)
    start = time.perf_counter()
    pixels[exact] = np.concatenate([load(from_object(path), preprocessing) for path in paths]).astype(np.int16)
    seconds[exact] = (time.perf_counter() - start) / len(paths)
    classifier = Classifier(weights=asked.weights, exact=exact)
    rows[exact] = np.array([r.outputs["probabilities"] for r in classifier.stream(map(from_object, paths))])

pixel_difference = np.abs(pixels[True] - pixels[False])
probability_difference = np.abs(rows[True] - rows[False])
same_first = rows[True].argmax(axis=1) == rows[False].argmax(axis=1)
kinds = {
    kind: {
        "largest_pixel": int(pixel_difference[start::2].max()),
        "mean_pixel": float(pixel_difference[start::2].mean()),
        "largest_probability": float(probability_difference[start::2].max()),
        "same_first": int(same_first[start::2].sum()),
        "images": len(same_first[start::2]),
    }
    for start, kind in enumerate(LARGE_KINDS)
}
print(json.dumps({"reduced_ms": seconds[False] * 1e3, "exact_ms": seconds[True] * 1e3, **kinds}))
