"""Fields of a lead: a variable at its time, or its statistic over the day that the lead ends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar

DAY = 24  # hours
MEAN, MAX, MIN, SUM = STATISTICS = ("mean", "max", "min", "sum")
T = TypeVar("T")


class LeadField(NamedTuple):
    """A variable of the model, and its statistic over the day; empty for the variable at the time of the lead."""

    variable: str
    statistic: str = ""

    def __str__(self) -> str:
        return f"daily {self.statistic} of {self.variable}" if self.statistic else self.variable


def fields_at(lead: int, variables: Sequence[T], daily: Sequence[T]) -> tuple[T, ...]:
    """Return the fields of a lead in hours: variables, and the daily statistics if the lead ends a day.

    Days are counted from the start of the forecast.
    """
    return (*variables, *daily) if lead % DAY == 0 else tuple(variables)


def lead_fields(pairs: Sequence[Any]) -> tuple[LeadField, ...]:
    """Return fields from pairs of variable and statistic, as JSON has them; what is no pair is left out."""
    return tuple(LeadField(*map(str, pair)) for pair in pairs if isinstance(pair, list | tuple) and len(pair) == 2)


_BEFORE = {"avg": MEAN, "max": MAX, "min": MIN}
_OF_THEIR_OWN = {"mx2t24": ("2t", MAX), "mn2t24": ("2t", MIN)}


def split_name(name: str) -> tuple[str, str]:
    """Return of which parameter a short name of ECMWF is a statistic, and which: ``avg_2t`` gives ("2t", "mean").

    Of other names they are the name itself and an empty text.
    """
    before, _, parameter = name.partition("_")
    if parameter and before in _BEFORE:
        return parameter, _BEFORE[before]
    return _OF_THEIR_OWN.get(name, (name, ""))
