"""Maps of areas in pixels: where a place is, and which place a pixel shows.

The globe is an Equal Earth projection (Šavrič, Patterson and Jenny 2018, doi:10.1080/13658816.2018.1504949): equal
areas, and formulas instead of a table. An area is a plate carree, true to scale at its middle.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from aifs_ensemble.common.areas import Area

Array = npt.NDArray[np.float64]
_A = (1.340264, -0.081106, 0.000893, 0.003796)
_ROOT = np.sqrt(3)


def _height(theta: Array) -> Array:
    return theta * (_A[0] + theta**2 * (_A[1] + theta**4 * (_A[2] + _A[3] * theta**2)))


def _slope(theta: Array) -> Array:
    return _A[0] + theta**2 * (3 * _A[1] + theta**4 * (7 * _A[2] + 9 * _A[3] * theta**2))


def equal_earth(longitudes: Array, latitudes: Array) -> tuple[Array, Array]:
    """Return x and y on a sphere of radius 1 of longitudes in -180 to 180 and latitudes, degrees."""
    theta = np.arcsin(_ROOT / 2 * np.sin(np.deg2rad(latitudes)))
    return 2 * _ROOT / 3 * np.deg2rad(longitudes) * np.cos(theta) / _slope(theta), _height(theta)


def equal_earth_place(x: Array, y: Array) -> tuple[Array, Array]:
    """Return longitude and latitude in degrees, ``(y, x)``, of a row of x and a column of y; NaN outside the globe."""
    theta = np.clip(y / _A[0], -np.pi / 3, np.pi / 3)
    for _ in range(8):  # Newton; the height is close to a straight line
        theta = np.clip(theta - (_height(theta) - y) / _slope(theta), -np.pi / 3, np.pi / 3)
    latitudes = np.rad2deg(np.arcsin(np.clip(2 / _ROOT * np.sin(theta), -1, 1)))
    stretch = np.rad2deg(3 * _slope(theta) / (2 * _ROOT * np.cos(theta)))
    longitudes = stretch[:, None] * x
    outside = (np.abs(longitudes) > 180) | (np.abs(_height(theta) - y) > 1e-6)[:, None]
    return np.where(outside, np.nan, longitudes), np.where(outside, np.nan, latitudes[:, None])


_EDGE_X, _EDGE_Y = (float(np.max(part)) for part in equal_earth(np.array([180.0, 0.0]), np.array([0.0, 90.0])))


@dataclass(frozen=True)
class MapFrame:
    """A map of an area, `width` by `height` pixels; pixel coordinates grow to the right and downward."""

    area: Area
    width: int
    height: int

    def pixel(self, longitudes: Array, latitudes: Array) -> tuple[Array, Array]:
        """Return where places are, in pixels; on a map of an area, longitudes as they are (see `turns`)."""
        if self.area.is_globe:
            x, y = equal_earth(longitudes, latitudes)
            return (x / _EDGE_X + 1) / 2 * self.width, (1 - y / _EDGE_Y) / 2 * self.height
        area = self.area
        x = (longitudes - area.west) / (area.east - area.west) * self.width
        return x, (area.north - latitudes) / (area.north - area.south) * self.height

    def places(self) -> tuple[Array, Array]:
        """Return longitude and latitude of the middle of each pixel, ``(row, column)``, NaN outside the globe."""
        across, down = (np.arange(self.width) + 0.5) / self.width, (np.arange(self.height) + 0.5) / self.height
        if self.area.is_globe:
            return equal_earth_place((2 * across - 1) * _EDGE_X, (1 - 2 * down) * _EDGE_Y)
        x, y = np.meshgrid(across, down)
        area = self.area
        return area.west + x * (area.east - area.west), area.north - y * (area.north - area.south)

    def turns(self) -> tuple[int, ...]:
        """Return the degrees to add to longitudes of -180 to 180 so that every line of the area is met."""
        if self.area.is_globe:
            return (0,)
        return tuple(turn for turn in (-360, 0, 360) if self.area.west < 180 + turn and self.area.east > turn - 180)


def fit(area: Area, width: int, height: int) -> MapFrame:
    """Return the largest map of an area in a box of pixels, true to scale at its middle."""
    if area.is_globe:
        shape = _EDGE_X / _EDGE_Y
    else:
        middle = np.deg2rad((area.north + area.south) / 2)
        shape = (area.east - area.west) * np.cos(middle) / (area.north - area.south)
    across = min(width, round(height * shape))
    return MapFrame(area, max(across, 16), max(round(across / shape), 16))


@dataclass(frozen=True, eq=False)
class Sampler:
    """What takes fields of a regular grid to the pixels of a map, linearly between points and across 0 degrees."""

    frame: MapFrame
    weights: csr_array
    outside: npt.NDArray[np.bool_]

    def sample(self, field: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return a field ``(row, column)`` as pixels, float32 ``(height, width)``; NaN beside missing values."""
        return (self.weights @ field.ravel()).reshape(self.frame.height, self.frame.width)


def sampler(frame: MapFrame, latitudes: Array, longitudes: Array) -> Sampler:
    """Return the sampler of a global grid, latitudes from north to south and longitudes from 0 eastward."""
    return _sampler(frame, tuple(latitudes), len(longitudes))


@cache
def _sampler(frame: MapFrame, rows: tuple[float, ...], columns: int) -> Sampler:
    longitudes, latitudes = (part.ravel() for part in frame.places())
    outside = np.isnan(longitudes)
    x = np.where(outside, 0, longitudes) % 360 / 360 * columns
    y = np.interp(-np.where(outside, 0, latitudes), -np.array(rows), np.arange(len(rows)))
    west, north = np.floor(x).astype(np.int64), np.minimum(np.floor(y).astype(np.int64), len(rows) - 2)
    across, down = x - west, y - north
    corners, shares = [], []
    for south in (0, 1):
        for east in (0, 1):
            corners.append((north + south) * columns + (west + east) % columns)
            shares.append((down if south else 1 - down) * (across if east else 1 - across))
    share = np.where(outside, 0, np.stack(shares)).T
    pixels = frame.width * frame.height
    indptr = np.arange(0, 4 * pixels + 1, 4)
    weights = csr_array(
        (share.ravel().astype(np.float32), np.stack(corners).T.ravel(), indptr), (pixels, len(rows) * columns)
    )
    # what has no weight must not bring in a missing value
    weights.eliminate_zeros()
    return Sampler(frame, weights, outside.reshape(frame.height, frame.width))
