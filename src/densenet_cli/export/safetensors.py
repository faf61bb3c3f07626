"""``.safetensors`` with torchvision's names, its epsilon and all that its ``state_dict`` has, strictly.

``weights.safetensors_file`` writes and reads it; the description lies in the file's metadata beside our own key.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from densenet_cli.engines.onnx_graph import emit
from densenet_cli.weights import checkpoint, safetensors
from densenet_cli.weights.contents import ModelMetadata

if TYPE_CHECKING:
    from densenet_cli.export.formats import Run
    from densenet_cli.export.model import ExportedModel


def write(model: ExportedModel, path: Path) -> None:
    """See ``formats.Writer``."""
    metadata = ModelMetadata(
        model.labels, model.preprocessing.mode, model.size, model.metadata.training, model.metadata.accuracy
    )
    # "format" is what transformers' and diffusers' readers ask for.
    properties = {"format": "pt", **model.properties}
    path.write_bytes(safetensors.serialize(model.arrays, model.config, metadata, for_torch=True, properties=properties))


def load(model: ExportedModel, path: Path) -> Run:
    """See ``formats.Writer``. The arrays as the file has them; torch need not be installed."""
    from densenet_cli.export.onnx import session

    read = checkpoint.read(path)
    return session(emit(read.arrays, read.config), channels_first=True)
