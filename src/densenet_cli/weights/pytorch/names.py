"""The layers of a PyTorch state dict of torchvision, timm, MONAI, or a module that contains a DenseNet.

The names are those of torchvision: ``features.conv0.weight``, ``features.denseblock1.denselayer1.norm1.weight``. Older
versions wrote ``norm.1``, MONAI writes ``layers.norm1``, and wrappers add a prefix such as ``module.``. The head is the
only other array with two axes, whatever its name. Kernels have the layout (out, in, height, width), or (out, in).
torchvision adds 1e-5 to variances. For arrays that are neither in the backbone nor the head, see ``other_arrays``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING

from densenet_cli.errors import CheckpointError
from densenet_cli.layers import array_shapes
from densenet_cli.topology import DenseNetConfig, HeadLayer
from densenet_cli.weights.contents import (
    MAX_BN_EPSILON,
    CheckpointContents,
    ModelMetadata,
    StoredArray,
    StoredLayers,
    constant_array,
)
from densenet_cli.weights.pytorch import backbone as torch_backbone
from densenet_cli.weights.pytorch import heads as torch_heads
from densenet_cli.weights.pytorch import other_arrays
from densenet_cli.weights.pytorch.heads import HeadModules, ModuleClass, parent
from densenet_cli.weights.pytorch.other_arrays import Modules, Tensors

if TYPE_CHECKING:
    from densenet_cli._types import FloatArray

TORCH_EPSILON = 1e-5
MAX_TENSORS = 50_000
MAX_NAME_LENGTH = 1_000
MAX_LISTED_NAMES = 20

NORM_ARRAYS = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
HEAD_ARRAYS = {"weight": "kernel", "bias": "bias"}
COUNTER = "num_batches_tracked"
"""A number in each batch norm that matters only in training."""

# Names below ``features`` -> Keras' layer names. Keras counts the stem as the first stage.
STEM_NAMES = {
    "conv0": "conv1_conv",
    "norm0": "conv1_bn",
    "conv1": "conv1_2_conv",
    "norm1": "conv1_2_bn",
    "conv2": "conv1_3_conv",
    "norm2": "conv1_3_bn",
    "norm5": "bn",
}
DENSE_LAYER = re.compile(r"denseblock(\d{1,4})\.denselayer(\d{1,4})\.(?:layers\.)?(norm|conv)\.?([12])")
DENSE_PARTS = {"norm1": "0_bn", "conv1": "1_conv", "norm2": "1_bn", "conv2": "2_conv"}
TRANSITION = re.compile(r"transition(\d{1,4})\.(norm|conv)")
TRANSITION_PARTS = {"norm": "bn", "conv": "conv"}
FEATURES, FIRST_ARRAY, FIRST_BLOCK = "features.", "conv0.weight", "denseblock1."
BACKBONE_NAME = re.compile(r"(conv|norm|denseblock|transition|pool)\d+\.")
OWN_HEAD_LAYER = re.compile(r"head\.(\d{1,3})")
"""A layer before the last dense layer, in files that this package writes."""


def keras_name(layer: str) -> str | None:
    """Return Keras' name of a layer below ``features``, or None if it is not part of a DenseNet."""
    if match := DENSE_LAYER.fullmatch(layer):
        return f"conv{int(match[1]) + 1}_block{int(match[2])}_{DENSE_PARTS[match[3] + match[4]]}"
    if match := TRANSITION.fullmatch(layer):
        return f"pool{int(match[1]) + 1}_{TRANSITION_PARTS[match[2]]}"
    return STEM_NAMES.get(layer)


def torchvision_names(config: DenseNetConfig) -> dict[str, str]:
    """Return Keras' name -> the name in files that this package writes, for every layer of ``config`` with arrays.

    The names are torchvision's. The layers of a head before its last dense layer are ``head.1``, ``head.2``, and so on.
    """
    names = {keras: f"{FEATURES}{torch}" for torch, keras in STEM_NAMES.items()}
    for stage, layers in enumerate(config.blocks, start=1):
        for layer in range(1, layers + 1):
            for torch_part, keras_part in DENSE_PARTS.items():
                torch_name = f"{FEATURES}denseblock{stage}.denselayer{layer}.{torch_part}"
                names[f"conv{stage + 1}_block{layer}_{keras_part}"] = torch_name
        for torch_part, keras_part in TRANSITION_PARTS.items():
            names[f"pool{stage + 1}_{keras_part}"] = f"{FEATURES}transition{stage}.{torch_part}"
    for name in config.head_layers:
        names[name] = "classifier" if name == "predictions" else name.replace("head_", "head.")
    return {layer: names[layer] for layer in array_shapes(config)}


def own_layers(tensors: Tensors) -> StoredLayers:
    """Return the layers of a file that this package wrote. Raises ``CheckpointError`` for any other array."""
    layers: StoredLayers = {}
    for module, arrays in _modules(tensors).items():
        if module == "classifier":
            name: str | None = "predictions"
        elif match := OWN_HEAD_LAYER.fullmatch(module):
            name = f"head_{int(match[1])}"
        else:
            name = keras_name(module.removeprefix(FEATURES)) if module.startswith(FEATURES) else None
        _add_layer(layers, name, module, arrays)
    return layers


def contents(
    tensors: Tensors, available_bytes: int, notes: Iterable[str] = (), classes: Mapping[str, ModuleClass] | None = None
) -> CheckpointContents:
    """Return the contents of a state dict.

    Args:
        tensors: All arrays.
        available_bytes: The size of the files that contain them.
        notes: What the reader of the format assumed or ignored.
        classes: The class of every module, if the file contains a whole model, which states more than a state dict.

    Raises:
        CheckpointError: It is not a DenseNet, or contains arrays whose use is not known.
    """
    if len(tensors) > MAX_TENSORS:
        raise CheckpointError(f"The file contains {len(tensors):,} arrays; the limit is {MAX_TENSORS:,}.")
    if max(map(len, tensors), default=0) > MAX_NAME_LENGTH:
        raise CheckpointError(f"The name of an array has more than {MAX_NAME_LENGTH:,} characters.")
    features = _features_prefix(tensors)
    kernel = tensors[features + FIRST_ARRAY].shape
    _check_axes(kernel)
    channels = kernel[1] if len(kernel) == 4 and kernel[1] in (1, 3) else 3
    backbone: StoredLayers = {}
    others: Modules = {}
    epsilons: dict[str, float] = {}
    stem = None
    for module, arrays in _modules(tensors).items():
        name = module.removeprefix(features)
        if module.startswith(features) and _is_blur_filter(name, arrays):
            stem = "deep-blur"
            continue
        if module.startswith(features) and (features or BACKBONE_NAME.match(f"{name}.")):
            _add_layer(backbone, keras_name(name), module, arrays)
            epsilons.update(_epsilon(classes, module, keras_name(name)))
        else:
            others[module] = arrays
    if classes:
        torch_backbone.check_backbone(classes, features, stem)
        stem = stem or ("deep" if f"{features}conv1" in classes else None)
    scope = parent(features.removesuffix("."))
    heads = _find_heads(others, scope)
    head_error = None
    try:
        head = torch_heads.find_head(classes, heads, features) if classes else _single_layer(heads)
        remaining = dict(others)
        head_arrays = [_take_layer(remaining, layer, module) for layer, module in head.layers]
        others = remaining
    except CheckpointError as error:  # the backbone alone can be used
        head, head_arrays, head_error = HeadModules([], None, None), [], str(error)
        notes = [*notes, f"The network is read without its head. {head_error}"]
        branches = tuple(other_arrays.branch(features, name) for name in heads)
        others = {name: arrays for name, arrays in others.items() if not f"{name}.".startswith(branches)}
    names = _head_names([layer for layer, _ in head.layers])
    for name, (_, module), arrays in zip(names, head.layers, head_arrays, strict=True):
        if arrays:
            _add_layer(backbone, name, module, arrays)
            epsilons.update(_epsilon(classes, module, name))
            scope = other_arrays.common_prefix(scope, parent(module))
    other_arrays.check_temperature(others)
    normalization = other_arrays.read_normalization(others, channels, classes)
    other_arrays.check_layers(others, scope)
    ignored = [f"{module}.{array}".removeprefix(".") for module, arrays in others.items() for array in arrays]
    notes = [*notes, *([normalization.note] if normalization.note else [])]
    notes += [f"Ignored arrays that are not part of the DenseNet: {_listed(ignored)}."] if ignored else []
    layers = tuple(
        layer._replace(units=backbone[name]["kernel"].shape[1] if layer.kind == "dense" else 0)
        for name, (layer, _) in zip(names, head.layers, strict=True)
    )
    return CheckpointContents(
        backbone,
        available_bytes,
        metadata=ModelMetadata(
            notes=tuple(notes),
            activation=head.activation,
            mean=normalization.mean,
            std=normalization.std,
            head_error=head_error,
        ),
        bn_epsilon=TORCH_EPSILON,
        pooling=head.pooling,
        bn_epsilons=epsilons,
        head=layers if classes and layers else None,
        stem=stem,
    )


def is_densenet(names: Iterable[str]) -> bool:
    """Return whether a state dict with these names contains a DenseNet."""
    return bool(_features_prefixes(names))


def describe_names(names: Iterable[str]) -> str:
    """Return a sentence that names the first arrays of another network."""
    first = list(names)[:3]
    return (
        f"The first arrays are {', '.join(f'{name!r:.80}' for name in first)}." if first else "It contains no layers."
    )


def _features_prefixes(names: Iterable[str]) -> set[str]:
    """Return the prefixes with which ``names`` contain a first convolution and a dense block."""
    convs, blocks = set(), set()
    for name in names:
        if name == FIRST_ARRAY or name.endswith(f".{FIRST_ARRAY}"):
            convs.add(name.removesuffix(FIRST_ARRAY))
        else:
            prefix, block, _ = name.partition(FIRST_BLOCK)
            if block:
                blocks.add(prefix)
    return convs & blocks


def _features_prefix(tensors: Tensors) -> str:
    prefixes = sorted(_features_prefixes(tensors))
    if not prefixes:
        raise CheckpointError(f"It is not a DenseNet with torchvision's names. {describe_names(tensors)}")
    if len(prefixes) > 1:
        raise CheckpointError(
            f"The file contains {len(prefixes)} DenseNets: {_listed(prefixes)}. Save only one of them."
        )
    return prefixes[0]


def _check_axes(kernel: tuple[int, ...]) -> None:
    if len(kernel) == 5:
        raise CheckpointError(
            f"It is a network for volumes: its kernels have three dimensions (the first is {kernel[2:]}). Only networks"
            " for images are supported."
        )


def _modules(tensors: Tensors) -> Modules:
    """Group arrays by layer, without the counters of batch norms."""
    modules: Modules = {}
    for name, tensor in tensors.items():
        module, _, array = name.rpartition(".")
        if array != COUNTER:
            modules.setdefault(module, {})[array] = tensor
    return modules


def _add_layer(layers: StoredLayers, name: str | None, module: str, arrays: Tensors) -> None:
    if name in layers:
        raise CheckpointError(f"Layer {name} occurs twice.")
    is_norm = "running_mean" in arrays or (name or "").endswith("_bn") or name == "bn"
    names = NORM_ARRAYS if is_norm else HEAD_ARRAYS
    for array, tensor in arrays.items():
        if name is None or array not in names:
            full_name = f"{module}.{array}".removeprefix(".")
            raise CheckpointError(f"Array {full_name!r:.200} is not part of a torchvision DenseNet.")
        layers.setdefault(name, {})[names[array]] = _in_keras_layout(tensor)


def _is_blur_filter(name: str, arrays: Tensors) -> bool:
    """Return whether arrays are the filter of timm's ``BlurPool2d`` in the stem, which whole models contain."""
    return name == "pool0.1" and set(arrays) == {"filt"} and arrays["filt"].shape[1:] == (1, 3, 3)


def _find_heads(modules: Modules, scope: str) -> list[str]:
    """Return the layers with a matrix inside ``scope`` and those that may follow or replace them, else all others."""
    matrices = [name for name, arrays in modules.items() if "weight" in arrays and len(arrays["weight"].shape) == 2]
    inside = [name for name in matrices if name.startswith(scope)]
    if not inside:
        return matrices
    features, classes = modules[inside[0]]["weight"].shape[1], modules[inside[-1]]["weight"].shape[0]
    return inside + other_arrays.find_other_heads(modules, scope, features, classes)


def _single_layer(heads: list[str]) -> HeadModules:
    """Return the head of a state dict: one dense layer or none."""
    if len(heads) > 1:
        raise CheckpointError(
            f"It has several layers after the backbone ({_listed(heads)}). A state dict does not state which of them"
            " are used, or what is computed between them. Save the whole model with torch.save(model, path), or remove"
            " the layers that are not used."
        )
    return HeadModules([(HeadLayer("dense"), name) for name in heads], None, None)


def _epsilon(classes: Mapping[str, ModuleClass] | None, module: str, name: str | None) -> dict[str, float]:
    """Return the value that a batch norm of a whole model adds to its variances, if the file states it."""
    value = classes[module].options.get("eps") if classes and module in classes else None
    if name is None or value is None:
        return {}
    if type(value) not in (int, float) or not 0 <= value < MAX_BN_EPSILON:
        raise CheckpointError(f"The module {module!r:.100} has the epsilon {value!r:.50}.")
    return {name: float(value)}


def _head_names(layers: list[HeadLayer]) -> list[str]:
    """Return the names of the layers of a head, see ``DenseNetConfig.head_layers``."""
    last = max((number for number, layer in enumerate(layers) if layer.kind == "dense"), default=-1)
    return ["predictions" if number == last else f"head_{number + 1}" for number in range(len(layers))]


def _take_layer(modules: Modules, layer: HeadLayer, module: str) -> Tensors:
    """Remove a layer of the head from ``modules``, and return its arrays. Those that it does not use are constants.

    Raises:
        CheckpointError: An array is missing, is not part of such a layer, or has another number of axes.
    """
    if layer.kind not in ("dense", "batch_norm"):
        return {}
    arrays = modules.pop(module, {})
    is_norm = layer.kind == "batch_norm"
    names, required = (NORM_ARRAYS, ["running_mean", "running_var"]) if is_norm else (HEAD_ARRAYS, ["weight"])
    axes = [len(arrays[name].shape) for name in required if name in arrays]
    if axes != ([1, 1] if is_norm else [2]) or not arrays.keys() <= names.keys():
        shapes = ", ".join(f"{name!r:.50} {tensor.shape}" for name, tensor in arrays.items())
        raise CheckpointError(f"The arrays of {module!r:.100} are not supported: {shapes or 'there are none'}.")
    units = arrays[required[0]].shape[:1]
    constants = {"weight": 1.0, "bias": 0.0} if is_norm else {"bias": 0.0}
    return {**{name: constant_array(units, value) for name, value in constants.items()}, **arrays}


def _in_keras_layout(tensor: StoredArray) -> StoredArray:
    shape = tensor.shape
    if len(shape) > 1:
        shape = (*shape[2:], shape[1], shape[0])
    return StoredArray(shape, tensor.dtype, partial(_read, tensor))


def _read(tensor: StoredArray) -> FloatArray:
    values = tensor.read()
    return values.transpose(2, 3, 1, 0) if values.ndim == 4 else values.T


def _listed(names: list[str]) -> str:
    shown = ", ".join(f"{name!r:.100}" for name in names[:MAX_LISTED_NAMES])
    return shown if len(names) <= MAX_LISTED_NAMES else f"{shown}, and {len(names) - MAX_LISTED_NAMES} more"
