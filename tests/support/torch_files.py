"""A writer for the files of ``torch.save`` without PyTorch.

``weights/pytorch/test_files.py`` compares its files with recorded ones of PyTorch.
"""

from __future__ import annotations

import io
import pickle
import struct
import types
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import ClassVar

import numpy as np

from densenet_cli.topology import DenseNetConfig
from tests.support.checkpoints import Arrays, torch_tensors

MAGIC_NUMBER, VERSION = 0x1950A86A20F9469CFC6C, 1001
STORAGES = {"float32": "FloatStorage", "float64": "DoubleStorage", "float16": "HalfStorage", "int64": "LongStorage"}


def named(module: str, name: str):
    """Return a function that a pickle names ``module.name``."""
    function = types.FunctionType((lambda *args: args).__code__, {})
    function.__module__, function.__qualname__ = module, name
    return function


class Call:
    """The result of a call in a pickle."""

    def __init__(self, module: str, name: str, *args: object, state: object = None) -> None:
        self.reduced = (named(module, name), args) if state is None else (named(module, name), args, state)

    def __reduce__(self):
        return self.reduced


class Storage:
    """A block of memory. ``values`` is a flat array. ``view`` is an offset and a size, in streams of PyTorch 0.3."""

    def __init__(
        self, values: np.ndarray, type_name: str | None = None, device: str = "cpu", view: tuple[int, int] | None = None
    ) -> None:
        self.view = view
        self.values = values
        self.type_name = type_name or STORAGES[values.dtype.name]
        self.device = device


def tensor(values: np.ndarray, device: str = "cpu") -> Call:
    """Return an array as ``torch.save`` writes it."""
    storage = Storage(np.ascontiguousarray(values).reshape(-1), device=device)
    strides = [stride // values.itemsize for stride in np.ascontiguousarray(values).strides]
    return view(storage, 0, values.shape, strides if values.ndim else ())


def view(storage: Storage, offset: int, shape, strides) -> Call:
    """Return an array that is a part of a storage."""
    return Call("torch._utils", "_rebuild_tensor_v2", *view_arguments(storage, offset, shape, strides))


def view_arguments(storage: Storage, offset: int, shape, strides) -> tuple:
    return (storage, offset, tuple(shape), tuple(strides), False, OrderedDict())


class Pickler(pickle._Pickler):
    """Writes the names of functions without importing them, and strings as Python 2 does if ``python2`` is set."""

    def __init__(self, file, protocol: int = 2, python2: bool = False, legacy: bool = False) -> None:
        super().__init__(file, protocol)
        self.storages: dict[int, Storage] = {}
        self.legacy, self.python2 = legacy, python2

    def persistent_id(self, value):
        if not isinstance(value, Storage):
            return None
        self.storages[id(value)] = value
        key = str(list(self.storages).index(id(value)))
        module = "torch.cuda" if value.device != "cpu" and self.legacy else "torch"
        identifier = ("storage", named(module, value.type_name), key, value.device, value.values.size)
        view = None if value.view is None else (f"view {key}", *value.view)
        return (*identifier, view) if self.legacy else identifier

    def save_function(self, value) -> None:
        self.write(pickle.GLOBAL + f"{value.__module__}\n{value.__qualname__}\n".encode())
        self.memoize(value)

    def save_string(self, value: str) -> None:
        if self.python2:
            data = value.encode("latin-1")
            self.write(pickle.SHORT_BINSTRING + bytes([len(data)]) + data)
            self.memoize(value)
        else:
            self.save_str(value)

    dispatch: ClassVar = {**pickle._Pickler.dispatch, types.FunctionType: save_function, str: save_string}


def write_archive(
    path: Path | str, value: object, root: str = "archive", byte_order: str = "little", **options
) -> None:
    """Write a zip archive, as PyTorch does since version 1.6."""
    file = io.BytesIO()
    pickler = Pickler(file, **options)
    pickler.dump(value)
    blocks = [swapped(storage.values, byte_order).tobytes() for storage in pickler.storages.values()]
    write_members(path, file.getvalue(), blocks, root, {"byteorder": byte_order.encode()})


def write_members(path, data: bytes, blocks=(), root: str = "archive", extra=None) -> None:
    """Write a zip archive from the bytes of a pickle and of its storages."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{root}/data.pkl", data)
        for name, content in (extra or {}).items():
            archive.writestr(f"{root}/{name}", content)
        for number, block in enumerate(blocks):
            archive.writestr(f"{root}/data/{number}", block)
        archive.writestr(f"{root}/version", b"3\n")


def without_checksums(data: bytes) -> bytes:
    """Return a zip archive with all checksums 0, as ``torch.serialization.set_crc32_options(False)`` writes it."""
    changed = bytearray(data)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        position = archive.start_dir
        for member in archive.infolist():
            changed[member.header_offset + 14 : member.header_offset + 18] = bytes(4)
            changed[position + 16 : position + 20] = bytes(4)
            lengths = struct.unpack_from("<HHH", data, position + 28)
            position += 46 + sum(lengths)
    return bytes(changed)


def swapped(values: np.ndarray, byte_order: str) -> np.ndarray:
    return values.astype(values.dtype.newbyteorder(">" if byte_order == "big" else "<"))


def write_stream(path: Path | str, value: object, **options) -> None:
    """Write a stream, as PyTorch did before version 1.6."""
    with open(path, "wb") as file:
        for item in (MAGIC_NUMBER, VERSION, {"protocol_version": VERSION, "little_endian": True}):
            pickle.dump(item, file, 2)
        pickler = Pickler(file, legacy=True, **options)
        pickler.dump(value)
        keys = [str(number) for number in range(len(pickler.storages))]
        pickle.dump(sorted(keys), file, 2)
        storages = dict(zip(keys, pickler.storages.values(), strict=True))
        for key in sorted(keys):
            file.write(struct.pack("<q", storages[key].values.size) + storages[key].values.tobytes())


def state_dict(arrays: Arrays, config: DenseNetConfig, dtype: str = "float32", device: str = "cpu") -> OrderedDict:
    """Return the state dict of a network as torchvision has it."""
    tensors = torch_tensors(arrays, config, dtype)
    return OrderedDict((name, tensor(values, device)) for name, values in tensors.items())
