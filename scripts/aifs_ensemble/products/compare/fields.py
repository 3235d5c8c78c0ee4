"""What is compared of two models: their means and spreads on the products' grid, and how far the means are apart."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from aifs_ensemble.common.config import Config
from aifs_ensemble.products.evaluation import scores
from aifs_ensemble.products.parallel import readers
from aifs_ensemble.products.regular_fields import RegularFields, fields_of_members

Field = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Ensemble:
    """The members of one model that are compared, on the products' grid."""

    config: Config
    members: tuple[RegularFields, ...]

    @classmethod
    def of(cls, config: Config, members: Sequence[int], sources: Sequence[str]) -> Ensemble:
        """Return them by their numbers, to read `sources`; InputError for a member that is not delivered."""
        return cls(config, fields_of_members(config, members, sources))

    @property
    def numbers(self) -> list[int]:
        return [one.member for one in self.members]

    @property
    def untrained(self) -> bool:
        return any(one.untrained for one in self.members)

    def read(self, lead: int, variables: Sequence[str]) -> dict[str, npt.NDArray[np.float32]]:
        """Return variables of all members at a lead, float32 ``(member, row, column)`` in GRIB's units."""
        with ThreadPoolExecutor(readers(self.config)) as pool:
            found = list(pool.map(lambda one: one.read(lead, variables), self.members))
        return {name: np.stack([fields[name] for fields in found]) for name in variables}


@dataclass(frozen=True)
class Compared:
    """One variable of two models at a lead, in GRIB's units, float64 ``(row, column)``, NaN where one misses it.

    Attributes
    ----------
    difference : mean of the second less mean of the first
    spreads : standard deviation over the members of each, their variance divided by their number
    """

    difference: Field
    spreads: tuple[Field, Field]

    @classmethod
    def of(cls, first: npt.NDArray[np.float32], second: npt.NDArray[np.float32]) -> Compared:
        """Return what is compared of members ``(member, row, column)`` of each."""
        doubles = [members.astype(np.float64) for members in (first, second)]
        one, other = (members.std(axis=0) for members in doubles)
        return cls(doubles[1].mean(axis=0) - doubles[0].mean(axis=0), (one, other))

    def over(self, weights: Field) -> dict[str, float]:
        """Return the figures of an area, by their column; `weights` as of `scores.area_weights`.

        A spread is the root of the mean variance; the ratio is that of the second to the first.
        """
        first, second = (float(np.sqrt(scores.area_mean(spread**2, weights))) for spread in self.spreads)
        return {
            "mean_difference": float(scores.area_mean(self.difference, weights)),
            "rms_difference": float(np.sqrt(scores.area_mean(self.difference**2, weights))),
            "first_spread": first,
            "second_spread": second,
            "spread_ratio": second / first if first > 0 else float("nan"),
        }
