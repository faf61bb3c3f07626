"""The exported file beside the model, on real photographs: what differs is no export."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from densenet_cli.errors import ImageError, OutputError
from densenet_cli.images import decoding, sources
from densenet_cli.images.preprocessing import normalize

if TYPE_CHECKING:
    import numpy as np

    from densenet_cli.classifier import Classifier
    from densenet_cli.export.formats import FloatArray, Run

    Pixels = np.ndarray[Any, np.dtype[np.uint8]]

TOLERANCE = 1e-4
"""The largest difference of a probability that is let pass."""

IMAGES = Path(__file__).parents[1] / "data" / "images"
"""Photographs that ship inside the package (``data/README.md``)."""


def images() -> list[Path]:
    """The photographs to compare on."""
    return sorted(IMAGES.glob("*.jpg"))


def answers(classifier: Classifier, paths: Sequence[Path]) -> tuple[Pixels, FloatArray]:
    """What the model sees of each image, uint8 (n, size, size, 3), and its probabilities, (n, classes)."""
    import numpy as np

    pixels = [decoding.load(sources.from_object(path), classifier.preprocessing)[0] for path in paths]
    probabilities: list[FloatArray] = []
    for _, output in classifier.probabilities(paths):
        if isinstance(output, ImageError):
            raise output
        probabilities.append(output)
    return np.stack(pixels), np.stack(probabilities)


def largest_difference(run: Run, pixels: Pixels, expected: FloatArray, *, normalized: bool) -> float:
    """The largest absolute difference of a probability, over the images one by one and all at once.

    Args:
        run: the exported file.
        pixels: what ``answers`` gave.
        expected: and the model's probabilities.
        normalized: whether the file takes normalized pixels.

    Raises ``OutputError`` where it is above ``TOLERANCE``, no number, or the answer has another shape.
    """
    import numpy as np

    batch = normalize(pixels) if normalized else pixels
    largest = 0.0
    for part in (*(slice(n, n + 1) for n in range(len(batch))), slice(None)):
        found = run(batch[part])
        if found.shape != expected[part].shape:
            raise OutputError(
                f"The exported file gave an answer of shape {found.shape} instead of {expected[part].shape}, "
                "so it was not kept."
            )
        # max passes a NaN on, which no comparison holds for.
        largest = max(largest, float(np.nan_to_num(np.abs(found - expected[part]).max(), nan=np.inf)))
    if not largest <= TOLERANCE:
        raise OutputError(
            f"The exported file's probabilities differ from the model's by up to {largest:.1e} "
            f"({TOLERANCE:.0e} is allowed), so it was not kept; please report it."
        )
    return largest
