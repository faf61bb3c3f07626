"""Why a picture can't be read: any library's exception as one short printable line."""

from __future__ import annotations

LONGEST = 200

WORDS = {
    "MemoryError": "There is not enough memory to decode it.",
    "RecursionError": "A damaged picture: its parts are nested too deep.",
}
"""Exceptions that carry no words of their own, by name."""


def reason(error: BaseException) -> str:
    """One line of printable characters, at most ``LONGEST`` of them and a few."""
    name = type(error).__name__
    if name in WORDS:
        return WORDS[name]
    words = " ".join("".join(c if c.isprintable() else " " for c in str(error)).split())
    if len(words) > LONGEST:
        words = f"{words[:LONGEST]}..."
    return f"A damaged picture: {words.rstrip('.') or name}."
