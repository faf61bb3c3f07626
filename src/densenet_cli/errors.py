"""Exceptions raised by this package.

    DensenetError                      exit status 1
    ├── UsageError (also ValueError)   exit status 2
    ├── WeightsError                   exit status 3
    │   ├── WeightsUnavailableError
    │   └── CheckpointError
    ├── OutputError                    exit status 4
    ├── IsolationError
    ├── ProcessError
    └── ImageError                     one image; a record of a batch, never the end of it
        ├── SourceNotFoundError
        ├── SourceUnreadableError
        ├── EmptySourceError
        ├── UnreadableImageError
        ├── ImageTooLargeError
        ├── DownloadFailedError
        ├── DecoderCrashedError
        └── DecodingTimedOutError

A message says what happened and what to do. It names parameters of the Python API in backticks; the command line
replaces them with its options.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, TypeVar

T = TypeVar("T")


class DensenetError(Exception):
    """Base class of all exceptions raised on purpose. ``exit_code`` is the exit status of the command."""

    exit_code: ClassVar[int] = 1


class UsageError(DensenetError, ValueError):
    """Contradictory arguments, or a value that is not allowed."""

    exit_code = 2


class WeightsError(DensenetError):
    """Weights that are unavailable or do not fit the network."""

    exit_code = 3


class WeightsUnavailableError(WeightsError):
    """Weights that are neither on this machine nor downloadable.

    Args:
        message: What happened.
        variant: The name of the variant, or its ``hf://`` URL, if other weights or another download would help.
        differs: Whether there is a file with the name of the published weights but other contents.
    """

    def __init__(self, message: str, variant: str | None = None, *, differs: bool = False) -> None:
        super().__init__(message)
        self.variant = variant
        self.differs = differs


class CheckpointError(WeightsError):
    """A checkpoint that cannot be read, or whose layers, shapes, or dtypes do not fit the network."""


class OutputError(DensenetError):
    """Output that cannot be written."""

    exit_code = 4


class IsolationError(DensenetError):
    """A worker process for decoding cannot be started."""


class ProcessError(DensenetError):
    """One of several processes that share the images cannot be started or has failed (``processes``)."""


class ImageError(DensenetError):
    """One image that cannot be processed. In a batch it becomes an error record and the batch continues."""

    @property
    def type(self) -> str:
        """``error.type`` in records: the class name without ``Error``, such as ``UnreadableImage``."""
        return type(self).__name__.removesuffix("Error")


class SourceNotFoundError(ImageError):
    """No file, folder, or glob match has this name."""


class SourceUnreadableError(ImageError):
    """A file or folder exists but cannot be opened or listed, or is not a regular file."""


class EmptySourceError(ImageError):
    """A folder or glob contains no image."""


class UnreadableImageError(ImageError):
    """The data is not an image, is damaged, or has an unsupported format."""


class ImageTooLargeError(ImageError):
    """Decoding the image needs more memory than the limit for decoding."""


class DownloadFailedError(ImageError):
    """A URL did not return an image."""


class DecoderCrashedError(ImageError):
    """The worker process that decoded the image crashed or was killed (``isolate``)."""


class DecodingTimedOutError(ImageError):
    """Decoding the image took longer than ``timeout``."""


MAX_MESSAGE_LENGTH = 200

INVALID_HEADER = "The image is damaged: invalid header."

MESSAGES = {
    "MemoryError": "Not enough memory to decode the image.",
    **dict.fromkeys(("RecursionError", "KeyError", "IndexError", "TypeError", "AttributeError"), INVALID_HEADER),
    **dict.fromkeys(("AssertionError", "error"), INVALID_HEADER),  # struct.error
}
"""Exception name -> message, for decoder exceptions whose own message does not describe the image."""

UNSUPPORTED_MESSAGE = "unsupported|not( yet)? supported|cannot handle"
"""Pattern, in lower case, of decoder messages about intact images in an unsupported format."""


def guard(task: Callable[[], T]) -> T:
    """Call ``task`` and turn every exception other than a ``DensenetError`` into an ``UnreadableImageError``."""
    try:
        return task()
    except DensenetError as error:
        failure = error
    except Exception as error:
        failure = UnreadableImageError(_describe_error(error))
    # The error may be kept for long. The frames of its traceback would keep the image in memory.
    failure.__cause__ = failure.__context__ = None
    raise failure.with_traceback(None)


def _describe_error(error: Exception) -> str:
    """Describe the exception of a decoder in one printable line of about ``MAX_MESSAGE_LENGTH`` characters."""
    import re

    name = type(error).__name__
    if name in MESSAGES:
        return MESSAGES[name]
    message = " ".join("".join(c if c.isprintable() else " " for c in str(error)).split())
    if len(message) > MAX_MESSAGE_LENGTH:
        message = f"{message[:MAX_MESSAGE_LENGTH]}..."
    if isinstance(error, ImportError):
        return f"Cannot import Pillow: {message.rstrip('.')}."
    verdict = "of an unsupported kind" if re.search(UNSUPPORTED_MESSAGE, message.lower()) else "damaged"
    return f"The image is {verdict}: {message.rstrip('.') or name}."
