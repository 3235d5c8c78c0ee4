"""The comparison as tables: the differences by area and lead, and the scores of both models side by side."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from datetime import timedelta

from aifs_ensemble.common.config import Config
from aifs_ensemble.common.errors import InputError
from aifs_ensemble.common.parameters import parameter_of
from aifs_ensemble.common.storage import open_destination
from aifs_ensemble.products.csv_tables import csv_number
from aifs_ensemble.products.evaluation.due import TABLE

FIGURES = ("mean_difference", "rms_difference", "first_spread", "second_spread", "spread_ratio")
DIFFERENCES = ("variable", "units", "area", "lead_hours", "valid_time", *FIGURES)
# of the models themselves: what stands beside them, such as persistence, is the same for both
SCORES = ("crps", "rmse", "spread", "bias", "control_rmse", "rpss")
_OF_SCORE = ("variable", "units", "area", "lead_hours", "period")
SIDE_BY_SIDE = (*_OF_SCORE, "score", "first", "second", "difference")
Row = dict[str, str]


def difference_row(config: Config, variable: str, area: str, lead: int, figures: Mapping[str, float]) -> Row:
    """Return a row of `DIFFERENCES`; a figure that is not known is empty."""
    about = {"variable": variable, "units": parameter_of(variable).cf_units, "area": area, "lead_hours": str(lead)}
    valid = config.cycle_time + timedelta(hours=lead)
    return about | {"valid_time": f"{valid:%Y-%m-%dT%H:%MZ}"} | {key: csv_number(figures[key]) for key in FIGURES}


def scores_at(config: Config) -> list[Row] | None:
    """Return the rows of a model's table of scores at its destination, None where it has none.

    Raises InputError, naming the table, for one that no evaluation wrote.
    """
    storage, key = open_destination(config), config.objects.evaluation(TABLE)
    if storage.stat(key) is None:
        return None
    try:
        lines = storage.get_bytes(key).decode().splitlines()
        rows = list(csv.DictReader(line for line in lines if not line.startswith("#")))
        for row in rows:
            for score in SCORES:
                float(row.get(score) or 0)
    except (ValueError, csv.Error) as error:
        raise InputError(
            f"{storage.address(key)}: {error}, expected a table of scores; evaluate makes it again"
        ) from None
    return rows


def side_by_side(first: Sequence[Row] | None, second: Sequence[Row] | None) -> list[Row]:
    """Return the scores that both models have, rows of `SIDE_BY_SIDE`; the difference is the second's less the first's.

    The order is the first's.
    """
    others = {_named(row): row for row in second or ()}
    found = []
    for row in first or ():
        other = others.get(_named(row), {})
        for score in SCORES:
            if (one := row.get(score)) and (two := other.get(score)):
                about = {key: row.get(key) or "" for key in _OF_SCORE}
                difference = csv_number(float(two) - float(one))
                found.append(about | {"score": score, "first": one, "second": two, "difference": difference})
    return found


def _named(row: Row) -> tuple[str, ...]:
    return tuple(row.get(key) or "" for key in ("variable", "area", "lead_hours", "period"))
