"""Mean and spread of an ensemble's initial states, in which a duplicated member is seen."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from aifs_ensemble.common.errors import InputError
from aifs_ensemble.common.names import format_members
from aifs_ensemble.fields.grids import grid_coordinates
from aifs_ensemble.fields.state import State, read_state
from aifs_ensemble.initial.summaries import state_of

if TYPE_CHECKING:
    import pandas as pd

LOG = logging.getLogger(__name__)


class _Moments:
    """Running moments at T over members; the ensemble is never in memory as a whole."""

    def __init__(self, first: State):
        self.first = first
        self.reference = first.fields[-1].astype(float)
        self.total, self.squares = np.zeros_like(self.reference), np.zeros_like(self.reference)
        self.smallest, self.largest = np.nanmin(first.fields[-1], axis=1), np.nanmax(first.fields[-1], axis=1)
        self.digests: dict[str, dict[int, list[int]]] = {}
        self.count = 0

    def add(self, state: State) -> None:
        """Take one member into account."""
        fields = state.fields[-1]
        # differences from the first member keep the precision that sums of squares would lose
        anomaly = fields - self.reference
        self.total += anomaly
        self.squares += anomaly**2
        self.smallest = np.minimum(self.smallest, np.nanmin(fields, axis=1))
        self.largest = np.maximum(self.largest, np.nanmax(fields, axis=1))
        digest = hashlib.sha256(state.fields.tobytes()).hexdigest()
        self.digests.setdefault(digest, {}).setdefault(state_of(state), []).append(state.member)
        self.count += 1

    @property
    def duplicates(self) -> list[list[int]]:
        """Members of the same fields that are not meant to share a state of the source."""
        groups = (by_state for by_state in self.digests.values() if len(by_state) > 1)
        return [sorted(member for members in by_state.values() for member in members) for by_state in groups]

    def table(self) -> pd.DataFrame:
        """Return the moments by variable."""
        import pandas as pd  # slow to import, and needed only here

        weights = grid_coordinates(self.first.grid).weights
        variance = np.maximum(self.squares / self.count - (self.total / self.count) ** 2, 0)
        variance *= self.count / max(self.count - 1, 1)
        columns = {
            "units": self.first.units,
            "mean": [_mean(field, weights) for field in self.reference + self.total / self.count],
            "spread": [np.sqrt(_mean(field, weights)) for field in variance],
            "smallest": self.smallest,
            "largest": self.largest,
            "members": self.count,
        }
        return pd.DataFrame(columns, index=pd.Index(self.first.variables, name="variable"))


def _mean(field: npt.NDArray[np.float64], weights: npt.NDArray[np.float64]) -> float:
    """Return the mean over the area where all members have a value: what one of them misses is NaN in sums."""
    known = ~np.isnan(field)
    return float(field @ weights) if known.all() else float(field[known] @ weights[known] / weights[known].sum())


def ensemble_statistics(paths: Iterable[Path]) -> pd.DataFrame:
    """Return mean and spread at T of each variable over the members in `paths`.

    One row per variable: ``units``, area mean of the ensemble mean, ``spread`` (area root mean square of
    the members' standard deviation), ``smallest`` and ``largest`` value, ``members``. Means are over the area in which
    no member misses values. Groups of identical
    members are in ``attrs["duplicates"]``. Raises InputError when all of two or more members are identical.
    """
    moments: _Moments | None = None
    for path in paths:
        state = read_state(path)
        moments = moments or _Moments(state)
        first = moments.first
        if (state.variables, state.grid, state.cycle) != (first.variables, first.grid, first.cycle):
            raise InputError(
                f"{path}: {len(state.variables)} variables on {state.grid} for {state.cycle}, "
                f"expected {len(first.variables)} on {first.grid} for {first.cycle} as in member {first.member}"
            )
        moments.add(state)
    if moments is None:
        raise InputError("ensemble statistics: no initial states given, expected at least one")
    if moments.count > 1 and len(moments.digests) == 1:
        raise InputError(
            f"initial states: all {moments.count} members ({format_members(moments.duplicates[0])}) are identical"
        )
    for members in moments.duplicates:
        LOG.warning("initial states: members %s are identical", format_members(members))
    table = moments.table()
    table.attrs["duplicates"] = moments.duplicates
    return table
