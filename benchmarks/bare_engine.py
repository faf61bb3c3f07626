"""The engine alone, fed from memory: ``bare_engine.py WEIGHTS IMAGES BATCH...`` prints {way: images/s} as JSON.

A way is a batch size (all threads on one batch, as ONNX Runtime is usually called), or ``apart``: an image a thread,
as the command does it with several. On arrays that lie ready: no files, no decoding.
"""

import argparse
import json
import os
import time
from functools import partial
from pathlib import Path

import numpy as np

from densenet_cli.engines import graph_cache, onnx

TURNS = 4
"""The sizes are measured in turn, so that a slower minute of the machine is everyone's."""

parser = argparse.ArgumentParser(description="Measure the engine alone.")
parser.add_argument("weights", type=Path)
parser.add_argument("images", type=int)
parser.add_argument("batch", type=int, nargs="+")
asked = parser.parse_args()

session = onnx._session(graph_cache.obtain(asked.weights, None), len(os.sched_getaffinity(0)))
engine = onnx.OnnxEngine(asked.weights, None, len(os.sched_getaffinity(0)))
pixels = {batch: np.random.default_rng(0).standard_normal((batch, 3, 224, 224), np.float32) for batch in asked.batch}
ways = {
    **{str(batch): partial(session.run, ["probabilities"], {"pixels": pixels[batch]}) for batch in asked.batch},
    "apart": partial(engine.run, pixels[max(asked.batch)].transpose(0, 2, 3, 1)),
}
seconds = dict.fromkeys(ways, 0.0)
images = dict.fromkeys(ways, 0)
for turn in range(TURNS + 1):
    for mode, compute in ways.items():
        batch = int(mode) if mode.isdigit() else max(asked.batch)
        runs = max(1, asked.images // TURNS // batch)
        start = time.perf_counter()
        for _ in range(runs):
            compute()
        if turn:  # the first one warms up
            seconds[mode] += time.perf_counter() - start
            images[mode] += runs * batch
print(json.dumps({mode: images[mode] / seconds[mode] for mode in ways}))
