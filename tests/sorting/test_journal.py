"""The journal is readable after a crash, and a damaged one is refused."""

from __future__ import annotations

import pytest

from densenet_cli.errors import OutputError
from densenet_cli.sorting.journal import JOURNAL_NAME, Journal
from tests.support.sorting import SORTED, run, write_files


def test_damaged_journal(tmp_path):
    source, target = write_files(tmp_path / "photos"), tmp_path / "sorted"
    run(source, target, "move")
    journal = target / JOURNAL_NAME
    content = journal.read_bytes()
    journal.write_bytes(content + b'{"action": "mo')  # incomplete
    with Journal(target) as restored:
        assert len(restored.operations) == len(SORTED)
    damages = (
        b"text\n",
        b'{"densenet_sort": 2}\n',
        content + b'{"action": "delete"}\n',
        content + b"[1]\n",
        content + b'{"done": [99]}\n',
    )
    for wrong in damages:
        journal.write_bytes(wrong)
        with pytest.raises(OutputError):
            Journal(target)
