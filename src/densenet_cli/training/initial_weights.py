"""The checkpoint that a run starts from. Only its backbone must be supported, because most runs get a new head."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from densenet_cli import variants
from densenet_cli.errors import CheckpointError

if TYPE_CHECKING:
    from densenet_cli.labels import Labels
    from densenet_cli.topology import DenseNetConfig
    from densenet_cli.weights.contents import Arrays, Checkpoint


def read_backbone(start: str, config: DenseNetConfig | None, offline: bool = False) -> Checkpoint:
    """Read the backbone of a variant, or of another checkpoint (see ``locations.find_checkpoint``).

    Args:
        start: The name of a variant, a path, or an ``hf://`` URL.
        config: The network that the checkpoint must contain, or None to infer it.
        offline: Do not download it.

    Raises:
        WeightsError: The weights are unavailable, belong to another network, or are for grayscale images.
    """
    return _read_backbone(_find(start, offline), config)


def load_arrays(start: str, config: DenseNetConfig, labels: Labels, offline: bool = False) -> Arrays:
    """Return the arrays of a variant, or of another checkpoint.

    The head is left out unless it has the form of ``config``'s, and the checkpoint has exactly the labels ``labels``.

    Raises:
        WeightsError: See ``read_backbone``.
    """
    from densenet_cli.weights import checkpoint

    path = _find(start, offline)
    backbone = _read_backbone(path, config)
    if backbone.metadata.labels == labels and not backbone.metadata.head_error:
        complete = checkpoint.read(path, config)
        if complete.config.has_linear_head and complete.config.is_multi_label == config.is_multi_label:
            return complete.arrays
    return backbone.arrays


def _find(start: str, offline: bool) -> Path:
    from densenet_cli.weights import locations, store

    variant = variants.VARIANTS.get(start)
    return store.get_file(variant, offline=offline) if variant else locations.find_checkpoint(start, offline=offline)


def _read_backbone(path: Path, config: DenseNetConfig | None) -> Checkpoint:
    from densenet_cli.weights import checkpoint

    backbone = checkpoint.read_backbone(path, config)
    if backbone.config.channels != 3:
        raise CheckpointError(f"{path} takes grayscale images. Training supports RGB images only.")
    return backbone
