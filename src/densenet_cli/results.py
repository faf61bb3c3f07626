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
            "id": None if self.id is None else unicode(self.id),
            "label": unicode(self.label),
            "probability": shortest(self.probability),
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
        return {"type": self.type, "message": unicode(self.message)}


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
        record = {**source_fields(self.source), "model": unicode(self.model)}
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
        first = (escaped(self.source), unicode(self.model))
        if self.error is not None:
            return [(*first, "", "", "", "", "", f"{self.error.type}: {unicode(self.error.message)}")]
        if not self.scores:
            return [(*first, "", "", "", "", "", "")]
        return [
            (
                *first,
                str(score.rank),
                str(score.index),
                unicode(score.id or ""),
                unicode(score.label),
                "" if (probability := shortest(score.probability)) is None else repr(probability),
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


def source_fields(name: str) -> dict[str, Any]:
    """How a record in JSON begins: ``source``, and ``source_bytes`` where the name is not UTF-8."""
    if _is_unicode(name):
        return {"source": name}
    import base64

    return {"source": escaped(name), "source_bytes": base64.b64encode(_to_bytes(name)).decode()}


def json_line(record: dict[str, Any]) -> str:
    """One line of JSON. Characters that a terminal would act on, or that can't be seen, are escaped."""
    import json

    line = json.dumps(record, ensure_ascii=False, allow_nan=False)
    if line.isprintable():
        return line
    return "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in line)


def csv_line(fields: tuple[str, ...]) -> str:
    """One row of CSV with a plain newline behind it."""
    import csv

    line: str = csv.writer(_Line).writerow(fields)
    return line


class _Line:
    """A 'file' that hands back what is written to it. The csv module quotes a lone CR only if its row ends in one."""

    @staticmethod
    def write(line: str) -> str:
        return line.removesuffix("\r\n") + "\n"


def shortest(probability: float) -> float | None:
    """The number whose decimals are the fewest that read as the same float32; None for NaN and the infinities."""
    import numpy as np

    value = np.float32(probability)
    return float(str(value)) if np.isfinite(value) else None


def escaped(name: str) -> str:
    r"""A name as Unicode that can be turned back: ``\`` as ``\\``, a byte that is not UTF-8 as ``\xff``."""
    return unicode(name.replace("\\", "\\\\"))


def unicode(text: str) -> str:
    r"""The text itself, or where it holds bytes that are not UTF-8, with those written as ``\xff``."""
    return text if _is_unicode(text) else _to_bytes(text).decode("utf-8", "backslashreplace")


def printable(text: str) -> str:
    """``text`` with everything escaped that a terminal would act on or a page can't show (controls, odd bytes)."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in unicode(text))


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _to_bytes(name: str) -> bytes:
    try:
        return name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # half of a surrogate pair, which no name on a disk decodes to
        return name.encode("utf-8", "surrogatepass")


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
