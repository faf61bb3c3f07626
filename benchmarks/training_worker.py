"""Train ``tiny``'s network in one framework: ``training_worker.py densenet|torch PRECISION FOLDER SIZE BATCH_SIZE``.

Prints a line when it is ready. For each line ``step`` or ``epoch`` on standard input, it trains, and prints the
seconds. FOLDER contains class folders of images. PRECISION is ``float32`` or ``bfloat16``.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

CLASSES = 200
BLOCKS, GROWTH_RATE, STEM_WIDTH = (2, 4, 6, 4), 48, 96
THREADS = len(os.sched_getaffinity(0))


def time_densenet(precision: str, folder: Path, size: int, batch_size: int) -> None:
    """Serve the commands with ``densenet train``'s own loop."""
    import numpy as np

    from densenet_cli.training import network, session
    from densenet_cli.training.options import RunOptions
    from densenet_cli.training.phases import Phase
    from densenet_cli.training.run_files import RunPaths
    from densenet_cli.training.settings import Settings

    settings = Settings(
        blocks=BLOCKS,
        growth_rate=GROWTH_RATE,
        stem="small",
        stem_width=STEM_WIDTH,
        input_size=64,
        sizes=(Phase(size, 1_000),),
        batch_size=batch_size,
        learning_rate=0.01,
        validation=0,
        precision="float32" if precision == "float32" else "mixed_bfloat16",
    )
    model = network.build(settings.config(CLASSES), settings.precision)
    network.compile_for_training(model, settings)
    generator = np.random.default_rng(0)
    pixels = generator.standard_normal((batch_size, size, size, 3), np.float32)
    targets = np.eye(CLASSES, dtype=np.float32)[generator.integers(0, CLASSES, batch_size)]

    with tempfile.TemporaryDirectory() as output:
        paths = RunPaths(folder, None, Path(output) / "run", Path(output) / "cache")
        with session.open_run(paths, settings, RunOptions(threads=THREADS)) as run:

            def epoch() -> None:
                """Train without writing the model and the state, which PyTorch's loop does not do either."""
                run.state.batch = 0
                run._train_epoch()

            serve(lambda: model.train_on_batch(pixels, targets), epoch)


def time_torch(precision: str, folder: Path, size: int, batch_size: int) -> None:
    """Serve the commands with the usual loop of PyTorch: channels last, autocast, and a DataLoader with processes."""
    import math

    import numpy as np
    import torch
    from PIL import Image
    from torch import nn

    class Layer(nn.Module):
        def __init__(self, channels: int) -> None:
            super().__init__()
            self.layers = nn.Sequential(
                nn.BatchNorm2d(channels),
                nn.ReLU(inplace=True),
                nn.Conv2d(channels, 4 * GROWTH_RATE, 1, bias=False),
                nn.BatchNorm2d(4 * GROWTH_RATE),
                nn.ReLU(inplace=True),
                nn.Conv2d(4 * GROWTH_RATE, GROWTH_RATE, 3, padding=1, bias=False),
            )

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cat([x, self.layers(x)], 1)

    def build() -> nn.Module:
        layers: list[nn.Module] = [nn.Conv2d(3, STEM_WIDTH, 3, stride=2, padding=1, bias=False)]
        channels = STEM_WIDTH
        for number, count in enumerate(BLOCKS, start=1):
            for _ in range(count):
                layers.append(Layer(channels))
                channels += GROWTH_RATE
            layers += [nn.BatchNorm2d(channels), nn.ReLU(inplace=True)]
            if number < len(BLOCKS):
                layers += [nn.Conv2d(channels, channels // 2, 1, bias=False), nn.AvgPool2d(2)]
                channels //= 2
        head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, CLASSES)]
        return nn.Sequential(*layers, *head).to(memory_format=torch.channels_last).train()

    class Images(torch.utils.data.Dataset):
        """Decodes in every epoch. A random resized crop as in torchvision, a flip, and normalization."""

        def __init__(self) -> None:
            self.paths = sorted(folder.glob("*/*"))
            self.classes = {name: n for n, name in enumerate(sorted({path.parent.name for path in self.paths}))}

        def __len__(self) -> int:
            return len(self.paths)

        def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
            path = self.paths[index]
            with Image.open(path) as file:
                image = file.convert("RGB")
            generator = np.random.default_rng()
            area = image.width * image.height * generator.uniform(0.35, 1)
            ratio = math.exp(generator.uniform(math.log(3 / 4), math.log(4 / 3)))
            width, height = min(image.width, math.sqrt(area * ratio)), min(image.height, math.sqrt(area / ratio))
            left, top = generator.uniform(0, image.width - width), generator.uniform(0, image.height - height)
            box = (left, top, left + width, top + height)
            pixels = np.asarray(image.resize((size, size), Image.Resampling.BILINEAR, box), np.float32) / 255
            pixels = (pixels - np.float32([0.485, 0.456, 0.406])) / np.float32([0.229, 0.224, 0.225])
            pixels = pixels[:, ::-1] if generator.random() < 0.5 else pixels
            return torch.from_numpy(pixels.transpose(2, 0, 1).copy()), self.classes[path.parent.name]

    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    model = build()
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9, nesterov=True, weight_decay=1e-4)
    loss = nn.CrossEntropyLoss(label_smoothing=0.1)

    def step(pixels: torch.Tensor, targets: torch.Tensor) -> float:
        optimizer.zero_grad()
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            logits = model(pixels)
        value = loss(logits.float(), targets)
        value.backward()
        optimizer.step()
        return value.item()

    loader = torch.utils.data.DataLoader(
        Images(), batch_size, shuffle=True, drop_last=True, num_workers=THREADS, persistent_workers=True
    )
    pixels, targets = torch.randn(batch_size, 3, size, size), torch.randint(0, CLASSES, (batch_size,))

    def epoch() -> None:
        for batch in loader:
            step(*batch)

    serve(lambda: step(pixels, targets), epoch)


def serve(step: Callable[[], object], epoch: Callable[[], object]) -> None:
    """Warm up, and measure what standard input requests."""
    functions = {"step": step, "epoch": epoch}
    step()
    step()
    print("ready", flush=True)
    for line in sys.stdin:
        started = time.perf_counter()
        functions[line.strip()]()
        print(time.perf_counter() - started, flush=True)


if __name__ == "__main__":
    framework, precision, folder, size, batch_size = sys.argv[1:]
    time_framework = {"densenet": time_densenet, "torch": time_torch}[framework]
    time_framework(precision, Path(folder), int(size), int(batch_size))
