"""An area of a reduced Gaussian grid: the rows that it lies in, whole, and which of their points are in it.

Readers get whole rows with a bitmap (docs/keeping.md says why): no reader that was tried puts a point in a wrong place.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from aifs_ensemble.common.areas import Box
from aifs_ensemble.common.errors import ConfigError
from aifs_ensemble.fields.grids import Grid, grid_coordinates

_TOLERANCE = 1e-6  # degrees, by which a point may lie outside


@dataclass(frozen=True, eq=False)
class Cut:
    """What leads of an area hold of a field.

    Attributes
    ----------
    grid : the rows; it has the name of the whole grid
    points : where they are in a field of the whole grid
    inside : bool ``(value,)`` of these points, which are in the area; the others are missing
    """

    grid: Grid
    points: slice
    inside: npt.NDArray[np.bool_]

    @property
    def outside(self) -> int:
        """How many points of the rows are missing."""
        return int((~self.inside).sum())

    def of(self, field: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return the rows of a field of the whole grid, NaN outside the area."""
        rows = field[self.points].copy()
        rows[~self.inside] = np.nan
        return rows


@cache
def cut_of(name: str, box: Box) -> Cut:
    """Return what leads of an area, north, west, south and east in degrees, hold of the grid `name`.

    Where the first row alone would be left out, or the last one, it is taken too: ecCodes calls such rows global, and
    places them a row off. Raises ConfigError for an area that no point lies in.
    """
    grid = grid_coordinates(name)
    north, west, south, east = box
    ends = np.cumsum(grid.rows)
    latitudes = grid.latitudes[ends - 1]
    rows = np.flatnonzero((latitudes <= north + _TOLERANCE) & (latitudes >= south - _TOLERANCE))
    inside = np.isin(grid.latitudes, latitudes[rows])
    inside &= (grid.longitudes - west + _TOLERANCE) % 360 <= east - west + 2 * _TOLERANCE
    if not inside.any():
        raise ConfigError(f"config: forecast.output.area: no point of {name} within {box}, expected a larger one")
    first, last = (0 if rows[0] == 1 else int(rows[0])), int(rows[-1])
    last = len(latitudes) - 1 if last == len(latitudes) - 2 else last
    points = slice(int(ends[first] - grid.rows[first]), int(ends[last]))
    part = Grid(name, grid.latitudes[points], grid.longitudes[points], grid.rows[first : last + 1])
    return Cut(part, points, inside[points])


def grid_within(name: str, box: Box | None) -> Grid:
    """Return the points that leads hold: of a grid, or of the rows that an area lies in."""
    return grid_coordinates(name) if box is None else cut_of(name, box).grid
