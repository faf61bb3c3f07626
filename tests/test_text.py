"""Names in messages: escaped, quoted, and listed."""

from __future__ import annotations

import pytest

from densenet_cli.text import join_names, quote


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("red panda", "'red panda'"),
        ("yellow lady's slipper", '"yellow lady\'s slipper"'),
        ("caf\udce9", r"'caf\xe9'"),
        ("e\nmpty", r"'e\nmpty'"),
        ("a\\b", r"'a\b'"),
    ],
)
def test_quoted_names(name, expected):
    assert quote(name) == expected


def test_listed_names_are_escaped():
    assert join_names(["a", "e\nmpty", "caf\udce9"]) == r"a, e\nmpty, and caf\xe9"
