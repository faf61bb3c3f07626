"""The identity of a file changes whenever the contents may have changed."""

from __future__ import annotations

import os

import pytest

from densenet_cli.weights.file_identity import FileIdentity


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "weights.h5"
    path.write_bytes(b"one")
    return path


def test_identity_is_the_same_for_every_path_of_a_file(file, tmp_path, monkeypatch):
    (tmp_path / "link").symlink_to(file)
    monkeypatch.chdir(tmp_path)
    identity = FileIdentity.of(file)
    assert identity == FileIdentity.of("weights.h5") == FileIdentity.of(tmp_path / "link")
    assert identity.key() == FileIdentity.of("link").key()
    assert identity.path == str(file.resolve())


def test_loop_of_links_is_an_os_error(tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(OSError):
        FileIdentity.of(tmp_path / "loop")


def test_to_dict_and_from_dict(file):
    identity = FileIdentity.of(file)
    assert FileIdentity.from_dict(identity.to_dict()) == identity
    for damaged in ({}, {**identity.to_dict(), "size": "many"}, {**identity.to_dict(), "inode": None}):
        with pytest.raises((KeyError, TypeError, ValueError)):
            FileIdentity.from_dict(damaged)


def test_every_field_changes_the_key(file):
    identity = FileIdentity.of(file)
    others = [FileIdentity.from_dict({**identity.to_dict(), name: 5}) for name in identity.to_dict()]
    assert len({identity.key(), *(other.key() for other in others)}) == 6


def test_changed_contents_with_the_same_size_and_mtime(file):
    before, times = FileIdentity.of(file), file.stat()
    while file.stat().st_ctime_ns == before.ctime_ns:
        file.write_bytes(b"two")
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    after = FileIdentity.of(file)
    assert (after.size, after.mtime_ns) == (before.size, before.mtime_ns)
    assert after.key() != before.key()


def test_path_that_is_not_utf8(tmp_path):
    path = tmp_path / os.fsdecode(b"caf\xe9.h5")
    path.touch()
    assert len(FileIdentity.of(path).key()) == 32
