"""Recording of the files in ``tests/data/torch`` with PyTorch, torchvision, timm, and MONAI, and of their outputs.

    pip install torch torchvision timm monai
    python -m tests.data.make_torch_files

``tests/weights/pytorch/test_files.py`` reads them without these libraries.
"""

from __future__ import annotations

import argparse
import io
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch._sources import get_source_lines_and_file
from torchvision.models import DenseNet

FOLDER = Path(__file__).parent / "torch"
SIZE = {"growth_rate": 2, "block_config": (1, 2), "num_init_features": 4}
CLASSES = 3


def randomize(network: nn.Module, seed: int = 0) -> nn.Module:
    """Set random values, also for the statistics of batch norms, so that every array matters."""
    generator = torch.Generator().manual_seed(seed)
    for name, values in network.state_dict().items():
        if values.dtype.is_floating_point:
            low, high = (1e-6, 2.0) if name.endswith("running_var") else (-0.6, 0.9)
            values.copy_(torch.rand(values.shape, generator=generator) * (high - low) + low)
    return network.eval()


def old_names(state: dict) -> OrderedDict:
    """Return the names that torchvision used before version 0.2.1, such as ``norm.1``."""
    names = {"norm1": "norm.1", "conv1": "conv.1", "norm2": "norm.2", "conv2": "conv.2"}
    renamed = OrderedDict()
    for name, values in state.items():
        parts = name.split(".")
        parts = [names.get(part, part) if "denselayer" in name else part for part in parts]
        renamed[".".join(parts)] = values
    return renamed


class CheXNet(nn.Module):
    """A wrapper of a DenseNet with sigmoids, whose names are those of the published CheXNet."""

    def __init__(self) -> None:
        super().__init__()
        self.densenet121 = DenseNet(**SIZE, num_classes=CLASSES)
        features = self.densenet121.classifier.in_features
        self.densenet121.classifier = nn.Sequential(nn.Linear(features, 4), nn.Sigmoid())

    def forward(self, x):
        return self.densenet121(x)


class Normalize(nn.Module):
    """A normalization in front of a network."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1))

    def forward(self, x):
        return (x - self.mean) / self.std


class Callback:
    """An object of a class that only the training script knows."""

    def __init__(self) -> None:
        self.best = {"score": np.float64(0.5), "path": Path("best.ckpt")}


def optimizer_state(network: nn.Module) -> dict:
    optimizer = torch.optim.Adam(network.parameters())
    network.train()(torch.ones(2, 3, 32, 32)).sum().backward()
    optimizer.step()
    network.eval()
    return optimizer.state_dict()


def source_without_folder(cls: type) -> tuple[list[str], int, str]:
    """Return the source of a class, which the stream of a whole model contains, without the folder of its file."""
    lines, number, file = get_source_lines_and_file(cls)
    return lines, number, Path(file).name


def save_torchscript(module: torch.jit.ScriptModule, path: Path) -> None:
    """Save a module without the debug files, which contain the paths of the libraries."""
    buffer = io.BytesIO()
    torch.jit.save(module, buffer)
    with zipfile.ZipFile(buffer) as archive, zipfile.ZipFile(path, "w") as stripped:
        for member in archive.infolist():
            if not member.filename.endswith(".debug_pkl"):
                stripped.writestr(member.filename.replace("archive/", f"{path.stem}/"), archive.read(member))


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    torch.serialization.get_source_lines_and_file = source_without_folder
    expected: dict[str, np.ndarray] = {}
    generator = torch.Generator().manual_seed(9)
    images = {3: torch.randn(2, 3, 40, 40, generator=generator), 1: torch.randn(2, 1, 40, 40, generator=generator)}
    expected.update({f"images{channels}": batch.numpy() for channels, batch in images.items()})

    def record(name: str, value: object, network: nn.Module, channels: int = 3, dtype=None, **options) -> None:
        torch.save(value, FOLDER / name, **options)
        if dtype is not None:
            network = new()
            network.load_state_dict({key: value.to(dtype).float() for key, value in plain.items()})
        with torch.no_grad():
            expected[name] = network(images[channels]).numpy()

    def new(seed: int = 0) -> nn.Module:
        return randomize(DenseNet(**SIZE, num_classes=CLASSES), seed)

    network = new()
    plain = network.state_dict()
    stream = {"_use_new_zipfile_serialization": False}
    record("zip.pth", plain, network)
    record("zip-protocol4.pth", plain, network, pickle_protocol=4)
    record("torchvision-old-names.pth", old_names(plain), network, **stream)
    record("stream-protocol4.pth", plain, network, pickle_protocol=4, **stream)
    record("parameters.pth", dict(network.named_parameters()) | dict(network.named_buffers()), network)
    record("bfloat16.pth", {k: v.bfloat16() for k, v in plain.items()}, network, dtype=torch.bfloat16)
    record("float16.pth", {k: v.half() for k, v in plain.items()}, network, dtype=torch.float16, **stream)
    record("float64.pth", {k: v.double() for k, v in plain.items()}, network)
    flat = torch.cat([values.float().flatten() for values in plain.values()])
    views, offset = OrderedDict(), 0
    for key, values in plain.items():
        views[key] = flat[offset : offset + values.numel()].view(values.shape)
        offset += values.numel()
    record("shared-storage.pth", views, network)
    record("channels-last.pth", new().to(memory_format=torch.channels_last).state_dict(), network)
    strided = OrderedDict((k, torch.stack([v, v + 1], -1)[..., 0]) for k, v in plain.items())
    record("strided.pth", strided, network, **stream)

    imagenet = {
        "epoch": 90,
        "arch": "densenet121",
        "state_dict": nn.DataParallel(network).state_dict(),
        "best_acc1": torch.tensor(74.4),
        "optimizer": optimizer_state(new(1)),
        "scheduler": torch.optim.lr_scheduler.StepLR(torch.optim.SGD(new(1).parameters(), 0.1), 30).state_dict(),
    }
    record("imagenet-example.pth.tar", imagenet, network)
    averaged = new(2)
    timm = {
        "epoch": 3,
        "arch": "densenet121",
        "state_dict": plain,
        "optimizer": optimizer_state(new(1)),
        "version": 2,
        "args": argparse.Namespace(lr=0.1, mean=None, data=Path("imagenet"), opt_betas=(0.9, 0.999)),
        "state_dict_ema": averaged.state_dict(),
        "metric": np.float32(71.5),
    }
    record("timm-training.pth.tar", timm, averaged)
    lightning = {
        "epoch": 4,
        "pytorch-lightning_version": "2.1.0",
        "state_dict": {
            **{f"model.{key}": value for key, value in plain.items()},
            "criterion.weight": torch.ones(CLASSES),
            "metrics.confmat": torch.zeros(CLASSES, CLASSES, dtype=torch.long),
            "perceptual.conv.weight": torch.ones(4, 3, 3, 3),
        },
        "callbacks": {Callback: Callback(), "EarlyStopping{'monitor': 'loss'}": {"wait": 2, "best": torch.tensor(0.1)}},
        "optimizer_states": [optimizer_state(new(1))],
        "hyper_parameters": {"lr": 1e-3, "net": Callback()},
        "random": np.random.default_rng(0).bit_generator.state,
    }
    record("lightning.ckpt", lightning, network)
    compiled = OrderedDict((f"_orig_mod.module.{key}", value) for key, value in plain.items())
    record("compiled.pth", {"model": compiled, "optimizer": None}, network)
    chexnet = randomize(CheXNet(), 3)
    record("chexnet.pth.tar", {"state_dict": old_names(nn.DataParallel(chexnet).state_dict())}, chexnet, **stream)
    record("module.pth", network, network)
    record("module-stream.pth", nn.DataParallel(network), network, **stream)
    headless = {key: value for key, value in plain.items() if not key.startswith("classifier")}
    record("headless.pth", headless, network.features)
    no_bias = new(4)
    no_bias.classifier = nn.Linear(no_bias.classifier.in_features, CLASSES, bias=False)
    record("no-bias.pth", no_bias.state_dict(), no_bias)

    from monai.networks.nets import DenseNet as MonaiDenseNet

    size = {"init_features": 4, "growth_rate": 2, "block_config": (1, 2), "out_channels": CLASSES}
    monai_size = size
    monai = randomize(MonaiDenseNet(spatial_dims=2, in_channels=1, **size), 5)
    record("monai.pt", monai.state_dict(), monai, channels=1)
    volumes = MonaiDenseNet(spatial_dims=3, in_channels=1, **size)
    torch.save(volumes.state_dict(), FOLDER / "refused-volumes.pt")

    from timm.layers import BlurPool2d
    from timm.models.densenet import DenseNet as TimmDenseNet

    size = {"growth_rate": 2, "block_config": (1, 2), "num_classes": CLASSES, "stem_type": "deep"}
    deep = randomize(TimmDenseNet(**size), 6)
    record("deep-stem.pth", deep.state_dict(), deep)
    record("module-deep-stem.pth", deep, deep)
    blurred = randomize(TimmDenseNet(**size, aa_layer=BlurPool2d), 7)
    record("blurred-stem.pth", blurred, blurred)
    normalized = nn.Sequential(Normalize(), new(14)).eval()
    record("normalized.pth", normalized.state_dict(), normalized)

    head = new(10)
    features = head.classifier.in_features
    head.classifier = nn.Sequential(
        nn.BatchNorm1d(features, eps=0.01),
        nn.Dropout(0.5),
        nn.Linear(features, 6),
        nn.Sequential(nn.LeakyReLU(0.2), nn.BatchNorm1d(6)),
        nn.Linear(6, 4, bias=False),
        nn.Sigmoid(),
    )
    head.features.norm0.eps = 0.05
    record("module-with-head.pth", nn.DataParallel(randomize(head, 10)), head)
    whole = randomize(MonaiDenseNet(spatial_dims=2, in_channels=1, **monai_size), 11)
    record("module-monai.pt", {"epoch": 1, "model": whole}, whole, channels=1, **stream)
    maximum = randomize(TimmDenseNet(growth_rate=2, block_config=(1, 2), num_classes=CLASSES, global_pool="max"), 12)
    record("module-max-pool.pth", maximum, maximum)
    sequence = nn.Sequential(new(15), nn.Identity(), nn.Sigmoid()).eval()
    record("module-sequence.pth", sequence, sequence)
    pool = nn.Sequential(nn.AdaptiveMaxPool2d(1), nn.Flatten())
    parts = randomize(nn.Sequential(new(16).features, nn.ReLU(), pool, nn.Dropout(), nn.Linear(features, CLASSES)), 16)
    record("module-parts.pth", nn.DataParallel(parts), parts)
    other = new(13)
    other.classifier = nn.Sequential(nn.Linear(features, 6), nn.Hardswish(), nn.Linear(6, CLASSES))
    torch.save(other, FOLDER / "refused-head.pth")
    save_torchscript(torch.jit.trace(network, images[3]), FOLDER / "refused-torchscript.pt")
    torch.save({"optimizer": optimizer_state(new(1)), "epoch": 1}, FOLDER / "refused-optimizer.pth")
    torch.save(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).state_dict(), FOLDER / "refused-other.pth")
    mlp = new(8)
    mlp.classifier = nn.Sequential(nn.Linear(mlp.classifier.in_features, 5), nn.ReLU(), nn.Linear(5, CLASSES))
    torch.save(mlp.state_dict(), FOLDER / "refused-two-layers.pth")
    np.savez(FOLDER / "expected.npz", **expected)


if __name__ == "__main__":
    main()
