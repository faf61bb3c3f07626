"""Checkpoints: where the published ones come from and lie, and how each format is read."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int | None], None]
"""Of a download: called with a file's name, the bytes there are, and the bytes in all (None where nobody said)."""
