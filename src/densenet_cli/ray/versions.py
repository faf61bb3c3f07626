"""Versions of Python and of the packages that results depend on. All nodes must have the same."""

from __future__ import annotations

import platform
from collections.abc import Collection

from densenet_cli.errors import UsageError
from densenet_cli.text import join_names

PACKAGES = ("densenet-cli", "ray", "numpy", "pillow", "pyarrow")
"""Packages that every run uses."""

ENGINE_PACKAGES = {"onnx": "onnxruntime", "openvino": "openvino", "tensorflow": "tensorflow"}

PYTHON = "Python"


def required_versions(engine: str) -> dict[str, str]:
    """Return the versions that all nodes must have, which are those of this process."""
    return installed_versions((*PACKAGES, ENGINE_PACKAGES[engine]))


def installed_versions(packages: Collection[str]) -> dict[str, str]:
    """Return the version of Python (major and minor) and of each package, "none" if it is not installed."""
    from importlib.metadata import PackageNotFoundError, version

    versions = {PYTHON: ".".join(platform.python_version_tuple()[:2])}
    for package in packages:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "none"
    return versions


def check_versions(required: dict[str, str], node: str, found: dict[str, str] | None = None) -> None:
    """Check that a node has the versions of the machine that runs the command.

    Args:
        required: The versions of that machine.
        node: The address of the node.
        found: Its versions, None for those of this process.

    Raises:
        UsageError: One differs.
    """
    if found is None:
        found = installed_versions([name for name in required if name != PYTHON])
    differences = [
        f"{name} {found.get(name, 'none')} instead of {version}"
        for name, version in required.items()
        if found.get(name, "none") != version
    ]
    if differences:
        raise UsageError(
            f"The node {node} has other versions than this machine: {join_names(differences)}. Install the same "
            "versions on all nodes."
        )
