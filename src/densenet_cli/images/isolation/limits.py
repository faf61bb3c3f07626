"""What a decoding process may hold, and what becomes of it when things go wrong, as far as the system allows."""

from __future__ import annotations

import fcntl
import os
import resource
import select
import signal
import sys
from contextlib import suppress

ROOM = 256 << 20
"""Bytes beside the images': modules imported later, tables of decoders, what an allocator keeps."""

ROOM_OF_A_THREAD = 16 << 20
"""Bytes of stack and heap for each thread of its own that a decoder may start, one a core (AVIF's does)."""

KEPT = ROOM // 2
"""Bytes that a process may have grown by between two images before it makes way for a fresh one."""


def end_with_parent(lifeline: int) -> None:
    """Have the system end this process when the parent's end of a pipe closes, whatever the process is doing then.

    It works in the middle of a decoder that hangs and holds the interpreter's lock, where no thread could watch.
    """
    with suppress(OSError, AttributeError):
        signal.signal(signal.SIGIO, signal.SIG_DFL)  # which ends it
        if hasattr(fcntl, "F_SETSIG"):  # Linux, where even a process that was stopped ends so
            fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)
    if select.select([lifeline], [], [], 0)[0]:  # nothing is ever written to it: it closed before this was arranged
        sys.exit(1)


def leave_no_core() -> None:
    """No core file when it crashes. A limit of one byte, other than 0, keeps one from being piped to a program too."""
    for limit in (1, 0):
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_CORE, (limit, limit))
            return


def prefer_oom_kill() -> None:
    """Where the machine runs out of memory, have this process killed and not the parent (Linux)."""
    with suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")


def held() -> int | None:
    """Bytes of private writable memory, as ``limit_memory`` counts them; None where the system doesn't say."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[5]) * resource.getpagesize()
    except OSError:
        return None


def limit_memory(images: int) -> None:
    """Let this process hold what it holds now, ``images`` bytes more, and some room. Beyond it memory runs out.

    Only Linux counts all that a process allocates; elsewhere there is no limit.
    """
    now = held()
    if now is None:
        return
    most = now + images + ROOM + ROOM_OF_A_THREAD * (os.cpu_count() or 1)
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if hard != resource.RLIM_INFINITY:
        most = min(most, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))
