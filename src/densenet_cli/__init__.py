"""Classify images with DenseNet: ``from densenet_cli import Classifier; Classifier("121").predict("cat.jpg")``."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from densenet_cli.classifier import Classifier
    from densenet_cli.errors import DensenetError, ImageError
    from densenet_cli.results import Prediction, Score

__all__ = ["Classifier", "DensenetError", "ImageError", "Prediction", "Score"]

_HOMES = {
    "Classifier": "classifier",
    "DensenetError": "errors",
    "ImageError": "errors",
    "Prediction": "results",
    "Score": "results",
}


def __getattr__(name: str) -> object:
    """Import a public name when it is asked for: the command starts without most of them."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
