"""Running on Ray Data: ``densenet predict --ray`` and ``embed --ray``, and classes for pipelines of your own.

``batches.py`` contains these classes. ``job.py`` runs a job, ``listing.py`` lists its sources, ``worker.py`` computes
parts, and ``folder.py`` is the output folder. ``shared.py`` brings the model to all nodes, ``cluster.py`` connects to
Ray, ``versions.py`` compares nodes, and ``records.py`` writes the formats.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from densenet_cli.ray.batches import Embedder, Predictor
    from densenet_cli.ray.shared import SharedCheckpoint, share_weights

__all__ = ["Embedder", "Predictor", "SharedCheckpoint", "share_weights"]


def __getattr__(name: str) -> object:
    """Import a public name when it is first used."""
    import importlib

    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = "batches" if name in ("Embedder", "Predictor") else "shared"
    return getattr(importlib.import_module(f"{__name__}.{module}"), name)
