"""Inference throughput without files and decoding: ``bare_engine.py WEIGHTS IMAGES BATCH_SIZE...``.

Prints JSON: images per second by batch size, with all threads on one batch (the usual way to call ONNX Runtime), and
under ``one_image_per_thread`` with one image per thread, as ``densenet predict`` processes several images.
"""

import argparse
import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np

from densenet_cli.engines import graph_cache, onnx

ROUNDS = 4
"""Each round measures every method, so that a slow period of the machine affects all alike."""

parser = argparse.ArgumentParser(description="Measure inference throughput without decoding.")
parser.add_argument("weights", type=Path)
parser.add_argument("images", type=int)
parser.add_argument("batch_sizes", type=int, nargs="+")
args = parser.parse_args()

threads = len(os.sched_getaffinity(0))
session = onnx._session(graph_cache.get_graph(args.weights, None, None, onnx.GraphOptimizer()), threads)
engine = onnx.OnnxEngine(args.weights, None, threads, None)
rng = np.random.default_rng(0)
pixels = {size: rng.standard_normal((size, 3, 224, 224), np.float32) for size in args.batch_sizes}
max_size = max(args.batch_sizes)
images_of_one = [pixels[max_size][index : index + 1].transpose(0, 2, 3, 1) for index in range(max_size)]
pool = ThreadPoolExecutor(threads)
methods = {
    **{str(size): (size, partial(session.run, ["probabilities"], {"pixels": pixels[size]})) for size in pixels},
    "one_image_per_thread": (max_size, lambda: list(pool.map(partial(engine.run, alone=False), images_of_one))),
}
seconds = dict.fromkeys(methods, 0.0)
images = dict.fromkeys(methods, 0)
for round_ in range(ROUNDS + 1):
    for name, (batch_size, compute) in methods.items():
        batches = max(1, args.images // ROUNDS // batch_size)
        start = time.perf_counter()
        for _ in range(batches):
            compute()
        if round_ > 0:  # the first round is a warm-up
            seconds[name] += time.perf_counter() - start
            images[name] += batches * batch_size
print(json.dumps({name: images[name] / seconds[name] for name in methods}))
