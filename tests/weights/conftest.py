"""Fixtures for tests of weights."""

from __future__ import annotations

import pytest


@pytest.fixture
def short_timeouts(monkeypatch):
    """Retry downloads without delay, time out early, and use no proxy."""
    from densenet_cli.http import Timeouts
    from densenet_cli.weights import download

    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.setattr(download, "RETRY_DELAYS", (0.0, 0.0))
    monkeypatch.setattr(download, "TIMEOUTS", Timeouts(connect=5, read=10, total=None))
