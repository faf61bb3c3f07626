"""One vector an image, in a file: the network's last feature maps, averaged, and the sources beside them."""

from __future__ import annotations

from densenet_cli.layers import array_shapes
from densenet_cli.output.vector_formats import FORMATS
from densenet_cli.output.vectors import EmbeddingFile
from densenet_cli.topology import DenseNetConfig

__all__ = ["FORMATS", "EmbeddingFile", "width_of"]


def width_of(config: DenseNetConfig) -> int:
    """How many numbers a vector of this network has: its last feature maps."""
    return array_shapes(config)["predictions"]["kernel"][0]
