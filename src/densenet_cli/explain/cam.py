"""Class activation maps: how strongly each location of an image supports a class.

``gradients`` computes the evidence in each cell of the feature maps. This module projects it to the image.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from densenet_cli.errors import UsageError
from densenet_cli.explain.drawing import HeatMap, Panel, draw_panels
from densenet_cli.explain.gradients import evidence_maps
from densenet_cli.images.conversion import TRANSPOSE_METHODS
from densenet_cli.images.preprocessing import Preprocessing, visible_box
from densenet_cli.images.previews import DisplayImage
from densenet_cli.labels import ClassResolver
from densenet_cli.results import Failure, Score
from densenet_cli.text import json_line, source_fields, to_unicode

if TYPE_CHECKING:
    from densenet_cli._types import BoolArray, Box, FloatArray, Size
    from densenet_cli.labels import Labels
    from densenet_cli.pipeline import Result
    from densenet_cli.topology import DenseNetConfig
    from densenet_cli.weights.contents import Arrays

    PixelBox = tuple[int, int, int, int]

SAMPLES_PER_CELL = 9
"""Points per side at which each cell of a map is interpolated. Odd, so that one of them is the center of the cell."""
MAX_SAMPLES = 400
"""Limit of the points per side of a map. A map with too many cells is sampled once per cell."""


@dataclass(frozen=True)
class ClassMap:
    """The class activation map of one class.

    Attributes:
        score: The class with its probability and its rank among all classes.
        values: The evidence for the class in each cell, float32 (rows, columns), oriented as the upright image. With
            the method ``cam``, their mean plus the bias of the class is the logit.
        logit: The logit of the class.
        heat_map: ``values`` within the image, interpolated (bicubic) and scaled to [0, 1].
        peak: x and y of the center of the highest cell (of the part of it inside the image), in pixels of the
            original image.
        box: Left, top, right, and bottom of the bounding box of the connected region around the peak in which the
            heat map is at least 0.5, in pixels of the original image; right and bottom are exclusive.
    """

    score: Score
    values: FloatArray
    logit: float
    heat_map: HeatMap
    peak: tuple[int, int]
    box: PixelBox

    def to_dict(self) -> dict[str, Any]:
        """Return the map's record as JSON types, without the arrays."""
        return {
            **self.score.to_dict(),
            "peak": dict(zip("xy", self.peak, strict=True)),
            "box": dict(zip(("left", "top", "right", "bottom"), self.box, strict=True)),
        }


@dataclass(frozen=True)
class Explanation:
    """The class activation maps of one image, or the error that prevented them.

    Attributes:
        source: The name of the image.
        model: The name of the model.
        size: Width and height of the original, upright image; (0, 0) with an error.
        image: The original image, upright, at most 800 pixels per side; None with an error.
        maps: One per class.
        method: ``cam`` for exact class activation maps, ``grad-cam`` for heads for which there are none.
        error: Why the image could not be classified, or None.
        drawing: The file that the drawing was written to (a path, or a URL of object storage), or None.
        notes: What there is to say about the image; see ``images.decoding.NOTES``.
    """

    source: str
    model: str
    size: Size = (0, 0)
    image: Image.Image | None = None
    maps: tuple[ClassMap, ...] = ()
    method: str = "cam"
    error: Failure | None = None
    drawing: Path | str | None = None
    notes: tuple[str, ...] = ()

    def draw(self) -> Image.Image:
        """Draw the original image next to one overlay per map.

        Raises:
            ValueError: The image could not be classified.
        """
        if self.image is None:
            reason = self.error.message if self.error else "Its image was not kept."
            raise ValueError(f"Cannot draw an explanation of {self.source}. {reason}")
        name = self.source.replace("\\", "/").rstrip("/").rpartition("/")[2] or self.source
        width, height = self.size
        panels = [Panel(name, f"{width:,} x {height:,} pixels")]
        for map_ in self.maps:
            score = map_.score
            panels.append(Panel(score.label, f"{score.probability:.1%}, rank {score.rank:,}", map_.heat_map))
        return draw_panels(self.image, panels)

    def to_dict(self) -> dict[str, Any]:
        """Return the record as JSON types."""
        record = {**source_fields(self.source), "model": to_unicode(self.model)}
        if self.error is not None:
            record["error"] = self.error.to_dict()
        else:
            record["width"], record["height"] = self.size
            record["method"] = self.method
            record["maps"] = [map_.to_dict() for map_ in self.maps]
            if self.drawing is not None:
                record["drawing"] = to_unicode(str(self.drawing))
        return {**record, **dict.fromkeys(self.notes, True)}

    def to_json(self) -> str:
        """Return the record as one line of JSON."""
        return json_line(self.to_dict())


class Explainer:
    """Converts results of a classifier's stream to explanations.

    Args:
        model: The name of the model.
        labels: One label per position of the head.
        preprocessing: How images are fitted to the input.
        config: The configuration of the network.
        head: Returns the arrays of the head's layers.
        top_k: Number of most probable classes to explain.
        classes: Labels, WordNet IDs, or indices of the classes to explain instead.

    Raises:
        UsageError: Ten crops, or an unknown class.

    Attributes:
        outputs: The engine outputs that a result must have.
        preview: The kind of preview that a result must have.
    """

    outputs = ("probabilities", "features")
    preview = DisplayImage

    def __init__(
        self,
        model: str,
        labels: Labels,
        preprocessing: Preprocessing,
        config: DenseNetConfig,
        head: Callable[[], Arrays],
        top_k: int = 1,
        classes: Sequence[int | str] | None = None,
    ) -> None:
        if preprocessing.ten_crop:
            raise UsageError("Class activation maps need a single crop of the image. Leave out `ten_crop`.")
        self._model = model
        self._labels = labels
        self._preprocessing = preprocessing
        self._config = config
        self._head = cache(head)
        self._top_k = top_k
        self._positions: list[int] | None = None
        if classes is not None:
            resolver = ClassResolver(labels)
            self._positions = list(dict.fromkeys(map(resolver.resolve, classes)))

    def __call__(self, result: Result[Any]) -> Explanation:
        """Explain one result."""
        name = result.source.name
        if result.error:
            return Explanation(name, self._model, error=Failure.of(result.error))
        probabilities, features = result.outputs["probabilities"], result.outputs["features"]
        original = result.preview
        assert isinstance(original, DisplayImage)
        evidence = evidence_maps(self._config, self._head(), features)
        order = [int(position) for position in (-probabilities).argsort(kind="stable")]
        # In mode ``keras`` the input keeps the orientation of the file; its window is the whole image, upright or not.
        projection = _Projection(original.size, visible_box(original.size, self._preprocessing), original.orientation)
        maps = []
        for position in order[: self._top_k] if self._positions is None else self._positions:
            score = Score.of(self._labels[position], order.index(position) + 1, probabilities[position])
            cells, logit = evidence(position)
            values = projection.to_upright(cells)
            heat_map = projection.heat_map(values)
            maps.append(ClassMap(score, values, logit, heat_map, *projection.locate(values, heat_map)))
        method = "cam" if self._config.has_linear_head else "grad-cam"
        return Explanation(name, self._model, original.size, original.image, tuple(maps), method, notes=result.notes)


class _Projection:
    """Maps the cells of a class activation map to pixels of the original image.

    Args:
        image_size: Width and height of the upright original image.
        window: The region of it that the network's input covers; it may extend beyond the image.
        orientation: The EXIF orientation that the network's input still has, 1 to 8.
    """

    def __init__(self, image_size: Size, window: Box, orientation: int) -> None:
        self._image_size = image_size
        self._window = window
        self._orientation = orientation
        left, top, right, bottom = window
        width, height = image_size
        self._region = max(left, 0.0), max(top, 0.0), min(right, float(width)), min(bottom, float(height))

    def to_upright(self, values: FloatArray) -> FloatArray:
        """Rotate a map to the orientation of the upright image."""
        if self._orientation == 1:
            return values
        return np.asarray(Image.fromarray(values).transpose(Image.Transpose[TRANSPOSE_METHODS[self._orientation]]))

    def heat_map(self, values: FloatArray) -> HeatMap:
        """Interpolate an upright map within the image and scale it to [0, 1]. A map of zeros stays zero."""
        samples = self._resample(values, "BICUBIC")
        low, high = samples.min(), samples.max()
        levels = (samples - low) / (high - low) if high > low else np.full_like(samples, high != 0)
        return HeatMap(levels, self._region, self._image_size)

    def _resample(self, values: FloatArray, method: str) -> FloatArray:
        """Sample the part of a map inside the image at ``SAMPLES_PER_CELL``."""
        cells = Image.fromarray(values)
        left, top, right, bottom = self._window
        columns_per_pixel, rows_per_pixel = cells.width / (right - left), cells.height / (bottom - top)
        part = (
            max((self._region[0] - left) * columns_per_pixel, 0.0),
            max((self._region[1] - top) * rows_per_pixel, 0.0),
            min((self._region[2] - left) * columns_per_pixel, float(cells.width)),
            min((self._region[3] - top) * rows_per_pixel, float(cells.height)),
        )
        size = _sample_count(part[2] - part[0]), _sample_count(part[3] - part[1])
        samples: FloatArray = np.asarray(cells.resize(size, Image.Resampling[method], part))
        return samples

    def locate(self, values: FloatArray, heat_map: HeatMap) -> tuple[tuple[int, int], PixelBox]:
        """Return ``ClassMap.peak`` and ``ClassMap.box`` of an upright map."""
        rows, columns = heat_map.values.shape
        cells = self._resample(values, "NEAREST")
        peak_cell = _connected_region(cells == cells.max(), *divmod(int(cells.argmax()), columns))
        row, column = (round(float(indices.mean())) for indices in peak_cell.nonzero())
        mask = heat_map.values >= heat_map.values.max() / 2
        mask[row, column] = True
        region = _connected_region(mask, row, column)
        region_rows, region_columns = np.flatnonzero(region.any(axis=1)), np.flatnonzero(region.any(axis=0))
        left, top, right, bottom = self._region
        x_step, y_step = (right - left) / columns, (bottom - top) / rows
        peak = int(left + (column + 0.5) * x_step), int(top + (row + 0.5) * y_step)
        box = (
            math.floor(left + region_columns[0] * x_step),
            math.floor(top + region_rows[0] * y_step),
            min(math.ceil(left + (region_columns[-1] + 1) * x_step), self._image_size[0]),
            min(math.ceil(top + (region_rows[-1] + 1) * y_step), self._image_size[1]),
        )
        return peak, box


def _sample_count(cells: float) -> int:
    """Return the number of points at which to sample a length of ``cells`` cells."""
    samples = cells * SAMPLES_PER_CELL
    return max(1, round(samples if samples <= MAX_SAMPLES else cells))


def _connected_region(mask: BoolArray, row: int, column: int) -> BoolArray:
    """Return the part of ``mask`` that is connected (4-neighborhood) to the given point of it."""
    region = np.zeros_like(mask)
    region[row, column] = True
    size = 0
    while (new_size := int(region.sum())) > size:
        size = new_size
        grown = region.copy()
        grown[1:] |= region[:-1]
        grown[:-1] |= region[1:]
        grown[:, 1:] |= region[:, :-1]
        grown[:, :-1] |= region[:, 1:]
        region = grown & mask
    return region
