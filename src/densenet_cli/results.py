"""Results of one image: ``Prediction`` and ``Embedding``, and the JSON and CSV forms of predictions.

Both forms are documented in ``docs/reference/output.md``. ``densenet_cli.text`` escapes names and formats numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from densenet_cli.text import csv_line, escape_name, json_line, shortest_float, source_fields, to_unicode

if TYPE_CHECKING:
    from densenet_cli._types import FloatArray
    from densenet_cli.errors import ImageError
    from densenet_cli.labels import ClassLabel


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
        scores: The most probable class first; empty if no class reaches ``min_prob``, or with an error.
        error: None unless the image could not be classified.
        notes: What there is to say about the image; see ``images.decoding.NOTES``.
    """

    source: str
    model: str
    scores: tuple[Score, ...] = ()
    error: Failure | None = None
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the record as JSON types. A probability that is not finite is None."""
        record = {**source_fields(self.source), "model": to_unicode(self.model)}
        if self.error is not None:
            record["error"] = self.error.to_dict()
        else:
            record["predictions"] = [score.to_dict() for score in self.scores]
        return {**record, **dict.fromkeys(self.notes, True)}

    def to_json(self) -> str:
        """Return the record as one line of JSON, without a newline."""
        return json_line(self.to_dict())

    def to_rows(self) -> list[tuple[str, ...]]:
        """Return the CSV rows of the record: one per class, or a single one if there is an error or no class."""
        first = (escape_name(self.source), to_unicode(self.model))
        if self.error is not None:
            return [(*first, "", "", "", "", "", f"{self.error.type}: {to_unicode(self.error.message)}", "")]
        notes = " ".join(self.notes)
        if not self.scores:
            return [(*first, "", "", "", "", "", "", notes)]
        return [
            (
                *first,
                str(score.rank),
                str(score.index),
                to_unicode(score.id or ""),
                to_unicode(score.label),
                "" if (probability := shortest_float(score.probability)) is None else repr(probability),
                "",
                notes,
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
