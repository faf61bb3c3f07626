"""The engine alone, fed from memory: ``bare_engine.py WEIGHTS PICTURES BATCH...`` prints {batch: pictures/s} as JSON.

The session that the command uses, on arrays that lie ready as it wants them: no files, no decoding, no copies.
"""

import argparse
import json
import os
import time
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
pixels = {batch: np.random.default_rng(0).standard_normal((batch, 3, 224, 224), np.float32) for batch in asked.batch}
seconds = dict.fromkeys(asked.batch, 0.0)
pictures = dict.fromkeys(asked.batch, 0)
for turn in range(TURNS + 1):
    for batch in asked.batch:
        runs = max(1, asked.pictures // TURNS // batch)
        start = time.perf_counter()
        for _ in range(runs):
            session.run(["probabilities"], {"pixels": pixels[batch]})
        if turn:  # the first one warms up
            seconds[batch] += time.perf_counter() - start
            pictures[batch] += runs * batch
print(json.dumps({batch: pictures[batch] / seconds[batch] for batch in asked.batch}))
