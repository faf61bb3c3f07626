"""Run a function in a forked process, and wait for processes."""

from __future__ import annotations

import gc
import os
import time
import traceback
import warnings
from collections.abc import Callable

import psutil


def exit_status(function: Callable[[], object]) -> int:
    """Call a function in a fork of this process and return the exit status: 0 if it returns, 1 if it raises.

    The function may end the process itself with ``os._exit``.
    """
    with warnings.catch_warnings():
        # Python warns about a fork of a process with threads, which test runners and TensorFlow have.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if not child:
        try:
            # Collecting the parent's garbage could wait for threads that do not exist in the child.
            gc.disable()
            function()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def wait_for(condition: Callable[[], object], seconds: float = 60) -> None:
    """Wait until a condition holds, and fail if it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert condition()


def is_gone(process: psutil.Process) -> bool:
    """Return whether a process has ended, including zombies."""
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
