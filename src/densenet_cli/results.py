"""Results of one image: ``Prediction`` and ``Embedding``, and the JSON and CSV forms of predictions.

Both forms are documented in ``docs/reference/output.md``. ``densenet_cli.text`` escapes names and formats numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from densenet_cli.errors import UsageError
from densenet_cli.text import csv_line, escape_name, json_line, shortest_float, source_fields, to_unicode

if TYPE_CHECKING:
    from densenet_cli._types import FloatArray
    from densenet_cli.errors import ImageError
    from densenet_cli.labels import ClassLabel, Labels
    from densenet_cli.pipeline import Result

TOP_K = 5
"""Classes per image by default, of a model whose classes are mutually exclusive."""
MIN_PROB = 0.5
"""The probability from which an image has a class by default, of a multi-label model."""


@dataclass(frozen=True, slots=True)
class Score:
    """A class and its probability.

    Attributes:
        rank: 1 for the most probable class.
        index: Number of the class in the model's label table, or its position in the output if there is none.
        id: WordNet ID or similar, None if the table has none.
        label: Name of the class.
        probability: In [0, 1], the value of a float32.
    """

    rank: int
    index: int
    id: str | None
    label: str
    probability: float

    @classmethod
    def of(cls, label: ClassLabel, rank: int, probability: float) -> Score:
        """Return the score of a class in a model's label table."""
        return cls(rank, label.index, label.id, label.name, float(probability))

    def to_dict(self) -> dict[str, Any]:
        """Return the score as JSON types. A probability that is not finite is None."""
        return {
            "rank": self.rank,
            "index": self.index,
            "id": None if self.id is None else to_unicode(self.id),
            "label": to_unicode(self.label),
            "probability": shortest_float(self.probability),
        }


class Selection(NamedTuple):
    """Which classes a prediction contains: the ``top_k`` most probable ones that reach ``min_prob``.

    Attributes:
        top_k: Maximum number of classes, at least 1.
        min_prob: Minimum probability, in [0, 1].
    """

    top_k: int
    min_prob: float

    @classmethod
    def resolve(cls, classes: int, is_multi_label: bool, top_k: int | None, min_prob: float | None) -> Self:
        """Return the selection with defaults in place of None.

        They are the 5 most probable classes. For a multi-label model, they are all classes with a probability of at
        least 0.5, or the ``top_k`` most probable ones if it is given.

        Raises:
            UsageError: A value is outside its range.
        """
        if top_k is not None and top_k < 1:
            raise UsageError(f"`top_k` must be at least 1, not {top_k}.")
        if min_prob is not None and not 0 <= min_prob <= 1:
            raise UsageError(f"`min_prob` must be between 0 and 1, not {min_prob}.")
        if min_prob is None:
            min_prob = MIN_PROB if is_multi_label and top_k is None else 0.0
        return cls(top_k or (classes if is_multi_label else TOP_K), min_prob)

    def scores(
        self, probabilities: FloatArray, labels: Labels, minima: Sequence[float] | None = None
    ) -> tuple[Score, ...]:
        """Return the scores of the selected classes, most probable first. Ties are broken by position.

        ``minima`` replaces ``min_prob`` by a minimum of each class.
        """
        best = (-probabilities).argsort(kind="stable")[: self.top_k]
        return tuple(
            Score.of(labels[position], rank, probabilities[position])
            for rank, position in enumerate(best, start=1)
            if probabilities[position] >= (self.min_prob if minima is None else minima[position])
        )


@dataclass(frozen=True, slots=True)
class Failure:
    """The error of an image that could not be processed.

    Attributes:
        type: ``ImageError.type``, such as ``UnreadableImage``.
        message: What happened, one sentence.
    """

    type: str
    message: str

    @classmethod
    def of(cls, error: ImageError) -> Failure:
        """Copy an exception without its traceback, which would keep the image in memory."""
        return cls(error.type, str(error))

    def to_dict(self) -> dict[str, str]:
        """Return the error as JSON types."""
        return {"type": self.type, "message": to_unicode(self.message)}


@dataclass(frozen=True, slots=True)
class Prediction:
    """The most probable classes of one image, or the error that prevented its classification.

    Attributes:
        source: Name of the image. Bytes that are not UTF-8 are surrogates, as from ``os.fsdecode``.
        model: Name of the model.
        scores: The most probable class first; empty if no class reaches the minimum probability, or with
            an error.
        error: None unless the image could not be classified.
        notes: What there is to say about the image; see ``images.decoding.NOTES``.
        set: The classes of the set with the requested coverage, the most probable first; None if none was requested.
        unsure: Whether labeling the image could exceed the requested error limit; None without a limit.
    """

    source: str
    model: str
    scores: tuple[Score, ...] = ()
    error: Failure | None = None
    notes: tuple[str, ...] = ()
    set: tuple[Score, ...] | None = None
    unsure: bool | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the record as JSON types. A probability that is not finite is None."""
        record = {**source_fields(self.source), "model": to_unicode(self.model)}
        if self.error is not None:
            record["error"] = self.error.to_dict()
        else:
            record["predictions"] = [score.to_dict() for score in self.scores]
            if self.set is not None:
                record["set"] = [score.to_dict() for score in self.set]
            if self.unsure is not None:
                record["unsure"] = self.unsure
        return {**record, **dict.fromkeys(self.notes, True)}

    def to_json(self) -> str:
        """Return the record as one line of JSON, without a newline."""
        return json_line(self.to_dict())

    def to_rows(self) -> list[tuple[str, ...]]:
        """Return the CSV rows of the record: one per class, or a single one if there is an error or no class."""
        first = (escape_name(self.source), to_unicode(self.model))
        if self.error is not None:
            return [(*first, "", "", "", "", "", f"{self.error.type}: {to_unicode(self.error.message)}", "", "", "")]
        names = "|".join(to_unicode(score.label) for score in self.set or ())
        last = (" ".join(self.notes), names, "" if self.unsure is None else str(self.unsure).lower())
        if not self.scores:
            return [(*first, "", "", "", "", "", "", *last)]
        return [
            (
                *first,
                str(score.rank),
                str(score.index),
                to_unicode(score.id or ""),
                to_unicode(score.label),
                "" if (probability := shortest_float(score.probability)) is None else repr(probability),
                "",
                *last,
            )
            for score in self.scores
        ]

    def to_csv(self) -> str:
        """Return the record as CSV that ends with a newline."""
        return "".join(map(csv_line, self.to_rows()))


@dataclass(frozen=True, slots=True)
class Embedding:
    """The feature vector of one image, or the error that prevented it.

    Attributes:
        source: Name of the image.
        model: Name of the model.
        vector: Average of the last feature maps, float32 of shape (channels,); None with an error.
        error: None unless the image could not be processed.
        notes: What there is to say about the image; see ``images.decoding.NOTES``.
    """

    source: str
    model: str
    vector: FloatArray | None = None
    error: Failure | None = None
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, result: Result[Any], model: str, pooling: str) -> Self:
        """Convert a result with ``features``. With ``pooling`` "max", the vector is the maximum of the feature maps."""
        if result.error:
            return cls(result.source.name, model, error=Failure.of(result.error))
        features = result.outputs["features"]
        vector = features.max(axis=(0, 1)) if pooling == "max" else features.mean(axis=(0, 1))
        return cls(result.source.name, model, vector, notes=result.notes)
