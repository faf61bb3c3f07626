"""Let ``--processes`` compute all images but the first, so that a few images test it.

As a script: run ``densenet`` like this.
"""

from __future__ import annotations

from densenet_cli import processes


def use_at_once(set_attribute=setattr) -> None:
    """Start processes after the first source, and wait until they are ready. ``set_attribute`` is like ``setattr``."""
    check = processes.ProcessPool.check

    def wait_and_check(pool, group):
        group.is_started.wait()
        return check(pool, group)

    set_attribute(processes, "START_AFTER", 1)
    set_attribute(processes.ProcessPool, "check", wait_and_check)


if __name__ == "__main__":
    from densenet_cli.cli import main

    use_at_once()
    main()
