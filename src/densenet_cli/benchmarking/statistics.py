"""A handful of measured values in a few numbers that one slow moment of the machine does not move."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

MANY = 15
"""Values from which on quartiles tell two settings apart."""


@dataclass(frozen=True, slots=True)
class Summary:
    """Median and spread of some values, in their own unit.

    Half of the values lie between the quartiles. Mean and standard deviation are not given: times have a floor and no
    ceiling, so that both say more of the worst moment than of the usual one.

    Attributes:
        count: of the values, at least 1.
        median: half of them are below it.
        low, high: the quartiles, linear between the values on either side (R's and numpy's default, type 7 in Hyndman
            and Fan, "Sample quantiles in statistical packages", The American Statistician 50, 1996).
        least, most: the ends.
    """

    count: int
    median: float
    low: float
    high: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Self:
        """Summarize ``values``. Raises ``ValueError`` where there is none."""
        ordered = sorted(values)
        if not ordered:
            raise ValueError("there is nothing to summarize")
        low, median, high = statistics.quantiles(ordered, n=4, method="inclusive") if len(ordered) > 1 else ordered * 3
        return cls(len(ordered), median, low, high, ordered[0], ordered[-1])

    def is_above(self, other: Summary) -> bool:
        """Whether it is larger by more than the spread.

        Then the middle halves of the two don't touch. Where there are few values their quartiles are too near to the
        median to say much: the best of eight settings that are all alike would be above another in a third of all
        cases with four values each. Of fewer than ``MANY`` values, therefore, none of the one may reach any of the
        other, which happens by chance in a twentieth of these cases and less with more values (a test counts them).
        """
        if min(self.count, other.count) < MANY:
            return self.least > other.most
        return self.low > other.high

    def to_dict(self) -> dict[str, float | int]:
        """As JSON's types."""
        return {
            "count": self.count,
            "median": self.median,
            "lower_quartile": self.low,
            "upper_quartile": self.high,
            "minimum": self.least,
            "maximum": self.most,
        }
