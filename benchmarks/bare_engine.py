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

parser = argparse.ArgumentParser(description="Measure the engine alone.")
parser.add_argument("weights", type=Path)
parser.add_argument("pictures", type=int)
parser.add_argument("batch", type=int, nargs="+")
asked = parser.parse_args()

session = onnx_engine._session(graph_cache.obtain(asked.weights, None), len(os.sched_getaffinity(0)))
rates = {}
for batch in asked.batch:
    pixels = np.random.default_rng(0).standard_normal((batch, 3, 224, 224), np.float32)
    session.run(["probabilities"], {"pixels": pixels})
    runs = max(2, asked.pictures // batch)
    start = time.perf_counter()
    for _ in range(runs):
        session.run(["probabilities"], {"pixels": pixels})
    rates[batch] = runs * batch / (time.perf_counter() - start)
print(json.dumps(rates))
