"""Class activation maps: how much each place of an image spoke for a class.

The head of a DenseNet is a global average and one dense layer. Both are linear, so they may change places: a map of
the class's evidence, averaged, is the class's logit. Nothing is approximated.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from densenet_cli.errors import ImageError, UsageError
from densenet_cli.images.orientation import METHODS
from densenet_cli.images.preprocessing import Preprocessing, window
from densenet_cli.images.previews import DisplayImage
from densenet_cli.labels import ClassResolver
from densenet_cli.results import Failure, Score, json_line, source_fields, unicode

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

    from densenet_cli.images.sources import Source
    from densenet_cli.labels import Labels

    FloatArray = np.ndarray[Any, np.dtype[np.float32]]
    Box = tuple[int, int, int, int]
    Chooser = Callable[[list[int]], list[int]]

POINTS = 9
"""Points across a cell of a map at which it is looked at. Odd, so that one of them is the cell's middle."""
MOST_POINTS = 400
"""Of them in all, across a map of very many cells."""


@dataclass(frozen=True)
class ClassMap:
    """One class's map of one image.

    Attributes:
        score: the class, with its probability and its rank among all classes.
        values: the evidence, float32 (rows, columns), turned as the upright image is. ``values.mean() + bias`` is
            the logit.
        bias: the class's bias in the dense layer.
        levels: the map, bicubic between its cells' middles, from its least to its greatest in the image; float32
            (points down, points across) in [0, 1], over ``Explanation.seen``.
        peak: x and y of the middle of the greatest cell (of what lies in the image of it), in the original's pixels.
        box: left, top, right and bottom of what is above the middle level and hangs together with the peak, in the
            original's pixels; right and bottom are the first ones outside.
    """

    score: Score
    values: FloatArray
    bias: float
    levels: FloatArray
    peak: tuple[int, int]
    box: Box

    @property
    def logit(self) -> float:
        """The class's logit."""
        return float(self.values.mean(dtype="float64")) + self.bias

    def to_dict(self) -> dict[str, Any]:
        """As JSON's types."""
        return {
            **self.score.to_dict(),
            "peak": dict(zip("xy", self.peak, strict=True)),
            "box": dict(zip(("left", "top", "right", "bottom"), self.box, strict=True)),
        }


@dataclass(frozen=True)
class Explanation:
    """One image's maps, or the reason why there are none.

    Attributes:
        source: the image's name.
        model: the model's name.
        size: width and height of the original, upright; (0, 0) with an error.
        seen: left, top, right and bottom of what the network saw of it, in its pixels.
        image: the original, upright, reduced to at most 800 pixels a side.
        maps: one a class.
        error: None, unless the image could not be classified.
        drawing: the file that the drawing was written to, None where it was not.
    """

    source: str
    model: str
    size: tuple[int, int] = (0, 0)
    seen: tuple[float, float, float, float] = (0, 0, 0, 0)
    image: Image | None = None
    maps: tuple[ClassMap, ...] = ()
    error: Failure | None = None
    drawing: Path | None = None

    def draw(self) -> Image:
        """The original, and beside it each map laid on it. Raises ``ValueError`` where there is an error instead."""
        from densenet_cli.explain.drawing import sheet

        return sheet(self)

    def to_dict(self) -> dict[str, Any]:
        """The record as JSON's types."""
        record = {**source_fields(self.source), "model": unicode(self.model)}
        if self.error is not None:
            record["error"] = self.error.to_dict()
        else:
            record["width"], record["height"] = self.size
            record["maps"] = [map_.to_dict() for map_ in self.maps]
            if self.drawing is not None:
                record["drawing"] = unicode(str(self.drawing))
        return record

    def to_json(self) -> str:
        """One line of JSON, as ``results.Prediction.to_json``."""
        return json_line(self.to_dict())


class Explainer:
    """Makes explanations out of an engine's outputs.

    Args:
        model: the model's name.
        labels: a label for each position of the head.
        preprocessing: how the images are prepared; raises ``UsageError`` for ``ten_crop``.
        head: the engine's method.
    """

    def __init__(
        self,
        model: str,
        labels: Labels,
        preprocessing: Preprocessing,
        head: Callable[[], tuple[FloatArray, FloatArray]],
    ) -> None:
        if preprocessing.ten_crop:
            raise UsageError("A map lies on one square of an image, and ten crops are ten: leave --ten-crop out.")
        self._model = model
        self._labels = labels
        self._preprocessing = preprocessing
        self._head = cache(head)

    def chooser(self, top_k: int, classes: Sequence[int | str] | None) -> Chooser:
        """Which positions of the head to explain, told from all, the most probable first.

        Raises ``UsageError`` for a class that the model doesn't know.
        """
        if classes is None:
            return lambda order: order[:top_k]
        resolver = ClassResolver(self._labels)
        positions = list(dict.fromkeys(resolver.resolve(str(name)) for name in classes))
        return lambda order: positions

    @staticmethod
    def remember(sources: Iterable[Source]) -> Iterator[Source]:
        """The sources, each with a place for its original."""
        return (replace(source, thumbnail=DisplayImage()) for source in sources)

    def explain(
        self, source: Source, outputs: tuple[FloatArray, ...] | ImageError, choose: Chooser
    ) -> Explanation | ImageError:
        """One image's maps; an error stays what it is.

        Args:
            source: one of ``remember``, decoded.
            outputs: probabilities (classes,) and features (rows, columns, channels).
            choose: what ``chooser`` gave.
        """
        if isinstance(outputs, ImageError):
            return outputs
        probabilities, features = outputs
        kernel, bias = self._head()
        original = source.thumbnail
        assert isinstance(original, DisplayImage)
        order = [int(position) for position in (-probabilities).argsort(kind="stable")]
        # The window is the upright image's. With ``keras`` alone the pixels were not, and there it is all of them.
        placing = _Placing(original.size, window(original.size, self._preprocessing), original.orientation)
        maps = []
        for position in choose(order):
            score = Score.of(self._labels[position], order.index(position) + 1, probabilities[position])
            values = placing.upright(features @ kernel[:, position])
            levels = placing.levels(values)
            maps.append(ClassMap(score, values, float(bias[position]), levels, *placing.find(values, levels)))
        return Explanation(source.name, self._model, original.size, placing.seen, original.image, tuple(maps))


class _Placing:
    """Where a map lies on the upright original.

    Args:
        size: the original's width and height.
        window: where in it the network's square lies; it may reach beyond it.
        orientation: what is to be undone to a map, 1 to 8.
    """

    def __init__(self, size: tuple[int, int], window: tuple[float, ...], orientation: int) -> None:
        self._size = size
        self._window = window
        self._orientation = orientation
        left, top, right, bottom = window
        self.seen = (max(left, 0.0), max(top, 0.0), min(right, float(size[0])), min(bottom, float(size[1])))

    def upright(self, values: FloatArray) -> FloatArray:
        """A map turned as the original is."""
        import numpy as np
        from PIL import Image

        if self._orientation == 1:
            return values
        turned = Image.fromarray(values).transpose(Image.Transpose[METHODS[self._orientation]])
        return np.asarray(turned)

    def levels(self, values: FloatArray) -> FloatArray:
        """See ``ClassMap.levels``."""
        import numpy as np

        fine = self._sampled(values, "BICUBIC")
        least, greatest = fine.min(), fine.max()
        # Of a map that says the same everywhere, all is its upper half.
        return (fine - least) / (greatest - least) if greatest > least else np.ones_like(fine)

    def _sampled(self, values: FloatArray, between: str) -> FloatArray:
        """The part of a map that lies on the original, at points close to one another."""
        import numpy as np
        from PIL import Image

        cells = Image.fromarray(values)
        left, top, right, bottom = self._window
        across, down = cells.width / (right - left), cells.height / (bottom - top)
        part = (
            max((self.seen[0] - left) * across, 0.0),
            max((self.seen[1] - top) * down, 0.0),
            min((self.seen[2] - left) * across, float(cells.width)),
            min((self.seen[3] - top) * down, float(cells.height)),
        )
        points = _points(part[2] - part[0]), _points(part[3] - part[1])
        fine: FloatArray = np.asarray(cells.resize(points, Image.Resampling[between], part))
        return fine

    def find(self, values: FloatArray, levels: FloatArray) -> tuple[tuple[int, int], Box]:
        """Peak and box of the upper half, in the original's pixels."""
        import numpy as np

        rows, columns = levels.shape
        blocks = self._sampled(values, "NEAREST")
        greatest = _around(blocks == blocks.max(), *divmod(int(blocks.argmax()), columns))
        row, column = (round(float(places.mean())) for places in greatest.nonzero())
        upper = levels >= 0.5
        upper[row, column] = True
        region = _around(upper, row, column)
        down, across = np.flatnonzero(region.any(axis=1)), np.flatnonzero(region.any(axis=0))
        left, top, right, bottom = self.seen
        wide, high = (right - left) / columns, (bottom - top) / rows
        peak = int(left + (column + 0.5) * wide), int(top + (row + 0.5) * high)
        box = (
            math.floor(left + across[0] * wide),
            math.floor(top + down[0] * high),
            min(math.ceil(left + (across[-1] + 1) * wide), self._size[0]),
            min(math.ceil(top + (down[-1] + 1) * high), self._size[1]),
        )
        return peak, box


def _points(cells: float) -> int:
    """How many points a stretch of so many cells is looked at."""
    if cells * POINTS <= MOST_POINTS:
        return max(1, round(cells * POINTS))
    return max(1, round(cells))


def _around(mask: np.ndarray[Any, np.dtype[np.bool_]], row: int, column: int) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """The part of ``mask`` that hangs together with one of its points, by their sides."""
    import numpy as np

    region = np.zeros_like(mask)
    region[row, column] = True
    size = 0
    while (now := int(region.sum())) > size:
        size = now
        grown = region.copy()
        grown[1:] |= region[:-1]
        grown[:-1] |= region[1:]
        grown[:, 1:] |= region[:, :-1]
        grown[:, :-1] |= region[:, 1:]
        region = grown & mask
    return region
