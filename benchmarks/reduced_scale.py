"""The effect of decoding at reduced scale: ``reduced_scale.py WEIGHTS FOLDER`` prints times and differences as JSON.

Times are for decoding and resizing one image in one thread. Pixels are the network's input before normalization.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
from inputs import LARGE_KINDS

from densenet_cli import Classifier
from densenet_cli.images.decoding import load
from densenet_cli.images.preprocessing import Preprocessing
from densenet_cli.images.sources import from_object

parser = argparse.ArgumentParser(description="Compare decoding of JPEGs at reduced scale and at full scale.")
parser.add_argument("weights", type=Path)
parser.add_argument("folder", type=Path)
args = parser.parse_args()

sources = [from_object(path) for path in sorted(args.folder.iterdir())]
pixels, seconds, probabilities = {}, {}, {}
for exact in (False, True):
    preprocessing = Preprocessing(exact=exact)
    load(sources[0], preprocessing)
    start = time.perf_counter()
    images = [load(source, preprocessing).pixels for source in sources]
    seconds[exact] = (time.perf_counter() - start) / len(sources)
    pixels[exact] = np.concatenate(images).astype(np.int16)
    classifier = Classifier(weights=args.weights, exact=exact)
    probabilities[exact] = np.array([result.outputs["probabilities"] for result in classifier.stream(sources)])

pixel_difference = np.abs(pixels[True] - pixels[False])
probability_difference = np.abs(probabilities[True] - probabilities[False])
same_top1 = probabilities[True].argmax(axis=1) == probabilities[False].argmax(axis=1)
kinds = {
    kind: {
        "max_pixel_difference": int(pixel_difference[start::2].max()),
        "mean_pixel_difference": float(pixel_difference[start::2].mean()),
        "max_probability_difference": float(probability_difference[start::2].max()),
        "same_top1": int(same_top1[start::2].sum()),
        "images": len(same_top1[start::2]),
    }
    for start, kind in enumerate(LARGE_KINDS)
}
print(json.dumps({"reduced_ms": seconds[False] * 1e3, "exact_ms": seconds[True] * 1e3, **kinds}))
