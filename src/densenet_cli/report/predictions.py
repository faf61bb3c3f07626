"""The page of a run of ``predict``: every image with its labels, or the reason why it has none.

Rows are rendered as they come and wait in a file without a name, because how many there are stands at the head of the
page: memory stays flat, and whatever ends the run before it, nothing is left behind.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryFile
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from markupsafe import Markup

from densenet_cli.images.previews import Thumbnail
from densenet_cli.output.atomic import output_errors, write_file
from densenet_cli.report.page import environment, plain, render, written_at

if TYPE_CHECKING:
    from densenet_cli.images.previews import Preview
    from densenet_cli.results import Prediction

MAX_THUMBNAILS = 2000
"""So many images are shown; the rows behind them go on without."""
UNSURE = 0.5
"""Below this probability of the best label an image is called unsure, until somebody moves the slider."""
BLOCK = 30
"""Rows that are laid out together; the style and the script know it too."""
ROWS = "\0"
"""Where the rows go; no text on a page has this character in it, for none is printed as it is."""
CHUNK = 1 << 20


class PredictionReport:
    """Writes the page. A context manager: the file is there, whole, once it is left.

    Left by an interruption it holds what was finished, and says so; by another error, there is none.

    Args:
        path: the file, which was checked already (``outputs.check``).
        model: the model's name.

    Attributes:
        settings: what else the page says about the run, of JSON's types.

    Raises:
        UsageError: ``SOURCE_DATE_EPOCH`` is no date.
        OutputError: on entering, adding or leaving: it can't be written.
    """

    def __init__(self, path: Path, model: str, settings: Mapping[str, Any]) -> None:
        self._path, self._model, self._settings = path, model, settings
        self._date = written_at()
        self._row = environment().get_template("image.html")
        self._rows = self._unsure = self._failed = 0

    def __enter__(self) -> Self:
        with output_errors(self._path):
            self._file = TemporaryFile(dir=Path(os.path.realpath(self._path)).parent)
        return self

    def add(self, prediction: Prediction, preview: Preview | None = None) -> None:
        """Add the row of one image."""
        self._rows += 1
        best = prediction.scores[0].probability if prediction.scores else 0.0
        is_unsure = prediction.error is None and best < UNSURE
        self._failed += prediction.error is not None
        self._unsure += is_unsure
        folder, _, name = prediction.source.rpartition("/")
        row = self._row.render(
            number=self._rows,
            block=BLOCK,
            folder=f"{folder}/" if name and folder else "",
            name=name if name and folder else prediction.source,
            prediction=prediction,
            best=best,
            is_unsure=is_unsure,
            jpeg=preview.jpeg if isinstance(preview, Thumbnail) else None,
        )
        with output_errors(self._path):
            self._file.write(row.encode())

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        with self._file:
            if kind is None or issubclass(kind, KeyboardInterrupt):
                write_file(self._path, self._chunks(kind is not None))

    def _chunks(self, is_interrupted: bool) -> Iterator[bytes]:
        page = render(
            "predictions.html",
            ("theme.js", "predictions.js"),
            model=self._model,
            date=self._date,
            settings=plain(self._settings),
            images=self._rows,
            unsure=self._unsure,
            failed=self._failed,
            threshold=UNSURE,
            thumbnails=MAX_THUMBNAILS,
            is_interrupted=is_interrupted,
            rows=Markup(ROWS),
        )
        head, _, foot = page.partition(ROWS)
        yield head.encode()
        self._file.seek(0)
        while chunk := self._file.read(CHUNK):
            yield chunk
        yield foot.encode()
