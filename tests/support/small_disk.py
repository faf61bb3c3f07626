"""Disks of a few kilobytes: tmpfs, mounted in a namespace of the process's own that goes with it."""

from __future__ import annotations

import shutil
import subprocess

import pytest

IN_A_NAMESPACE = ["unshare", "--map-root-user", "--mount"]
"""In front of a command that mounts."""


def _may_mount() -> bool:
    probe = [*IN_A_NAMESPACE, "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    return bool(shutil.which("unshare")) and subprocess.run(probe, capture_output=True, check=False).returncode == 0


needs_a_small_disk = pytest.mark.skipif(
    not _may_mount(), reason="mounting a small disk needs Linux and user namespaces"
)
