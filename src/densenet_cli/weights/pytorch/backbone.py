"""Verification that the modules of a whole PyTorch model compute what a DenseNet does.

Strides, paddings, poolings, and activations are not in a state dict, but in the file of a whole model. People change
them without changing an array: for small images, they replace the first pooling by ``Identity``, for example.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from densenet_cli.errors import CheckpointError
from densenet_cli.weights.pytorch.heads import ModuleClass

LIBRARY_CLASSES = {
    *("Conv2d", "BatchNorm2d", "SyncBatchNorm", "BatchNormAct2d", "ReLU", "Identity", "Dropout", "Dropout2d"),
    *("Sequential", "ModuleDict", "MaxPool2d", "AvgPool2d", "BlurPool2d", "DenseBlock", "DenseLayer"),
    "DenseTransition",
}
"""The classes of PyTorch and timm in the backbone of a DenseNet."""
IDENTITIES = {"Identity", "Dropout", "Dropout2d", "AlphaDropout", "FeatureAlphaDropout"}
CONV = {"dilation": 1, "groups": 1, "padding_mode": "zeros"}
POOL = {"dilation": 1, "ceil_mode": False}
FIRST_CONV, FIRST_POOL = "conv0", "pool0"


def check_backbone(classes: Mapping[str, ModuleClass], features: str, stem: str | None) -> None:
    """Check everything below ``features`` that the arrays do not show.

    Args:
        classes: The class of every module of the model.
        features: The prefix of the modules of the backbone, such as ``features.``.
        stem: A key of ``topology.STEMS`` if the arrays contain the filter of a blur pool, else None.

    Raises:
        CheckpointError: A module has another class or other options.
    """
    if features:
        _check_classes(classes, features)
    parents = {name.rpartition(".")[0] for name in classes}
    if f"{features}{FIRST_CONV}" in classes and f"{features}{FIRST_POOL}" not in classes:
        raise CheckpointError(f"The model is not a DenseNet. The module {features + FIRST_POOL!r:.100} is missing.")
    for name, module in classes.items():
        if not name.startswith(features) or name in parents:
            continue
        for option, value in _differences(name.removeprefix(features), module, stem):
            what = f"{option} is {value!r:.50}" if option else f"class is {module.name!r:.100}"
            raise CheckpointError(f"The module {name!r:.100} differs from a DenseNet's. Its {what}.")


def _check_classes(classes: Mapping[str, ModuleClass], features: str) -> None:
    """Check that a library's modules below ``features`` are of the classes in a DenseNet, even those with arrays."""
    for name, module in classes.items():
        if name.startswith(features) and "." not in module.name and module.name not in LIBRARY_CLASSES:
            raise CheckpointError(
                f"The model contains {name!r:.100} of class {module.name!r:.100}, which is not part of a DenseNet."
            )


def _differences(name: str, module: ModuleClass, stem: str | None) -> Iterator[tuple[str, Any]]:
    """Yield the options of a module that differ from a DenseNet's, ("", None) for its class."""
    role = name.rpartition(".")[2].rstrip("0123456789")
    if name.startswith(FIRST_POOL):
        if stem == "deep-blur" and name == f"{FIRST_POOL}.1":
            yield from _compare(module, "BlurPool2d", {"filt_size": 3, "stride": 2, "pad_mode": "reflect"})
        else:
            stride = 1 if stem == "deep-blur" else 2
            yield from _compare(module, "MaxPool2d", {"kernel_size": 3, "stride": stride, "padding": 1, **POOL})
    elif role == "pool":
        yield from _compare(module, "AvgPool2d", {"kernel_size": 2, "stride": 2, "padding": 0, **POOL})
    elif role == "conv":
        kernel = module.options.get("kernel_size")
        size = kernel[0] if isinstance(kernel, tuple) and kernel else kernel
        stride = 2 if name == FIRST_CONV else 1
        padding = size // 2 if isinstance(size, int) else None
        yield from _compare(module, "Conv2d", {"kernel_size": size, "stride": stride, "padding": padding, **CONV})
    elif role in ("relu", "act"):
        yield from _compare(module, "ReLU", {})
    elif role != "norm" and module.name not in IDENTITIES:  # norms are known by their arrays
        yield "", None


def _compare(module: ModuleClass, class_name: str, expected: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    if module.name != class_name:
        yield "", None
    for option, value in expected.items():
        actual = module.options.get(option, value)
        if actual not in (value, (value, value)):
            yield option, actual
