"""File systems of a few kilobytes: tmpfs, mounted in a private namespace of a process."""

from __future__ import annotations

import resource
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

MOUNT_NAMESPACE = ["unshare", "--map-root-user", "--mount"]
"""Prefix for a command that mounts file systems."""


def _may_mount() -> bool:
    probe = [*MOUNT_NAMESPACE, "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    return bool(shutil.which("unshare")) and subprocess.run(probe, capture_output=True, check=False).returncode == 0


needs_a_small_disk = pytest.mark.skipif(
    not _may_mount(), reason="mounting a small disk needs Linux and user namespaces"
)


@contextmanager
def limit_file_size(size: int) -> Iterator[None]:
    """Let no file grow beyond ``size`` bytes. The kernel then stops a write in its middle, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
