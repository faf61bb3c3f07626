"""Every error this package raises on purpose, as one small tree.

A message is one sentence a user can act on: what is wrong, and what to do next. The command turns an
error into a row (a picture's) or an exit status (everything else's); nobody has to read a traceback.
"""

from __future__ import annotations

from typing import ClassVar


class DensenetError(Exception):
    """Base of all errors raised on purpose. ``exit_code`` is the command's exit status for it."""

    exit_code: ClassVar[int] = 1


class UsageError(DensenetError):
    """Options that contradict each other, or a value that is not allowed."""

    exit_code = 2


class WeightsError(DensenetError):
    """Weights that can't be had, or that don't fit the network."""

    exit_code = 3


class WeightsUnavailable(WeightsError):
    """No weights on this machine, and none could be fetched."""


class CheckpointError(WeightsError):
    """A checkpoint that can't be read, or whose layers, shapes or dtypes are not the network's."""


class OutputError(DensenetError):
    """Results that can't be written."""

    exit_code = 4


class IsolationError(DensenetError):
    """No process to decode in can be started."""


class PictureError(DensenetError):
    """One picture that can't be classified: an error row, never the end of a run.

    The class's name is the ``type`` in the JSON; ``docs/output.md`` has the table.
    """


class SourceNotFound(PictureError):
    """No file, folder or match of that name."""


class SourceUnreadable(PictureError):
    """A file or folder that exists and can't be opened or listed, or is no regular file."""


class EmptySource(PictureError):
    """A folder or glob without a single picture in it."""


class UnreadableImage(PictureError):
    """Bytes that are no picture, a damaged picture, or a picture in a format that is refused."""


class ImageTooLarge(PictureError):
    """A picture that alone needs more than the memory set aside for decoding."""


class DownloadFailed(PictureError):
    """A URL that gave no picture."""


class DecoderCrashed(PictureError):
    """A picture that ended the process it was decoded in (``--isolate``)."""


class DecodingTimedOut(PictureError):
    """A picture that took longer to decode than it may (``--timeout``)."""
