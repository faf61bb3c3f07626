"""PyTorch's bfloat16 inference without decoding: ``torch_engine.py IMAGES`` prints JSON.

The network is a DenseNet-121 with torchvision's modules, in channels-last memory format, on all cores. ``eager`` and
``compiled`` (``torch.compile`` with frozen weights) are images per second at the best batch size. Runs in any
interpreter with PyTorch.
"""

import json
import os
import sys
import time
from pathlib import Path

import torch

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "src")]

from densenet_cli.topology import DenseNetConfig  # noqa: E402
from tests.support.torch_densenet import DenseNet  # noqa: E402

BATCH_SIZES = (8, 32)
ROUNDS = 4
"""Each round measures everything, so that a slow period of the machine affects all alike."""

images = int(sys.argv[1])
torch.set_num_threads(len(os.sched_getaffinity(0)))
torch._inductor.config.freezing = True
model = DenseNet(DenseNetConfig((6, 12, 24, 16))).eval().to(torch.bfloat16, memory_format=torch.channels_last)
networks = {"eager": model, "compiled": torch.compile(model, dynamic=False)}
seconds: dict[tuple[str, int], float] = {(name, size): 0.0 for name in networks for size in BATCH_SIZES}
with torch.inference_mode():
    for round_ in range(ROUNDS + 1):
        for name, size in seconds:
            pixels = torch.randn(size, 3, 224, 224).to(torch.bfloat16, memory_format=torch.channels_last)
            batches = max(2, images // ROUNDS // size)
            start = time.perf_counter()
            for _ in range(batches):
                networks[name](pixels)
            if round_ > 0:  # the first round compiles and is a warm-up
                seconds[name, size] += (time.perf_counter() - start) / (ROUNDS * batches * size)
best = {name: 1 / min(seconds[name, size] for size in BATCH_SIZES) for name in networks}
print(json.dumps({**best, "version": torch.__version__}))
