"""The formats: a table. A sixth one is one more row, and one more module beside this one."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from densenet_cli.errors import UsageError

if TYPE_CHECKING:
    import numpy as np

    from densenet_cli.export.model import ExportedModel

    FloatArray = np.ndarray[Any, np.dtype[np.float32]]

Run = Callable[["np.ndarray[Any, Any]"], "FloatArray"]
"""Channels last, (images, height, width, 3), uint8 or normalized float32 as the file takes it -> probabilities."""


class Writer(Protocol):
    """What a format's module has."""

    def write(self, model: ExportedModel, path: Path) -> None:
        """Write ``model`` to ``path``, which does not exist. Raises ``OutputError`` or ``OSError``."""
        ...

    def load(self, model: ExportedModel, path: Path) -> Run:
        """Open what was written as its users will, with the format's own runtime."""
        ...


@dataclass(frozen=True)
class Format:
    """A row of the table.

    Attributes:
        module: where ``write`` and ``load`` are.
        suffix: how its files' names end; "" for a folder.
        needs: modules that it is written or run with -> what to install for them.
        with_preprocessing: whether it can hold the normalization too.
    """

    module: str
    suffix: str
    needs: dict[str, str]
    with_preprocessing: bool = True

    @property
    def is_folder(self) -> bool:
        """Whether it is a folder of files."""
        return not self.suffix

    def check_libraries(self, name: str) -> None:
        """Raise ``UsageError`` where one is missing, naming what to install."""
        for module, package in self.needs.items():
            if find_spec(module) is None:
                raise UsageError(f"The format {name} needs one more package: pip install '{package}'.")

    def writer(self) -> Writer:
        """Its module, imported now."""
        writer: Any = importlib.import_module(f"{__package__}.{self.module}")
        return writer  # type: ignore[no-any-return]


FORMATS = {
    "onnx": Format("onnx_file", ".onnx", {"onnx": "onnx", "onnxruntime": "onnxruntime"}),
    "saved-model": Format("saved_model", "", {"tensorflow": "tensorflow"}),
    "tflite": Format("tflite_file", ".tflite", {"tensorflow": "tensorflow", "ai_edge_litert": "densenet-cli[tflite]"}),
    "safetensors": Format("torch_names", ".safetensors", {"safetensors": "safetensors"}, with_preprocessing=False),
    "keras": Format("keras_file", ".keras", {"tensorflow": "tensorflow", "keras": "keras"}),
}
"""The values of ``--format``."""


def choose(path: Path, name: str | None) -> str:
    """The format of a file to be called ``path``: what ``name`` says, else what the suffix does, else a folder's.

    Raises ``UsageError`` where the two contradict each other, or nothing says it.
    """
    of_suffix = {row.suffix: format_ for format_, row in FORMATS.items() if row.suffix}
    told = next((format_ for suffix, format_ in of_suffix.items() if path.name.lower().endswith(suffix)), None)
    if name is not None and name not in FORMATS:
        raise UsageError(f"There is no format {name!r}; there are {', '.join(FORMATS)}.")
    if name and told and name != told:
        raise UsageError(f"{path.name} is a name for {told}, but --format says {name}: change one of them.")
    if found := name or told or ("saved-model" if not path.suffix else None):
        return found
    endings = ", ".join(of_suffix)
    raise UsageError(f"{path.name} doesn't tell the format: end it in {endings}, or give --format.")
