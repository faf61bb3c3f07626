"""Arrays of a PyTorch model that are neither in its backbone nor in its head.

A state dict does not state how they are used. Those that cannot change the result are ignored. A normalization of the
input is read. Others are errors.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import NamedTuple

from densenet_cli.errors import CheckpointError
from densenet_cli.images.normalization import MEAN, format_values
from densenet_cli.weights.contents import StoredArray
from densenet_cli.weights.pytorch.heads import ModuleClass, parent

Tensors = dict[str, StoredArray]
"""Name -> array in PyTorch's layout."""
Modules = dict[str, Tensors]
"""Name of a layer -> name of an array -> array."""

_IMAGE = r"_?(?:(?:pixel|image|img|input|norm|normalize|imagenet|rgb|data|dataset)_)?"
MEAN_NAME = re.compile(rf"{_IMAGE}(?:mean|means|mu)")
STD_NAME = re.compile(rf"{_IMAGE}(?:std|stds|stdev|std_dev|sigma)")
TEMPERATURE_NAME = re.compile(r"(?:.*_)?(?:temperature|temp|logits?_scale)", re.IGNORECASE)
TRAINING_MODULE = re.compile(r"loss|criterion|metric", re.IGNORECASE)
TRAINING_BRANCH = re.compile(
    rf"{TRAINING_MODULE.pattern}|(?:^|[._])aux|(?:^|[._])(?:ema|teacher)(?:$|[._])", re.IGNORECASE
)
"""Modules beside a network that do not change its outputs: also auxiliary heads, averages, and teachers."""
NUMBERED_MODULE = re.compile(r"(.*[.]|)[0-9]+[.]", re.DOTALL)
FLOAT_TYPES = ("float64", "float32", "float16", "bfloat16")
REMEDY = "Remove them from the file, and pass `mean` and `std`."


class Normalization(NamedTuple):
    """The normalization of the input that a model contains, for pixels in [0, 1].

    Attributes:
        mean, std: One value per channel, or None if the model contains none.
        note: What was read.
    """

    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    note: str = ""


def check_layers(modules: Modules, scope: str) -> None:
    """Raise ``CheckpointError`` for layers whose names start with ``scope``, the prefix of the model.

    If the model is in a sequence, whose modules have numbers, this includes the other modules of the sequence.
    """
    sequence = NUMBERED_MODULE.fullmatch(scope)
    members = re.compile(f"{re.escape(sequence[1])}[0-9]+[.].*" if sequence else f"{re.escape(scope)}.*", re.DOTALL)
    for name, arrays in modules.items():
        has_axes = any(len(tensor.shape) > 1 for tensor in arrays.values())
        if members.fullmatch(f"{name}.") and (
            has_axes or "running_mean" in arrays or {"weight", "bias"} <= set(arrays)
        ):
            array = _full_name(name, next(iter(arrays)))
            raise CheckpointError(
                f"Array {array!r:.200} is not part of a torchvision DenseNet. The file does not state how it is used."
            )


def find_other_heads(modules: Modules, scope: str, features: int, classes: int) -> list[str]:
    """Return the layers outside ``scope``, the prefix of the network, that may follow or replace its head.

    Their input can be its logits, or its features: flattened, or together with others. Modules that are only used in
    training, and other networks that take images, are left out.

    Args:
        modules: All layers that are not in the backbone.
        scope: The prefix of the network.
        features: The number of inputs of its head.
        classes: The number of outputs of its head.
    """
    shapes = {name: a["weight"].shape for name, a in modules.items() if "weight" in a and not name.startswith(scope)}
    networks = {branch(scope, name) for name, shape in shapes.items() if len(shape) == 4 and shape[1] == 3}
    return [
        name
        for name, shape in shapes.items()
        if len(shape) > 1
        and (shape[1] == classes or shape[1] >= features)
        and branch(scope, name) not in networks
        and not TRAINING_BRANCH.search(name.removeprefix(common_prefix(scope, name)))
    ]


def check_temperature(modules: Modules) -> None:
    """Raise ``CheckpointError`` if the model contains a number that may scale its logits."""
    for module, arrays in modules.items():
        for array in arrays:
            if TEMPERATURE_NAME.fullmatch(array) and not TRAINING_MODULE.search(module):
                raise CheckpointError(
                    f"Array {_full_name(module, array)!r:.200} may scale the outputs of the model, but the file does "
                    "not state how. Divide the weight and the bias of the head by it if it is a temperature, remove "
                    "it, and save the file again."
                )


def read_normalization(
    modules: Modules, channels: int, classes: Mapping[str, ModuleClass] | None = None
) -> Normalization:
    """Return the normalization of the input, and remove its arrays from ``modules``.

    It is ``(pixels - mean) / std`` for pixels in [0, 1], or in [0, 255] if the mean is greater than 1, as in
    torchvision's ``Normalize`` and all modules of this kind.

    Args:
        modules: All layers that are neither in the backbone nor in the head.
        channels: The number of channels of the input.
        classes: The class of every module, if the file contains a whole model.

    Raises:
        CheckpointError: There are arrays with such names, but they are ambiguous.
    """
    means, stds = (_find_arrays(modules, pattern, channels) for pattern in (MEAN_NAME, STD_NAME))
    for name in classes or {}:
        if classes and classes[name].name.endswith("Normalize") and name not in {module for module, _ in means}:
            raise CheckpointError(
                f"The model contains {name!r:.100} of class {classes[name].name!r:.100}, which normalizes the input. "
                "Its values cannot be read. Save the model without it, and pass `mean` and `std`."
            )
    if len(means) == len(stds) == 1 and means[0][0] == stds[0][0]:
        return _read_pair(modules, means[0], stds[0], channels)
    names = [_full_name(*place) for place in (*means, *stds) if math.prod(modules[place[0]][place[1]].shape) > 1]
    if names:
        listed = ", ".join(f"{name!r:.100}" for name in names[:10])
        raise CheckpointError(
            f"The model contains arrays that may normalize the input ({listed}), but the file does not state how they "
            f"are used. {REMEDY}"
        )
    return Normalization()


def _find_arrays(modules: Modules, pattern: re.Pattern[str], channels: int) -> list[tuple[str, str]]:
    """Return the module and the name of arrays with one value, or one per channel."""
    return [
        (module, name)
        for module, arrays in modules.items()
        for name, array in arrays.items()
        if pattern.fullmatch(name) and math.prod(array.shape) in (1, channels) and not TRAINING_MODULE.search(module)
    ]


def _read_pair(
    modules: Modules, mean_place: tuple[str, str], std_place: tuple[str, str], channels: int
) -> Normalization:
    mean_name, std_name = _full_name(*mean_place), _full_name(*std_place)
    mean, std = (_read_values(modules[module].pop(name), channels) for module, name in (mean_place, std_place))
    what = f"The arrays {mean_name!r:.100} ({format_values(mean)}) and {std_name!r:.100} ({format_values(std)})"
    if set(mean) == {0.0} and set(std) == {1.0}:  # without effect; the pixels may be normalized elsewhere
        return Normalization(note=f"{what} are ignored.")
    scale = 255.0 if max(mean, default=0) > 1 else 1.0
    mean, std = (tuple(value / scale for value in values) for values in (mean, std))
    if not mean or not std or not all(0 <= value <= 1 for value in mean) or not all(0 < value <= 1 for value in std):
        raise CheckpointError(f"{what} are not those of pixels in [0, 1] or [0, 255]. {REMEDY}")
    if channels == 3 and mean != mean[::-1] and all(abs(a - b) < 5e-3 for a, b in zip(mean[::-1], MEAN, strict=True)):
        raise CheckpointError(f"{what} are in the order blue, green, red. Only networks for RGB images are supported.")
    return Normalization(mean, std, f"{what} are the normalization of the input.")


def _read_values(array: StoredArray, channels: int) -> tuple[float, ...]:
    """Return one value per channel, () if they are not finite numbers."""
    if array.dtype not in FLOAT_TYPES:
        return ()
    values = [float(str(value)) for value in array.read().ravel()]  # the shortest decimal number, such as 0.485
    if not all(map(math.isfinite, values)):
        return ()
    return tuple(values) * (channels // len(values))


def _full_name(module: str, array: str) -> str:
    return f"{module}.{array}".removeprefix(".")


def common_prefix(first: str, second: str) -> str:
    """Return the longest prefix of ``first`` that ends with the name of a module and is a prefix of ``second``."""
    while first and not second.startswith(first):
        first = parent(first.removesuffix("."))
    return first


def branch(scope: str, name: str) -> str:
    """Return the prefix of the outermost module that contains ``name``, but not the network below ``scope``."""
    shared = common_prefix(scope, name)
    return f"{shared}{name.removeprefix(shared).partition('.')[0]}."
