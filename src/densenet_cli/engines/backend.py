"""Keras and the library that it computes with, imported without their chatter."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager


def load() -> None:
    """Import Keras, on the backend that ``KERAS_BACKEND`` names, else TensorFlow. It takes seconds."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with silence():
        import keras  # noqa: F401


@contextmanager
def silence() -> Iterator[None]:
    """Drop what is written to standard error, by C++ too: some of TensorFlow's lines heed no log level."""
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
