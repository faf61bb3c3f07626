"""Decoding and inference alone in each precision: ``precision_engines.py WEIGHTS FOLDER IMAGES``.

Prints JSON: images per second of ``decode``, ``float32``, and ``bfloat16``, with as many threads as cores. Each thread
processes one image at a time.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import cycle, islice
from pathlib import Path

from densenet_cli import Classifier

ROUNDS = 4
"""Each round measures everything, so that a slow period of the machine affects all alike."""

parser = argparse.ArgumentParser(description="Measure decoding and inference alone.")
parser.add_argument("weights", type=Path)
parser.add_argument("folder", type=Path)
parser.add_argument("images", type=int)
args = parser.parse_args()

threads = len(os.sched_getaffinity(0))
classifiers = {name: Classifier(weights=args.weights, precision=name) for name in ("float32", "bfloat16")}
paths = sorted(args.folder.iterdir())[: args.images]
pixels = [classifiers["float32"].load_pixels(path) for path in paths[:32]]
work = {
    "decode": (classifiers["float32"].load_pixels, paths),
    **{name: (partial(classifier.run, alone=False), pixels) for name, classifier in classifiers.items()},
}
seconds = dict.fromkeys(work, 0.0)
count = max(threads, args.images // ROUNDS)
with ThreadPoolExecutor(threads) as pool:
    for round_ in range(ROUNDS + 1):
        for name, (function, inputs) in work.items():
            start = time.perf_counter()
            deque(pool.map(function, islice(cycle(inputs), count)), maxlen=0)
            if round_ > 0:  # the first round is a warm-up
                seconds[name] += time.perf_counter() - start
print(json.dumps({name: ROUNDS * count / seconds[name] for name in work}))
