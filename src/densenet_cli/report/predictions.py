"""The page of predictions: every image with its labels, or with its error.

Rows are rendered as they arrive into an unnamed temporary file, because the top of the page states their number. Memory
use does not grow with the number of images, and a run that is killed leaves nothing behind.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any, Self

from markupsafe import Markup

from densenet_cli.images.previews import Thumbnail
from densenet_cli.output.atomic import output_errors, write_file
from densenet_cli.report.page import current_time, environment, format_settings, render

if TYPE_CHECKING:
    from densenet_cli.images.previews import Preview
    from densenet_cli.results import Prediction

MAX_THUMBNAILS = 2000
"""Images after these have no thumbnail, which limits the size of the page."""
DEFAULT_THRESHOLD = 0.5
"""Initial setting of the page's slider."""
BLOCK_SIZE = 30
"""Images per list element; ``style.css`` and ``predictions.js`` use the same number."""
ROWS_MARKER = "\0"
"""Placeholder for the rows in the rendered page. Other text cannot contain it, because templates escape it."""
CHUNK_SIZE = 1 << 20


class PredictionReport:
    """Context manager that writes the page on exit.

    If the block ends with ``KeyboardInterrupt``, the page shows the images that were finished and states the
    interruption. If it ends with another exception, no page is written.

    Args:
        path: The file, already checked with ``page.check_page``.
        model: The name of the model.
        settings: Settings of the run to show (JSON types).
        is_multi_label: Whether the model is one. The page then has a filter for any label of an image.
        has_sets: Whether predictions have a set of labels. The page then has a filter for its size.
        has_decisions: Whether predictions are marked as unsure. The page then has a filter for it.
        threshold: Initial setting of the slider, rounded down to percent. Images whose top probability is lower count
            as uncertain. For a multi-label model, lower labels are dimmed, and images without others count as having no
            label.

    Raises:
        UsageError: ``SOURCE_DATE_EPOCH`` is not a number.
        OutputError: The file cannot be written (on entry, on exit, or in ``add``).
    """

    def __init__(
        self,
        path: Path,
        model: str,
        settings: Mapping[str, Any],
        *,
        is_multi_label: bool = False,
        has_sets: bool = False,
        has_decisions: bool = False,
        threshold: float = DEFAULT_THRESHOLD,
    ) -> None:
        self._path, self._model, self._settings = path, model, settings
        self._is_multi_label = is_multi_label
        self._filters = {"has_sets": has_sets, "has_decisions": has_decisions}
        self._threshold = math.floor(round(threshold * 100, 6)) / 100
        self._date = current_time()
        self._template = environment().get_template("image.html")
        self._images = self._uncertain = self._failed = 0

    def __enter__(self) -> Self:
        with output_errors(self._path):
            self._file = TemporaryFile(dir=Path(os.path.realpath(self._path)).parent)
        return self

    def add(self, prediction: Prediction, preview: Preview | None = None) -> None:
        """Add the row of one image. ``preview`` is shown if it is a ``Thumbnail``."""
        self._images += 1
        probability = prediction.scores[0].probability if prediction.scores else 0.0
        is_uncertain = prediction.error is None and probability < self._threshold
        self._failed += prediction.error is not None
        self._uncertain += is_uncertain
        folder, _, name = prediction.source.rpartition("/")
        row = self._template.render(
            number=self._images,
            block_size=BLOCK_SIZE,
            folder=f"{folder}/" if name and folder else "",
            name=name if name and folder else prediction.source,
            prediction=prediction,
            scores=sorted({*prediction.scores, *(prediction.set or ())}, key=lambda score: score.rank),
            probability=probability,
            is_uncertain=is_uncertain,
            is_multi_label=self._is_multi_label,
            threshold=self._threshold,
            thumbnail=preview.jpeg if isinstance(preview, Thumbnail) else None,
        )
        with output_errors(self._path):
            self._file.write(row.encode())

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._file:
            if kind is None or issubclass(kind, KeyboardInterrupt):
                write_file(self._path, self._render(is_interrupted=kind is not None))

    def _render(self, is_interrupted: bool) -> Iterator[bytes]:
        page = render(
            "predictions.html",
            ("theme.js", "predictions.js"),
            model=self._model,
            date=self._date,
            settings=format_settings(self._settings),
            images=self._images,
            uncertain=self._uncertain,
            failed=self._failed,
            is_multi_label=self._is_multi_label,
            **self._filters,
            threshold=self._threshold,
            max_thumbnails=MAX_THUMBNAILS,
            is_interrupted=is_interrupted,
            rows=Markup(ROWS_MARKER),
        )
        head, _, foot = page.partition(ROWS_MARKER)
        yield head.encode()
        self._file.seek(0)
        while chunk := self._file.read(CHUNK_SIZE):
            yield chunk
        yield foot.encode()
