"""Atomic writes and locks: complete or absent files, and one writer at a time."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from densenet_cli.errors import OutputError, UsageError
from densenet_cli.output import atomic
from densenet_cli.output.atomic import locked, open_locked, output_errors, replace_file, replace_path, write_file
from tests.support.small_disk import limit_file_size


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_an_os_error_becomes_an_output_error_with_a_hint() -> None:
    with pytest.raises(OutputError) as caught, output_errors("caf\udce9.csv", "Use `resume` to continue."):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert str(caught.value) == "Cannot write caf\\xe9.csv: No space left on device. Use `resume` to continue."
    with pytest.raises(OutputError, match=r"^Cannot write a: odd\.$"), output_errors(Path("a")):
        raise OSError("odd")
    with pytest.raises(UsageError), output_errors("a"):
        raise UsageError


@pytest.mark.parametrize("content", [b"new", [b"n", b"ew"], lambda file: file.write(b"new")])
def test_a_file_is_created_or_replaced(tmp_path: Path, content: atomic.Content) -> None:
    for _ in range(2):
        write_file(tmp_path / "a", content)
        assert (tmp_path / "a").read_bytes() == b"new"
        assert names(tmp_path) == ["a"]


def test_a_symbolic_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "target")
    write_file(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "target").read_bytes() == b"new"


def failing_chunks() -> Iterator[bytes]:
    yield b"new"
    raise ZeroDivisionError


@pytest.mark.parametrize("exists", [True, False])
def test_an_error_changes_nothing(tmp_path: Path, exists: bool) -> None:
    if exists:
        (tmp_path / "a").write_bytes(b"old")
    with pytest.raises(ZeroDivisionError):
        write_file(tmp_path / "a", failing_chunks())
    with limit_file_size(100), pytest.raises(OutputError, match="a: File too large"):
        write_file(tmp_path / "a", bytes(1000))
    assert names(tmp_path) == ["a"] * exists
    if exists:
        assert (tmp_path / "a").read_bytes() == b"old"


def test_the_rest_of_a_killed_run_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "a.part").write_bytes(b"a longer text than the new one")
    write_file(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"new"
    assert names(tmp_path) == ["a"]


def test_a_second_writer_does_no_harm(tmp_path: Path) -> None:
    def chunks() -> Iterator[bytes]:
        yield b"fi"
        with pytest.raises(OutputError, match="another run is writing it"):
            write_file(tmp_path / "a", b"second")
        yield b"rst"

    write_file(tmp_path / "a", chunks())
    assert (tmp_path / "a").read_bytes() == b"first"


def test_the_new_file_has_the_mode_and_stays_locked(tmp_path: Path) -> None:
    with replace_file(tmp_path / "a", b"new", 0o640) as file:
        assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640
        assert file.tell() == 3
        with pytest.raises(BlockingIOError):
            open_locked(tmp_path / "a")
    open_locked(tmp_path / "a")[0].close()


def test_file_systems_without_fsync_or_locks_are_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def raise_unsupported(_: object) -> None:
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr(os, "fsync", raise_unsupported)
    monkeypatch.setattr(atomic, "_lock", raise_unsupported)
    write_file(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"new"


def test_a_file_or_folder_is_moved_into_place(tmp_path: Path) -> None:
    checks: list[list[str]] = []
    for kind in ("file", "folder"):
        for content in ("old", "new"):
            with replace_path(tmp_path / kind, lambda: checks.append(names(tmp_path))) as temporary:
                assert temporary.name == kind
                if kind == "folder":
                    temporary.mkdir()
                (temporary / "x" if kind == "folder" else temporary).write_text(content)
    assert (tmp_path / "file").read_text() == (tmp_path / "folder" / "x").read_text() == "new"
    assert names(tmp_path) == ["file", "folder"]
    assert checks[:2] == [[], [".file.part"]]


def test_the_folder_of_a_killed_run_is_emptied(tmp_path: Path) -> None:
    (tmp_path / ".a.part" / "folder").mkdir(parents=True)
    (tmp_path / ".a.part" / "folder" / "x").touch()
    (tmp_path / ".a.part" / "a").touch()
    with replace_path(tmp_path / "a", lambda: None) as temporary:
        assert names(temporary.parent) == ["lock"]
        temporary.write_text("new")
    assert names(tmp_path) == ["a"]


def test_a_lock_excludes_threads_and_is_deleted(tmp_path: Path) -> None:
    with locked(tmp_path / "lock"):
        with pytest.raises(BlockingIOError), locked(tmp_path / "lock"):
            pass
        assert names(tmp_path) == ["lock"]
    assert names(tmp_path) == []


def test_waiting_for_a_lock(tmp_path: Path) -> None:
    held, waiting = threading.Event(), threading.Event()

    def hold() -> None:
        with locked(tmp_path / "lock"):
            held.set()
            assert waiting.wait(10)

    thread = threading.Thread(target=hold)
    thread.start()
    assert held.wait(10)
    with locked(tmp_path / "lock", on_wait=waiting.set):
        assert waiting.is_set()
    thread.join()
    assert names(tmp_path) == []


def test_a_killed_process_holds_no_lock(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from densenet_cli.output.atomic import locked\n"
        "with locked(Path(sys.argv[1])): print(flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", code, tmp_path / "lock"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout and process.stdout.readline()
        with pytest.raises(BlockingIOError), locked(tmp_path / "lock"):
            pass
        process.send_signal(signal.SIGKILL)
    with locked(tmp_path / "lock"):
        pass
