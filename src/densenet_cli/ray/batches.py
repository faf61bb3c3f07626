"""Classes for ``ray.data.Dataset.map_batches``: predictions and embeddings of batches of images.

The guide ``docs/guides/ray.md`` shows how to use them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from densenet_cli.errors import UnreadableImageError, UsageError
from densenet_cli.images.sources import Source
from densenet_cli.ray.records import Record, embedding_schema, prediction_schema, to_table
from densenet_cli.ray.shared import SharedCheckpoint
from densenet_cli.text import join_names

if TYPE_CHECKING:
    import pyarrow

    from densenet_cli.classifier import Classifier
    from densenet_cli.predictor import Decisions

COLUMNS = ("bytes", "image", "path", "item")
"""Names of the columns that contain images, in order of preference. Ray's readers use them."""

NAME_COLUMNS = ("path", "source", "name", "id")
"""Names of the columns that name the images."""


class _ImageBatches:
    """Loads a classifier once, and applies it to batches of images."""

    def __init__(self, column: str | None, name_column: str | None, options: dict[str, Any]) -> None:
        from densenet_cli.classifier import Classifier

        self._column, self._name_column = column, name_column
        weights = options.get("weights")
        if options.get("threads") is None:
            options = {**options, "threads": assigned_threads()}
        if isinstance(weights, SharedCheckpoint):
            options = {**options, "weights": weights.write()}
        self._classifier: Classifier = Classifier(**{"processes": 1, **options})
        if isinstance(weights, SharedCheckpoint):
            self._classifier.model = weights.name

    def _sources(self, batch: Any) -> tuple[list[Source], dict[str, Any]]:
        """Return the images in a batch, and its other columns."""
        columns = _to_columns(batch)
        column = self._column or next((name for name in COLUMNS if name in columns), None)
        if column is None or column not in columns:
            wanted = self._column or join_names(COLUMNS)
            raise UsageError(f"The batch has no column {wanted}, only {join_names(list(columns))}. Set `column`.")
        name_column = self._name_column or next((name for name in NAME_COLUMNS if name in columns), None)
        if name_column is not None and name_column not in columns:
            known = join_names(list(columns))
            raise UsageError(f"The batch has no column {name_column}, only {known}. Set `name_column`.")
        names = columns[name_column] if name_column else [None] * len(columns[column])
        images = [self._to_source(image, name) for image, name in zip(columns[column], names, strict=True)]
        return images, {name: values for name, values in columns.items() if name not in (column, name_column)}

    def _to_source(self, image: Any, name: Any) -> Source:
        """Return the source for a value of the column of images."""
        try:
            image = bytes(image) if isinstance(image, bytes | bytearray | memoryview) else image
            source = self._classifier.to_source(image)
        except UsageError as error:
            source = Source(f"<{type(image).__name__}>", None, "nothing", UnreadableImageError(str(error)))
        return source if name is None else Source(str(name), source.origin, source.kind, source.error, source.page)

    def _add(self, others: Mapping[str, Any], records: Iterator[Record], schema: pyarrow.Schema) -> pyarrow.Table:
        """Return the records as a table, with the other columns of the batch behind them."""
        table = to_table(records, schema)
        for name, values in others.items():
            if name not in table.column_names:
                table = table.append_column(name, [_to_arrow(values)])
        return table


class Predictor(_ImageBatches):
    """Classifies batches of images. Several threads work in each process; see ``threads``.

    A batch has a column of images: the bytes of image files, paths or URLs that the node can read, or uint8 arrays of
    shape (height, width, 3). The result is a table with the columns of the part files of ``densenet predict --ray``,
    and the other columns of the batch. An image that fails is a row with an ``error``.

    Args:
        variant: See ``Classifier``.
        column: The column with the images. Defaults to the first of ``bytes``, ``image``, ``path``, and ``item``.
        name_column: The column that becomes ``source``. Defaults to ``path``, ``source``, ``name``, or ``id``.
        top_k: See ``Classifier.predict``, like the next arguments.
        min_prob: Likewise.
        coverage: Likewise.
        max_error: Likewise.
        set_method: Likewise.
        by_class: Likewise.
        **options: Arguments of ``Classifier``. ``weights`` can also be what ``share_weights`` returns, for a checkpoint
            that other nodes do not have. ``threads`` defaults to the CPUs that Ray assigns to the process.
    """

    def __init__(
        self,
        variant: str | None = None,
        *,
        column: str | None = None,
        name_column: str | None = None,
        top_k: int | None = None,
        min_prob: float | None = None,
        coverage: float | None = None,
        max_error: float | None = None,
        set_method: str | None = None,
        by_class: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(column, name_column, {"variant": variant, **options})
        decisions: Decisions = {
            "coverage": coverage,
            "max_error": max_error,
            "set_method": set_method,
            "by_class": by_class,
        }
        self._predictor = self._classifier.predictor(top_k, min_prob, **decisions)
        self._schema = prediction_schema()

    def __call__(self, batch: Any) -> pyarrow.Table:
        """Return the predictions for a batch: a mapping of columns, an Arrow table, or a DataFrame.

        Raises:
            UsageError: The batch lacks a column.
        """
        images, others = self._sources(batch)
        return self._add(others, map(self._predictor, self._classifier.stream(images)), self._schema)


class Embedder(_ImageBatches):
    """Computes the feature vectors of batches of images. See ``Predictor`` for batches and arguments.

    The column ``vector`` of the result contains lists of a fixed size, or null with an ``error``.
    """

    def __init__(
        self, variant: str | None = None, *, column: str | None = None, name_column: str | None = None, **options: Any
    ) -> None:
        from densenet_cli.layers import embedding_size

        super().__init__(column, name_column, {"variant": variant, **options})
        self._schema = embedding_schema(embedding_size(self._classifier.config))

    def __call__(self, batch: Any) -> pyarrow.Table:
        """Return the embeddings of a batch. Raises ``UsageError`` if it lacks a column."""
        images, others = self._sources(batch)
        results = self._classifier.stream(images, ("features",))
        return self._add(others, map(self._classifier.embedding, results), self._schema)


def assigned_threads() -> int | None:
    """Return the number of cores that Ray has assigned to this process, rounded up; None outside of Ray."""
    import ray

    if not ray.is_initialized():
        return None
    cpus: float = ray.get_runtime_context().get_assigned_resources().get("CPU", 0)
    return max(1, math.ceil(cpus))


def _to_columns(batch: Any) -> dict[str, Any]:
    """Return the columns of a batch in any format of Ray Data."""
    if isinstance(batch, Mapping):
        return dict(batch)
    if hasattr(batch, "column_names"):  # an Arrow table
        return {name: batch.column(name).to_pylist() for name in batch.column_names}
    return {str(name): batch[name].to_list() for name in batch.columns}


def _to_arrow(values: Any) -> Any:
    import pyarrow

    if getattr(values, "ndim", 1) > 1:
        from ray.data.extensions import ArrowTensorArray

        return ArrowTensorArray.from_numpy(values)
    return pyarrow.array(values)
