"""Grids by name and the coordinates of their points.

Names are those of the field: ``N320`` (classical reduced Gaussian), ``O96`` (octahedral reduced
Gaussian), ``F80`` (full Gaussian) and ``0.25x0.25`` (regular latitude-longitude, degrees).
Points are in GRIB scanning order: rows from north to south, each from longitude 0 eastward.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

import eccodes
import numpy as np
import numpy.typing as npt

from aifs_ensemble.common.errors import ConfigError

Degrees = npt.NDArray[np.float64]

# The classical grids have no formula for the points of a row: they come with ecCodes, for these numbers.
CLASSICAL = (32, 48, 64, 80, 96, 128, 160, 200, 256, 320, 400, 512, 640, 1024, 1280)

# Newton doubles the digits each time, and starts with three.
_NEWTON_STEPS = 5

_FINEST = 0.01  # degrees, of a regular grid: 648 million points

_GAUSSIAN = re.compile(r"([NOF])(\d+)")
_REGULAR = re.compile(r"(\d+(?:\.\d+)?)x(\d+(?:\.\d+)?)")


@dataclass(frozen=True, eq=False)
class Grid:
    """A global grid.

    Attributes
    ----------
    name : as in `grid_coordinates`
    latitudes, longitudes : float64 ``(value,)``, degrees north, degrees east in [0, 360)
    rows : int ``(row,)``, points of each row of latitude, north to south
    """

    name: str
    latitudes: Degrees
    longitudes: Degrees
    rows: npt.NDArray[np.int64]

    @property
    def points(self) -> int:
        return len(self.latitudes)

    @property
    def kind(self) -> str:
        """``reduced_gg``, ``regular_gg`` or ``regular_ll``, as ecCodes calls them."""
        return {"N": "reduced_gg", "O": "reduced_gg", "F": "regular_gg"}.get(self.name[0], "regular_ll")

    @property
    def shape(self) -> tuple[int, int] | None:
        """(rows, columns) of a grid whose rows are all equally long, else None."""
        return (len(self.rows), int(self.rows[0])) if (self.rows == self.rows[0]).all() else None

    @property
    def weights(self) -> Degrees:
        """Area weight of each point, ``(value,)``, summing to 1.

        A row's share is the area between the sines of the latitudes half-way to its neighbours.
        """
        ends = np.cumsum(self.rows)
        rows = self.latitudes[ends - 1]
        edges = np.concatenate([[90.0], (rows[1:] + rows[:-1]) / 2, [-90.0]])
        area = -np.diff(np.sin(np.deg2rad(edges))) / 2
        return np.repeat(area / self.rows, self.rows)


def gaussian_latitudes(number: int) -> Degrees:
    """Return the ``2 * number`` Gaussian latitudes in degrees, north to south.

    They are the arcsines of the zeros of the Legendre polynomial of that degree, found by Newton's method from
    ``cos(pi (i + 3/4) / (degree + 1/2))`` (Abramowitz and Stegun 22.16.6). numpy's ``leggauss`` finds them as
    eigenvalues, which takes half a second of all processors for N320.
    """
    degree = 2 * number
    zeros = np.cos(np.pi * (np.arange(number) + 0.75) / (degree + 0.5))
    for _ in range(_NEWTON_STEPS):
        below, value = np.ones_like(zeros), zeros
        for order in range(2, degree + 1):
            below, value = value, ((2 * order - 1) * zeros * value - (order - 1) * below) / order
        zeros = zeros - value * (zeros * zeros - 1) / (degree * (zeros * value - below))
    north: Degrees = np.rad2deg(np.arcsin(zeros))
    return np.concatenate([north, -north[::-1]])


def _classical_rows(number: int) -> npt.NDArray[np.int64]:
    handle = eccodes.codes_new_from_samples(f"reduced_gg_pl_{number}_grib2", eccodes.CODES_PRODUCT_GRIB)
    try:
        return np.asarray(eccodes.codes_get_array(handle, "pl"), np.int64)
    finally:
        eccodes.codes_release(handle)


def octahedral_rows(number: int) -> npt.NDArray[np.int64]:
    """Return the points of each row of the octahedral grid: 20 at the pole, 4 more a row to the equator."""
    north = 20 + 4 * np.arange(number, dtype=np.int64)
    return np.concatenate([north, north[::-1]])


def _gaussian_rows(name: str, kind: str, number: int) -> npt.NDArray[np.int64]:
    if kind == "O" and number:
        return octahedral_rows(number)
    if kind == "F" and number:
        return np.full(2 * number, 4 * number, np.int64)
    if number in CLASSICAL:
        return _classical_rows(number)
    raise ConfigError(f"grid: {name!r}, expected a classical grid with N one of {', '.join(map(str, CLASSICAL))}")


def _regular_latitudes(name: str, step: float) -> Degrees:
    if 0 < step < _FINEST:  # before memory is asked for all of its points
        raise ConfigError(f"grid: {name!r}, expected increments of {_FINEST} degrees or more")
    count = round(180 / step) if step else 0
    if not count or abs(count * step - 180) > 1e-9:
        raise ConfigError(f"grid: {name!r}, expected increments that divide 180 and 360 degrees")
    return np.asarray(90 - np.arange(count + 1) * step, np.float64)


@cache
def grid_coordinates(name: str) -> Grid:
    """Return the grid called `name`: ``N320``, ``O96``, ``F80`` or ``0.25x0.25`` (east-west x north-south).

    Arrays are read-only, for they are shared. Raises ConfigError when there is no such grid.
    """
    if match := _GAUSSIAN.fullmatch(name):
        kind, number = match[1], int(match[2])
        rows = _gaussian_rows(name, kind, number)
        latitudes = gaussian_latitudes(number)
    elif match := _REGULAR.fullmatch(name):
        east, north = float(match[1]), float(match[2])
        columns = len(_regular_latitudes(name, east)) - 1
        latitudes = _regular_latitudes(name, north)
        rows = np.full(len(latitudes), 2 * columns, np.int64)
    else:
        raise ConfigError(f"grid: {name!r} is not a grid, expected a name such as N320, O96, F80 or 0.25x0.25")
    longitudes = np.concatenate([np.arange(count) * (360.0 / count) for count in rows])
    grid = Grid(name, np.repeat(latitudes, rows), longitudes, rows)
    for array in (grid.latitudes, grid.longitudes, grid.rows):
        array.flags.writeable = False
    return grid
