"""Importing torchvision, and libraries that import it, if they are installed (``make test-backends``)."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest


def import_library(name: str) -> ModuleType:
    """Import ``timm``, ``torchvision``, or a module of theirs, or skip the test.

    The wheel of torchvision cannot load its compiled operators beside some builds of PyTorch. Its networks and
    transforms do not use them, so they are declared without an implementation.
    """
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: make test-backends")
    try:
        pytest.importorskip("torchvision", reason="torchvision is not installed: make test-backends")
    except RuntimeError:
        for module in [module for module in sys.modules if module.partition(".")[0] == "torchvision"]:
            del sys.modules[module]
        global _operators  # its declarations end with it
        _operators = torch.library.Library("torchvision", "DEF")
        for operator in ("nms", "qnms"):
            _operators.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return pytest.importorskip(name, reason=f"{name} is not installed: make test-backends")


_operators = None
