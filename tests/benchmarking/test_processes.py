"""Measured processes: memory, errors, and environment variables."""

from __future__ import annotations

import sys

import pytest

from densenet_cli.benchmarking.processes import CommandFailedError, run_process


def test_memory_of_this_process_is_not_counted():
    ballast = bytearray(200_000_000)
    small = run_process([sys.executable, "-c", "print('hello')"])
    large = run_process([sys.executable, "-c", "ballast = bytearray(b'x') * 100_000_000"])
    assert small.stdout == "hello\n" and small.seconds > 0
    assert small.peak_memory < 50_000_000 < 100_000_000 < large.peak_memory < len(ballast)


def test_a_failed_process_is_an_error_with_its_message():
    with pytest.raises(CommandFailedError, match=r"status 3: no luck"):
        run_process([sys.executable, "-c", "import sys; print('no luck', file=sys.stderr); sys.exit(3)"])
    with pytest.raises(CommandFailedError, match=r"no-such-program"):
        run_process(["/no-such-program"])


def test_environment_variables_are_added_and_removed(monkeypatch):
    monkeypatch.setenv("DENSENET_TEST_REMOVED", "x")
    code = "import os; print(os.environ['DENSENET_TEST_ADDED'], 'DENSENET_TEST_REMOVED' in os.environ)"
    changes = {"DENSENET_TEST_ADDED": "y", "DENSENET_TEST_REMOVED": None}
    assert run_process([sys.executable, "-c", code], changes).stdout == "y False\n"
