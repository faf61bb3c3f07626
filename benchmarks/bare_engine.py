"""The engine alone, fed from memory: ``bare_engine.py WEIGHTS PICTURES BATCH...`` prints {way: pictures/s} as JSON.

A way is a batch size (all threads on one batch, as ONNX Runtime is usually called), or ``apart``: a picture a thread,
as the command does it with several. On arrays that lie ready: no files, no decoding.
"""

import argparse
import json
import os
import time
from functools import partial
from pathlib import Path

import numpy as np

from densenet_cli.engines import graph_cache, onnx_engine

TURNS = 4
"""The sizes are measured in turn, so that a slower minute of the machine is everyone's."""

parser = argparse.ArgumentParser(description="Measure the engine alone.")
parser.add_argument("weights", type=Path)
parser.add_argument("pictures", type=int)
parser.add_argument("batch", type=int, nargs="+")
asked = parser.parse_args()

session = onnx_engine._session(graph_cache.obtain(asked.weights, None), len(os.sched_getaffinity(0)))
engine = onnx_engine.OnnxEngine(asked.weights, None, len(os.sched_getaffinity(0)))
pixels = {batch: np.random.default_rng(0).standard_normal((batch, 3, 224, 224), np.float32) for batch in asked.batch}
ways = {
    **{str(batch): partial(session.run, ["probabilities"], {"pixels": pixels[batch]}) for batch in asked.batch},
    "apart": partial(engine.run, pixels[max(asked.batch)].transpose(0, 2, 3, 1)),
}
seconds = dict.fromkeys(ways, 0.0)
pictures = dict.fromkeys(ways, 0)
for turn in range(TURNS + 1):
    for way, compute in ways.items():
        batch = int(way) if way.isdigit() else max(asked.batch)
        runs = max(1, asked.pictures // TURNS // batch)
        start = time.perf_counter()
        for _ in range(runs):
            compute()
        if turn:  # the first one warms up
            seconds[way] += time.perf_counter() - start
            pictures[way] += runs * batch
print(json.dumps({way: pictures[way] / seconds[way] for way in ways}))
