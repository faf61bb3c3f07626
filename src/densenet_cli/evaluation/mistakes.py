"""Every wrong image as a row of a CSV file, the surest mistakes first: those are worth looking at, or mislabeled."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from densenet_cli.evaluation.tally import Outcome
from densenet_cli.labels import ClassLabel, Labels
from densenet_cli.text import csv_line, escape_name, shortest_float, to_unicode

COLUMNS = (
    "source",
    "true_index",
    "true_id",
    "true_label",
    "predicted_index",
    "predicted_id",
    "predicted_label",
    "probability",
    "true_probability",
    "true_rank",
)


def to_csv(mistakes: Iterable[Outcome], labels: Labels) -> Iterator[str]:
    """The file's lines, its header first. Of equally sure mistakes the first one measured comes first.

    Names and probabilities are written as ``predict`` writes them.
    """
    yield csv_line(COLUMNS)
    for mistake in sorted(mistakes, key=lambda mistake: -mistake.confidence):
        yield csv_line(
            (
                escape_name(mistake.name),
                *_label(labels[mistake.truth]),
                *_label(labels[mistake.predicted]),
                repr(shortest_float(mistake.confidence)),
                repr(shortest_float(mistake.probability)),
                str(mistake.rank),
            )
        )


def _label(label: ClassLabel) -> tuple[str, str, str]:
    return str(label.index), to_unicode(label.id or ""), to_unicode(label.name)
