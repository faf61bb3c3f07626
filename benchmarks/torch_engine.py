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

images = int(sys.argv[1])
torch.set_num_threads(len(os.sched_getaffinity(0)))
torch._inductor.config.freezing = True
model = DenseNet(DenseNetConfig((6, 12, 24, 16))).eval().to(torch.bfloat16, memory_format=torch.channels_last)
best = {}
with torch.inference_mode():
    for name in ("eager", "compiled"):
        rates = []
        for batch_size in BATCH_SIZES:
            network = torch.compile(model, dynamic=False) if name == "compiled" else model
            pixels = torch.randn(batch_size, 3, 224, 224).to(torch.bfloat16, memory_format=torch.channels_last)
            for _ in range(3):
                network(pixels)
            batches = max(2, images // batch_size)
            start = time.perf_counter()
            for _ in range(batches):
                network(pixels)
            rates.append(batches * batch_size / (time.perf_counter() - start))
        best[name] = max(rates)
print(json.dumps({**best, "version": torch.__version__}))
