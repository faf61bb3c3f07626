"""Why an image can't be read: any library's exception as one short printable line."""

from __future__ import annotations

LONGEST = 200

NONSENSE = "A damaged image: its header makes no sense."

WORDS = {
    "MemoryError": "There is not enough memory to decode it.",
    "RecursionError": NONSENSE,
    "KeyError": NONSENSE,
    "IndexError": NONSENSE,
    "TypeError": NONSENSE,
    "AttributeError": NONSENSE,
    "AssertionError": NONSENSE,
    "error": NONSENSE,  # struct's
}
"""Exceptions whose own words, if any, say nothing of the image, by name."""


def reason(error: BaseException) -> str:
    """One line of printable characters, not many more than ``LONGEST``."""
    name = type(error).__name__
    if name in WORDS:
        return WORDS[name]
    words = " ".join("".join(c if c.isprintable() else " " for c in str(error)).split())
    if len(words) > LONGEST:
        words = f"{words[:LONGEST]}..."
    if isinstance(error, ImportError):
        return f"Pillow can't be used: {words.rstrip('.')}."
    return f"A damaged image: {words.rstrip('.') or name}."
