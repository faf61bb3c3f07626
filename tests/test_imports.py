"""The structure that docs/concepts/architecture.md describes: imports point down and form no cycles."""

from __future__ import annotations

import ast
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "src"
PACKAGE = "densenet_cli"

LAYERS = (
    {"cli", "__main__"},
    {"ray"},
    {
        "benchmarking",
        "evaluation",
        "explain",
        "export",
        "report",
        "sorting",
        "training",
        "classifier",
        "datasets",
        "image_model",
        "processes",
    },
    {"int8", "model", "model_preprocessing", "pace", "pipeline", "predictor", "results", "workers"},
    {"engines", "images", "weights"},
    {"output"},
    {"calibration", "http", "label_files", "labels", "layers", "paths", "storage", "topology", "variants"},
    {"textfiles", "transfer_errors"},
    {"text"},
    {"_types", "errors"},
)
"""Modules and packages from top to bottom. A module may import from its own layer and from those below."""


def module_name(path: Path) -> str:
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def modules() -> dict[str, Path]:
    return {module_name(path): path for path in (SOURCE / PACKAGE).rglob("*.py")}


@cache
def imports(name: str) -> set[str]:
    """Return the modules of the package that a module imports anywhere, for type checking too."""
    found = set()
    for node in ast.walk(ast.parse(modules()[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith(PACKAGE):
            submodules = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (submodules & modules().keys()) or {node.module}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name in modules()}
    return found - {name}


def layer(name: str) -> int:
    part = name.split(".")[1]
    return next(number for number, parts in enumerate(LAYERS) if part in parts)


def test_no_import_cycles():
    graph = {name: imports(name) for name in modules() if name != PACKAGE}
    assert list(TopologicalSorter(graph).static_order())


def test_imports_point_down():
    for name in modules():
        if name != PACKAGE:
            upward = [other for other in imports(name) - {PACKAGE} if layer(other) < layer(name)]
            assert upward == [], name


def test_files_are_small():
    for name, path in modules().items():
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 350, name
