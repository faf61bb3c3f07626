"""What an image's classification is, and how it is written: a ``Prediction`` and its JSON, JSON Lines and CSV forms.

The forms are a contract (``docs/reference/output.md``). Two rules keep them exact whatever a file is called:

- A name that is not UTF-8 (Python holds such bytes as lone surrogates) is written with backslash escapes, its own
  backslashes doubled; JSON also gives its bytes whole. In CSV, which has no room for them, every backslash is doubled.
- Probabilities are float32, written in the fewest decimals that give the same float32 again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from densenet_cli.text import csv_line, escape_name, json_line, shortest_float, source_fields, to_unicode

if TYPE_CHECKING:
    from densenet_cli._types import FloatArray
    from densenet_cli.errors import ImageError
    from densenet_cli.labels import ClassLabel

CSV_COLUMNS = ("source", "model", "rank", "index", "id", "label", "probability", "error")


@dataclass(frozen=True, slots=True)
class Score:
    """One class an image may show.

    Attributes:
        rank: 1 for the most probable class.
        index: the class's number in the model's label table; without a table, its position in the head.
        id: the class's WordNet id or the like, None where the table has none.
        label: its readable name.
        probability: a float32's value, in [0, 1].
    """

    rank: int
    index: int
    id: str | None
    label: str
    probability: float

    @classmethod
    def of(cls, label: ClassLabel, rank: int, probability: float) -> Score:
        """That of a class in a model's table."""
        return cls(rank, label.index, label.id, label.name, float(probability))

    def to_dict(self) -> dict[str, Any]:
        """As JSON's types. A probability that is no finite number is None."""
        return {
            "rank": self.rank,
            "index": self.index,
            "id": None if self.id is None else to_unicode(self.id),
            "label": to_unicode(self.label),
            "probability": shortest_float(self.probability),
        }


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an image has no prediction: the name of a ``ImageError`` class, and its sentence."""

    type: str
    message: str

    @classmethod
    def of(cls, error: ImageError) -> Failure:
        """The failure that ``error`` stands for, without the traceback (and the images) that it holds on to."""
        return cls(error.type, str(error))

    def to_dict(self) -> dict[str, str]:
        """As JSON's types."""
        return {"type": self.type, "message": to_unicode(self.message)}


@dataclass(frozen=True, slots=True)
class Prediction:
    """One image's result: its most probable classes in order, or the reason why there are none.

    Attributes:
        source: the image's name, bytes that are not UTF-8 held as ``os.fsdecode`` does.
        model: the model's name.
        scores: the most probable class first; empty if none reaches the minimum probability, and with an error.
        error: None, unless the image could not be classified.
    """

    source: str
    model: str
    scores: tuple[Score, ...] = ()
    error: Failure | None = None

    def to_dict(self) -> dict[str, Any]:
        """The record as JSON's types. A probability that is no finite number is None."""
        record = {**source_fields(self.source), "model": to_unicode(self.model)}
        if self.error is not None:
            record["error"] = self.error.to_dict()
        else:
            record["predictions"] = [score.to_dict() for score in self.scores]
        return record

    def to_json(self) -> str:
        """One line of JSON (``json_line``)."""
        return json_line(self.to_dict())

    def to_rows(self) -> list[tuple[str, ...]]:
        """The rows of ``CSV_COLUMNS``: one a class, or a single one where there is none or an error."""
        first = (escape_name(self.source), to_unicode(self.model))
        if self.error is not None:
            return [(*first, "", "", "", "", "", f"{self.error.type}: {to_unicode(self.error.message)}")]
        if not self.scores:
            return [(*first, "", "", "", "", "", "")]
        return [
            (
                *first,
                str(score.rank),
                str(score.index),
                to_unicode(score.id or ""),
                to_unicode(score.label),
                "" if (probability := shortest_float(score.probability)) is None else repr(probability),
                "",
            )
            for score in self.scores
        ]

    def to_csv(self) -> str:
        """The rows as lines of CSV; a field with a line break in it is quoted, so a line may hold one."""
        return "".join(map(csv_line, self.to_rows()))


@dataclass(frozen=True, slots=True)
class Embedding:
    """The feature vector of one image, or the error that prevented it.

    Attributes:
        source: the image's name.
        model: the model's name.
        vector: the last feature maps, averaged, float32 of shape (channels,); None with an error.
        error: None, unless the image could not be processed.
    """

    source: str
    model: str
    vector: FloatArray | None = None
    error: Failure | None = None


class Format(NamedTuple):
    """How records make a file: ``head``, the records with ``between`` between them, ``foot``.

    ``encode`` takes a ``Prediction``; the JSON forms take whatever has a ``to_json``. ``resumable``: whether an
    interrupted file can be gone on with.
    """

    encode: Callable[[Any], str]
    head: str = ""
    between: str = ""
    foot: str = ""
    resumable: bool = True


FORMATS: dict[str, Format] = {
    "json": Format(lambda record: record.to_json(), "[\n", ",\n", "\n]\n", resumable=False),
    "jsonl": Format(lambda record: record.to_json() + "\n"),
    "csv": Format(Prediction.to_csv, ",".join(CSV_COLUMNS) + "\n"),
}
"""The formats a file of results can have, by name; a file's suffix is a dot and the name."""
