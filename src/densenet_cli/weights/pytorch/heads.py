"""The head of a whole PyTorch model, whose file names the class of every module.

A state dict contains only arrays, so it does not state what is computed between two dense layers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from densenet_cli.errors import CheckpointError
from densenet_cli.topology import HeadLayer


class ModuleClass(NamedTuple):
    """The class of a module.

    Attributes:
        name: The name without the package, such as ``Linear``.
        options: The attributes that are not arrays or modules.
    """

    name: str
    options: Mapping[str, Any]


class HeadModules(NamedTuple):
    """The head of a model.

    Attributes:
        layers: The layers in order, with the name of the module. A dense layer has 0 units here.
        pooling: A member of ``topology.POOLINGS``, or None if no module states it.
        activation: A member of ``topology.OUTPUT_ACTIVATIONS``, or None if no module states it.
    """

    layers: list[tuple[HeadLayer, str]]
    pooling: str | None
    activation: str | None


IDENTITIES = {"Dropout", "AlphaDropout", "Identity", "Flatten"}
POOLINGS = {"AdaptiveAvgPool2d": "avg", "AdaptiveMaxPool2d": "max"}
TIMM_POOLING = "SelectAdaptivePool2d"
OUTPUTS = {"Softmax": "softmax", "LogSoftmax": "softmax", "Sigmoid": "sigmoid", "LogSigmoid": "sigmoid"}
"""Modules at the end of a head -> the function that turns logits into probabilities."""

# Class -> the layer with its options.
LAYERS: dict[str, Callable[[Mapping[str, Any]], HeadLayer]] = {
    "Linear": lambda options: HeadLayer("dense"),
    "BatchNorm1d": lambda options: HeadLayer("batch_norm"),
    "ReLU": lambda options: HeadLayer("relu"),
    "ReLU6": lambda options: HeadLayer("relu6"),
    "LeakyReLU": lambda options: HeadLayer("leaky_relu", alpha=_number(options["negative_slope"])),
    "ELU": lambda options: HeadLayer("elu", alpha=_number(options["alpha"])),
    "SELU": lambda options: HeadLayer("selu"),
    "GELU": lambda options: _default(HeadLayer("gelu"), options, approximate="none"),
    "SiLU": lambda options: HeadLayer("silu"),
    "Softplus": lambda options: _default(HeadLayer("softplus"), options, beta=1, threshold=20),
    "Softsign": lambda options: HeadLayer("softsign"),
    "Tanh": lambda options: HeadLayer("tanh"),
    "Sigmoid": lambda options: HeadLayer("sigmoid"),
}


def parent(name: str) -> str:
    """Return the prefix of the module that contains another: "model." of "model.features", "" of "features"."""
    return "".join(name.rpartition(".")[:2])


def find_head(classes: Mapping[str, ModuleClass], dense: Sequence[str], features: str) -> HeadModules:
    """Return the head of a model: the module with all dense layers, and what follows the network in a sequence.

    Args:
        classes: The class of every module of the model.
        dense: The dense layers.
        features: The prefix of the modules of the backbone, such as ``features.``.

    Raises:
        CheckpointError: The model has several heads, or the head contains another kind of module.
    """
    owner = features.removesuffix(".")
    scope = parent(owner)
    pooling = timm_pooling(classes, scope)
    following, is_bare = _following_modules(classes, owner)
    if is_bare and following and classes[following[0]].name != "ReLU":
        raise CheckpointError(f"No ReLU follows {owner!r:.100}, unlike in a DenseNet.")
    modules: list[str] = []
    in_sequence = set(following)
    if others := [name for name in dense if name not in in_sequence]:
        start = len(scope) if all(name.startswith(scope) for name in others) else 0
        names = list(dict.fromkeys(name[:start] + name[start:].partition(".")[0] for name in others))
        if len(names) > 1:
            raise CheckpointError(
                f"The model has several heads ({', '.join(f'{name!r:.100}' for name in names[:20])}). The file does not"
                " state how they are used. Save the modules that are used in an nn.Sequential."
            )
        if names[0] not in classes:
            raise CheckpointError(f"The class of {names[0]!r:.100} is missing.")
        modules = _flatten(classes, names)
    head = _read_layers(classes, [*modules, *following])
    return head._replace(pooling=head.pooling or pooling)


def _following_modules(classes: Mapping[str, ModuleClass], owner: str) -> tuple[list[str], bool]:
    """Return the modules after ``owner`` in the sequences that contain it, and whether it is in one itself.

    Without them, the ``forward`` method of a class applies the head.
    """
    following: list[str] = []
    name, is_bare = owner, False
    while name:
        parent, _, _ = name.rpartition(".")
        if parent in classes and classes[parent].name == "Sequential":
            siblings = [other for other in classes if other and other.rpartition(".")[0] == parent]
            following += siblings[siblings.index(name) + 1 :] if name in siblings else []
            is_bare = is_bare or name == owner
        name = parent
    return _flatten(classes, following), is_bare


def _read_layers(classes: Mapping[str, ModuleClass], modules: list[str]) -> HeadModules:
    """Return the layers of a head. Raises ``CheckpointError`` if it contains another kind of module."""
    pooling = activation = None
    if modules and classes[modules[-1]].name in OUTPUTS and classes[modules[-1]].options.get("dim", 1) in (1, -1):
        activation = OUTPUTS[classes[modules.pop()].name]
    layers: list[tuple[HeadLayer, str]] = []
    for module in modules:
        class_name, options = classes[module]
        if class_name in IDENTITIES or (class_name == "ReLU" and not layers):  # the feature maps are not negative
            continue
        if class_name in POOLINGS and not layers:
            pooling = POOLINGS[class_name]
            continue
        try:
            layers.append((LAYERS[class_name](options), module))
        except (LookupError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"The head contains {module!r:.100} of class {class_name!r:.100}, which is not supported."
            ) from error
    return HeadModules(layers, pooling, activation)


def timm_pooling(classes: Mapping[str, ModuleClass], scope: str) -> str | None:
    """Return the pooling of a model of timm's, or None if the model is of another kind."""
    module = classes.get(f"{scope}global_pool")
    if module is None or module.name != TIMM_POOLING:
        return None
    pooling = module.options.get("pool_type")
    if pooling not in POOLINGS.values():
        raise CheckpointError(f"The pooling {pooling!r:.50} is not supported.")
    return str(pooling)


def _flatten(classes: Mapping[str, ModuleClass], names: Sequence[str]) -> list[str]:
    """Return modules in order, with the modules in a sequence instead of the sequence."""
    children: dict[str, list[str]] = {}
    for module in classes:
        children.setdefault(module.rpartition(".")[0], []).append(module)
    modules, stack = [], list(reversed(names))
    while stack:
        module = stack.pop()
        if classes[module].name == "Sequential":
            stack += reversed(children.get(module, []))
        else:
            modules.append(module)
    return modules


def _number(value: Any) -> float:
    if type(value) not in (int, float) or not abs(value) < 1e6:
        raise ValueError("not a number")
    return float(value)


def _default(layer: HeadLayer, options: Mapping[str, Any], **expected: Any) -> HeadLayer:
    """Return the layer if its options have the expected values."""
    if any(options.get(name, value) != value for name, value in expected.items()):
        raise ValueError("unusual options")
    return layer
