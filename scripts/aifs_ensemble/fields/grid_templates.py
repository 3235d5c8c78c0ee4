"""GRIB messages to begin with: on a grid, their values all zero."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import eccodes
import numpy as np

from aifs_ensemble.common.areas import Box
from aifs_ensemble.common.errors import ConfigError, EncodingError
from aifs_ensemble.fields.area import cut_of
from aifs_ensemble.fields.grids import Grid, grid_coordinates

_CIRCLE = 360_000_000  # millionths of a degree


def grid_template(grid: str, area: Box | None = None) -> int:
    """Return a new ecCodes handle on a grid, its values all zero; EncodingError if it cannot be described.

    Of an `area` it has the rows of `cut_of`.

    Classical reduced Gaussian grids come with ecCodes as samples, rows of points included. Regular grids are those of
    `grid_coordinates`: from 90 N to 90 S, from 0 eastward.
    """
    message = f"grid: {grid!r} has no GRIB template, expected a classical grid such as N320 or a regular one as 1.5x1.5"
    if "x" in grid:
        return _regular_template(grid, message)
    if not re.fullmatch(r"N\d+", grid):
        raise EncodingError(message)
    try:
        handle = eccodes.codes_grib_new_from_samples(f"reduced_gg_pl_{grid[1:]}_grib2")
    except eccodes.CodesInternalError:
        raise EncodingError(message) from None
    return handle if area is None else _rows_template(handle, cut_of(grid, area).grid)


def _rows_template(handle: int, rows: Grid) -> int:
    """Return a template of a reduced Gaussian grid with some of its rows: whole ones, so that they begin at 0 E."""
    keys = {
        "Nj": len(rows.rows),
        "latitudeOfFirstGridPointInDegrees": float(rows.latitudes[0]),
        "latitudeOfLastGridPointInDegrees": float(rows.latitudes[-1]),
    }
    # the last longitude stays that of the whole grid's longest row: CDO reads from it that rows close
    set_keys(handle, keys, f"rows of {rows.name}")
    eccodes.codes_set_array(handle, "pl", rows.rows.tolist())
    eccodes.codes_set_values(handle, np.zeros(rows.points))
    return handle


def _regular_template(grid: str, message: str) -> int:
    try:
        shape = grid_coordinates(grid).shape
    except ConfigError:
        raise EncodingError(message) from None
    assert shape is not None
    rows, columns = shape
    if _CIRCLE % columns or _CIRCLE // 2 % (rows - 1):  # GRIB counts in millionths of a degree
        raise EncodingError(message)
    east, north = _CIRCLE // columns, _CIRCLE // 2 // (rows - 1)
    handle = eccodes.codes_grib_new_from_samples("regular_ll_pl_grib2")
    keys = {
        "Ni": columns,
        "Nj": rows,
        "latitudeOfFirstGridPoint": _CIRCLE // 4,
        "longitudeOfFirstGridPoint": 0,
        "latitudeOfLastGridPoint": -_CIRCLE // 4,
        "longitudeOfLastGridPoint": _CIRCLE - east,
        "iDirectionIncrement": east,
        "jDirectionIncrement": north,
        "scanningMode": 0,
    }
    set_keys(handle, keys, f"grid {grid}")
    eccodes.codes_set_values(handle, np.zeros(rows * columns))  # only they make ecCodes count the points anew
    return handle


def set_keys(handle: int, keys: Mapping[str, Any], what: str) -> None:
    """Set keys of a message in their order; EncodingError naming `what` and the key that ecCodes refuses."""
    for key, value in keys.items():
        try:
            eccodes.codes_set(handle, key, value)
        except eccodes.CodesInternalError as error:
            raise EncodingError(f"{what}: GRIB key {key} cannot be {value!r} ({error})") from None
