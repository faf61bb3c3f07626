"""A file's identity changes whenever the file may have."""

from __future__ import annotations

import os

import pytest

from densenet_cli.weights.file_identity import Identity


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "weights.h5"
    path.write_bytes(b"one")
    return path


def test_it_is_the_same_for_the_same_file_however_it_is_reached(file, tmp_path, monkeypatch):
    (tmp_path / "link").symlink_to(file)
    monkeypatch.chdir(tmp_path)
    identity = Identity.of(file)
    assert identity == Identity.of("weights.h5") == Identity.of(tmp_path / "link")
    assert identity.key() == Identity.of("link").key()
    assert identity.path == str(file.resolve())


def test_it_survives_being_written_down(file):
    identity = Identity.of(file)
    assert Identity.from_dict(identity.to_dict()) == identity
    for damaged in ({}, {**identity.to_dict(), "size": "many"}, {**identity.to_dict(), "inode": None}):
        with pytest.raises((KeyError, TypeError, ValueError)):
            Identity.from_dict(damaged)


def test_every_field_changes_the_key(file):
    identity = Identity.of(file)
    others = [Identity.from_dict({**identity.to_dict(), name: 5}) for name in identity.to_dict()]
    assert len({identity.key(), *(other.key() for other in others)}) == 6


def test_contents_of_the_same_size_with_the_old_time_set_back_are_another_file(file):
    before, times = Identity.of(file), file.stat()
    while file.stat().st_ctime_ns == before.ctime_ns:
        file.write_bytes(b"two")
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    after = Identity.of(file)
    assert (after.size, after.mtime_ns) == (before.size, before.mtime_ns)
    assert after.key() != before.key()


def test_a_name_that_is_not_utf8(tmp_path):
    path = tmp_path / os.fsdecode(b"caf\xe9.h5")
    path.touch()
    assert len(Identity.of(path).key()) == 32
