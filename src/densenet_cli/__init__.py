"""Classify images with DenseNet: ``from densenet_cli import Classifier; Classifier("121").predict("cat.jpg")``."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from densenet_cli.classifier import Classifier
    from densenet_cli.errors import CheckpointError, DensenetError, ImageError, OutputError, UsageError, WeightsError
    from densenet_cli.explain.cam import Explanation
    from densenet_cli.results import Embedding, Prediction, Score

    __version__: str

__all__ = [
    "CheckpointError",
    "Classifier",
    "DensenetError",
    "Embedding",
    "Explanation",
    "ImageError",
    "OutputError",
    "Prediction",
    "Score",
    "UsageError",
    "WeightsError",
    "__version__",
]

_MODULES = {"Classifier": "classifier", "Explanation": "explain.cam"} | dict.fromkeys(
    ("Embedding", "Prediction", "Score"), "results"
)


def __getattr__(name: str) -> object:
    """Import a public name when it is first used, so that the command starts without most of them."""
    import importlib

    if name == "__version__":
        from importlib.metadata import version

        return version("densenet-cli")
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES.get(name, 'errors')}"), name)
