"""The state dict in the object that ``torch.save`` wrote: a state dict, a training checkpoint, or a whole model."""

from __future__ import annotations

from typing import Any, NamedTuple

from densenet_cli.errors import CheckpointError
from densenet_cli.weights.pytorch.heads import ModuleClass
from densenet_cli.weights.pytorch.names import MAX_NAME_LENGTH, MAX_TENSORS, describe_names, is_densenet
from densenet_cli.weights.pytorch.pickles import Instance

AVERAGED_KEYS = ("state_dict_ema", "model_ema", "ema_state_dict", "ema")
"""Where training checkpoints have averaged weights, which timm prefers."""
STATE_KEYS = (*AVERAGED_KEYS, "state_dict", "model", "model_state_dict", "net", "network", "weights")
"""Where training checkpoints have the weights, in order of preference."""
OPTIMIZER_KEYS = ("optimizer", "optimizer_state_dict", "optimizer_states", "param_groups")
ARRAY_FUNCTIONS = "torch._utils._rebuild"
"""The beginning of the names of functions that create arrays, such as quantized ones."""
MAX_MODULE_DEPTH = 50
MAX_AXES = 3
"""Axes of an image for which a module can have different options."""

XRV_PACKAGE = "torchxrayvision."


class Storage(NamedTuple):
    """A part of a block of memory.

    Attributes:
        type_name: The name of its class, such as ``FloatStorage``.
        key: The key of the block.
        size: The number of items.
        offset: The number of items in the block before it.
    """

    type_name: str
    key: str
    size: int
    offset: int = 0


class Tensor(NamedTuple):
    """An array in a storage. Offset and strides are in items."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class StateDict(NamedTuple):
    """A state dict.

    Attributes:
        tensors: Name -> array.
        notes: How it was found, a sentence each.
        classes: Name of a module -> its class, if the file contains a whole model.
    """

    tensors: dict[str, Tensor]
    notes: list[str]
    classes: dict[str, ModuleClass]


def find_state_dict(root: Any, is_shard: bool = False) -> StateDict:
    """Return the state dict of a DenseNet.

    Args:
        root: The object in the file.
        is_shard: The file contains only some of the arrays, so it need not contain the first ones.

    Raises:
        CheckpointError: The file contains no DenseNet.
    """
    state = _state(root)
    if is_shard or is_densenet(state.tensors):
        return state
    if isinstance(root, Instance) and root.items:
        root = root.items
    names = list(state.tensors)
    if isinstance(root, dict):
        for key in STATE_KEYS:
            state = _state(root.get(key))
            if is_densenet(state.tensors):
                return state._replace(notes=[f"The weights are those in {key!r}.", *state.notes])
            names += state.tensors
        if not names and any(key in root for key in OPTIMIZER_KEYS):
            raise CheckpointError("The file contains an optimizer but no model. Use the file with the model's weights.")
        if not names:
            keys = ", ".join(f"{key!r:.80}" for key in list(root)[:10])
            raise CheckpointError(f"The file contains no state dict. Its keys are {keys or 'missing'}.")
    raise CheckpointError(f"It is not a DenseNet with torchvision's names. {describe_names(names)}")


def _state(value: Any) -> StateDict:
    """Return a state dict, or that of a whole model. It is empty for other objects."""
    if isinstance(value, Instance) and _is_module(value):
        return _module_state(value)
    items = value.items if isinstance(value, Instance) else value
    if not isinstance(items, dict):
        items = {}
    tensors = {name: tensor for name, tensor in items.items() if isinstance(name, str) and isinstance(tensor, Tensor)}
    if is_densenet(tensors):
        for name, item in items.items():
            for array in item if isinstance(item, tuple) else (item,):  # quantized layers have a tuple
                if isinstance(array, Instance) and array.type_name.startswith(ARRAY_FUNCTIONS):
                    raise CheckpointError(
                        f"The array {name!r:.100} has an unsupported kind ({array.type_name!r:.100})."
                    )
    return StateDict(tensors, [], {})


def _is_module(value: Any) -> bool:
    return isinstance(value, Instance) and isinstance(value.state, dict) and "_modules" in value.state


def _module_state(module: Instance) -> StateDict:
    """Return the state dict of a whole model."""
    child = _named(module, "_modules").get("module")
    described = child if isinstance(child, Instance) and module.type_name.endswith("DataParallel") else module
    note = f"The file contains a model of class {described.type_name!r:.200}. Its arrays are read, but not its code."
    tensors: dict[str, Tensor] = {}
    classes: dict[str, ModuleClass] = {}
    stack = [("", module, 0)]
    visited = 0
    while stack:
        prefix, current, depth = stack.pop()
        if current.type_name.startswith(XRV_PACKAGE):
            raise CheckpointError(
                "It is a model of torchxrayvision. Its input has pixels from -1024 to 1024, and the thresholds of its"
                " outputs are in code, so the file does not state what it computes."
            )
        visited += 1
        if visited > MAX_TENSORS or len(tensors) > MAX_TENSORS or depth > MAX_MODULE_DEPTH:
            raise CheckpointError("The model in the file has too many modules.")
        if len(prefix) > MAX_NAME_LENGTH:
            raise CheckpointError(f"The name of a module has more than {MAX_NAME_LENGTH:,} characters.")
        classes[prefix.removesuffix(".")] = _module_class(current)
        for group in ("_parameters", "_buffers"):
            for name, tensor in _named(current, group).items():
                if isinstance(tensor, Tensor):
                    tensors[prefix + name] = tensor
        children = [(f"{prefix}{name}.", child, depth + 1) for name, child in _named(current, "_modules").items()]
        stack += reversed([entry for entry in children if _is_module(entry[1])])
    return StateDict(tensors, [note], classes)


def _module_class(module: Instance) -> ModuleClass:
    is_library = module.type_name.startswith(("torch.nn.", "timm."))
    name = module.type_name.rpartition(".")[2] if is_library else module.type_name
    return ModuleClass(name, {key: value for key, value in module.state.items() if _is_option(value)})


def _is_option(value: Any) -> bool:
    """Return whether an attribute is a value, or a value per axis, such as a stride."""
    values = value if isinstance(value, tuple) and len(value) <= MAX_AXES else (value,)
    return all(isinstance(item, bool | int | float | str) for item in values)


def _named(module: Instance, group: str) -> dict[str, Any]:
    values = module.state.get(group)
    return {key: value for key, value in values.items() if isinstance(key, str)} if isinstance(values, dict) else {}
