"""DenseNet in PyTorch with torchvision's module names, because each torchvision wheel requires one PyTorch version."""

from __future__ import annotations

import torch
from torch import nn

from densenet_cli.topology import DenseNetConfig


class DenseLayer(nn.Module):
    def __init__(self, width: int, growth_rate: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.BatchNorm2d(width), nn.BatchNorm2d(4 * growth_rate)
        self.conv1 = nn.Conv2d(width, 4 * growth_rate, 1, bias=False)
        self.conv2 = nn.Conv2d(4 * growth_rate, growth_rate, 3, padding=1, bias=False)

    def forward(self, x):
        return torch.cat([x, self.conv2(self.norm2(self.conv1(self.norm1(x).relu())).relu())], 1)


class Transition(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.conv = nn.BatchNorm2d(width), nn.Conv2d(width, width // 2, 1, bias=False)

    def forward(self, x):
        return nn.functional.avg_pool2d(self.conv(self.norm(x).relu()), 2)


class DenseNet(nn.Module):
    """torchvision's DenseNet."""

    def __init__(self, config: DenseNetConfig) -> None:
        super().__init__()
        width = config.stem_width
        parts = {
            "conv0": nn.Conv2d(3, width, 7, 2, 3, bias=False),
            "norm0": nn.BatchNorm2d(width),
            "relu0": nn.ReLU(),
            "pool0": nn.MaxPool2d(3, 2, 1),
        }
        for stage, layers in enumerate(config.blocks, start=1):
            block = {}
            for layer in range(1, layers + 1):
                block[f"denselayer{layer}"] = DenseLayer(width, config.growth_rate)
                width += config.growth_rate
            parts[f"denseblock{stage}"] = nn.Sequential()
            for name, layer in block.items():
                parts[f"denseblock{stage}"].add_module(name, layer)
            if stage < len(config.blocks):
                parts[f"transition{stage}"] = Transition(width)
                width //= 2
        parts["norm5"] = nn.BatchNorm2d(width)
        self.features = nn.Sequential()
        for name, part in parts.items():
            self.features.add_module(name, part)
        self.classifier = nn.Linear(width, config.classes)

    def forward(self, x):
        return self.classifier(self.features(x).relu().mean((2, 3)))
