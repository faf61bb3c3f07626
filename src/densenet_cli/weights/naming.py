"""Names for layers that have none, from the order in which they were created."""

from __future__ import annotations

import re

from densenet_cli.errors import CheckpointError
from densenet_cli.weights.contents import StoredLayers

KINDS = re.compile(r"(conv2d|batch_normalization|dense)(?:_\d+)?")


def by_order(layers: StoredLayers) -> StoredLayers:
    """The same layers with Keras' names of a DenseNet, told from the kernels. ``layers`` is in order class by class.

    The first convolution is the stem's. Then a 1x1 followed by a 3x3 is a layer of a dense block, and a 1x1 followed by
    another 1x1 is a transition. Raises ``CheckpointError`` where the layers don't go like that.
    """
    found: dict[str, list[str]] = {"conv2d": [], "batch_normalization": [], "dense": []}
    for name in layers:
        match = KINDS.fullmatch(name)
        if not match:
            raise CheckpointError(f"it has a layer {name}, which no DenseNet has")
        found[match[1]].append(name)
    sides = [layers[name]["kernel"].shape[0] if "kernel" in layers[name] else 0 for name in found["conv2d"]]
    convs, norms = _convs_and_norms(sides)
    if len(found["batch_normalization"]) == len(norms) + 1:
        norms.insert(0, "conv1_bn")
    for kind, names in (("conv2d", convs), ("batch_normalization", norms), ("dense", ["predictions"])):
        if len(found[kind]) != len(names):
            what = f"it has {len(found[kind])} layers of class {kind} where a DenseNet has {len(names)}"
            raise CheckpointError(f"{what} (its layers have no names, so only their order counts)")
    stored = (*found["conv2d"], *found["batch_normalization"], *found["dense"])
    return {name: layers[group] for group, name in zip(stored, (*convs, *norms, "predictions"), strict=True)}


def _convs_and_norms(sides: list[int]) -> tuple[list[str], list[str]]:
    """Names of the convolutions with kernels of these sides, and of the BNs among them but for the stem's."""
    convs, norms = ["conv1_conv"], []
    stage, layer, position = 2, 1, 1
    while position < len(sides):
        pair = sides[position : position + 2]
        if pair == [1, 3]:
            name = f"conv{stage}_block{layer}"
            convs += [f"{name}_1_conv", f"{name}_2_conv"]
            norms += [f"{name}_0_bn", f"{name}_1_bn"]
            layer, position = layer + 1, position + 2
        elif pair == [1, 1] and layer > 1:
            convs.append(f"pool{stage}_conv")
            norms.append(f"pool{stage}_bn")
            stage, layer, position = stage + 1, 1, position + 1
        else:
            raise CheckpointError(
                f"its convolutions do not follow one another as a DenseNet's do (from the {position + 1}th)"
            )
    return convs, [*norms, "bn"]
