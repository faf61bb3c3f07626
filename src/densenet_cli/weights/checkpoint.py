"""Read a checkpoint of any format that is known, and check every layer, shape and value before it is used."""

from __future__ import annotations

from pathlib import Path

from densenet_cli.errors import CheckpointError
from densenet_cli.topology import BN_EPSILON, DenseNetConfig
from densenet_cli.weights import safetensors_file
from densenet_cli.weights.contents import Arrays, Checkpoint, Contents, ModelMetadata

__all__ = ["Arrays", "Checkpoint", "ModelMetadata", "read"]


def read(path: str | Path, config: DenseNetConfig | None = None) -> Checkpoint:
    """The checkpoint in ``path``."""
    with safetensors_file.open_contents(Path(path)) as contents:
        if config is None:
            config = contents.config
        if config is None:
            raise CheckpointError(f"{path}: can't tell the network yet")
        return Checkpoint(_arrays(contents), config, contents.metadata)


def _arrays(contents: Contents) -> Arrays:
    arrays: Arrays = {}
    for layer, held in contents.layers.items():
        arrays[layer] = {name: stored.read() for name, stored in held.items()}
        if "moving_variance" in held and contents.bn_epsilon != BN_EPSILON:
            variance = arrays[layer]["moving_variance"].astype("float64") + (contents.bn_epsilon - BN_EPSILON)
            arrays[layer]["moving_variance"] = variance.astype("float32")
    return arrays
