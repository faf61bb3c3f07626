"""NumPy's float32 matrix product for comparison: prints GFLOP/s as JSON (best of ten, 2,048 x 2,048)."""

import json
import time

import numpy as np

SIZE = 2048
left, right = np.random.default_rng(0).standard_normal((2, SIZE, SIZE), np.float32)
product = np.empty_like(left)
times = []
for _ in range(10):
    start = time.perf_counter()
    np.matmul(left, right, out=product)
    times.append(time.perf_counter() - start)
print(json.dumps(2 * SIZE**3 / min(times) / 1e9))
