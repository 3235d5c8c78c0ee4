"""A GRIB file of ours on a regular grid, as NetCDF or GRIB2, for those who want just a latitude-longitude file."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache as cached
from functools import partial
from pathlib import Path
from typing import Any

import eccodes
import numpy as np
import numpy.typing as npt
import xarray as xr

from aifs_ensemble.common.daily import MAX, MEAN, MIN, split_name
from aifs_ensemble.common.errors import ConfigError, InputError
from aifs_ensemble.common.files import atomic_writer
from aifs_ensemble.common.parameter_rows import cf_units
from aifs_ensemble.common.parameters import has_row, may_miss, parameter_of, variable_name
from aifs_ensemble.common.text import foreign, hint
from aifs_ensemble.fields.ccsds import MISSING
from aifs_ensemble.fields.directions import through_parts
from aifs_ensemble.fields.grib_reader import Header, Location, decode_rows, scan_file
from aifs_ensemble.fields.grids import Grid, grid_coordinates
from aifs_ensemble.fields.interpolation import Weights, interpolation_weights
from aifs_ensemble.products import netcdf
from aifs_ensemble.products.lazy_fields import lazy_variable

LOG = logging.getLogger(__name__)
Field = npt.NDArray[np.float32]
KINDS = {".nc": "NetCDF", ".grib2": "GRIB2"}
_CELL_METHODS = {MEAN: "mean", MAX: "maximum", MIN: "minimum"}
_TOLERANCE = 1e-6  # degrees, by which a point may lie outside an area


@dataclass(frozen=True)
class Area:
    """Points of a regular grid within an area.

    Attributes
    ----------
    latitudes, longitudes : degrees, from north to south, and growing eastward from the western edge
    rows, columns : their positions in the whole grid
    """

    latitudes: npt.NDArray[np.float64]
    longitudes: npt.NDArray[np.float64]
    rows: npt.NDArray[np.intp]
    columns: npt.NDArray[np.intp]

    def cut(self, field: Field) -> Field:
        """Return the part of a field, ``(row, column)``, within the area."""
        return field[np.ix_(self.rows, self.columns)]


def parse_area(text: str) -> tuple[float, float, float, float]:
    """Return north, west, south and east in degrees of ``N/W/S/E``; ConfigError for what is no area."""
    expected = "expected N/W/S/E in degrees, such as 20/15/-15/55"
    try:
        north, west, south, east = map(float, text.split("/"))
    except ValueError:
        raise ConfigError(f"--area: {text!r}, {expected}") from None
    if not (-90 <= south <= north <= 90 and -360 <= west <= east <= west + 360 <= 900):
        raise ConfigError(f"--area: {text!r}, {expected}, north above south and east of west")
    return north, west, south, east


def area_of(grid: str, bounds: tuple[float, float, float, float] = (90, 0, -90, 360)) -> Area:
    """Return the points of a regular grid within north, west, south and east; ConfigError where there are none."""
    whole = regular(grid)
    assert whole.shape is not None
    latitudes, longitudes = whole.latitudes[:: whole.shape[1]], whole.longitudes[: whole.shape[1]]
    north, west, south, east = bounds
    rows = np.flatnonzero((latitudes <= north + _TOLERANCE) & (latitudes >= south - _TOLERANCE))
    eastward = (longitudes - west + _TOLERANCE) % 360 - _TOLERANCE  # from the western edge
    columns = np.flatnonzero(eastward <= east - west + _TOLERANCE)
    columns = columns[np.argsort(eastward[columns])]
    if not (rows.size and columns.size):
        raise ConfigError(f"--area: {'/'.join(f'{edge:g}' for edge in bounds)}: no point of the grid {grid} lies there")
    return Area(latitudes[rows], np.round(west + eastward[columns], 9), rows, columns)


def regular(name: str) -> Grid:
    """Return a regular grid by name; ConfigError for another one."""
    grid = grid_coordinates(name)
    if grid.kind != "regular_ll":
        raise ConfigError(f"--grid: {name!r}, expected degrees east-west and north-south such as 1x1")
    return grid


def regrid_file(
    path: Path,
    output: Path,
    *,
    grid: str = "1x1",
    area: Area | None = None,
    variables: Sequence[str] = (),
    method: str = "linear",
    cache: Path,
) -> int:
    """Write the fields of a GRIB file on a regular grid to `output`, ``.nc`` or ``.grib2``; return how many.

    `grid` is in degrees, `area` the part of it to keep, `variables` are names of the model such as ``t_500`` (all
    where none is named), `method` is MIR's interpolation. NetCDF has ``(time, number, latitude, longitude)``, NaN for a
    time or member of which the file has no such field. GRIB2 keeps order, keys and bits per value.

    Of leads of an area (``forecast.output.area``) a point has the value that leads of the globe give it, and is missing
    where that needs a point outside the area.

    Raises InputError for a file that is none, or has not what is asked for, ConfigError for a grid that is none.
    """
    if output.suffix not in KINDS:
        raise ConfigError(f"-o: {str(output)!r}, expected a name that ends in {' or '.join(KINDS)}")
    if output.exists() and path.exists() and output.samefile(path):
        raise ConfigError(f"-o: {str(output)!r} is the file itself, expected another name")
    area = area or area_of(grid)
    fields = _Fields(path, scan_file(path), variables, grid, area, method, cache)
    if output.suffix == ".grib2":
        _write_grib(fields, output)
    else:
        netcdf.write_netcdf(_data_set(fields), output)
    return len(fields.locations)


def _chosen(path: Path, found: Sequence[Location], variables: Sequence[str]) -> list[Location]:
    there = {variable_name(location.header.field) for location in found}
    for name in variables:
        if name not in there:
            raise InputError(f"{path}: no field {name!r}, {hint(name, sorted(there))}")
    wanted = set(variables) or there
    return [location for location in found if variable_name(location.header.field) in wanted]


class _Fields:
    """Fields of a file, decoded and interpolated one by one."""

    def __init__(
        self,
        path: Path,
        found: list[Location],
        variables: Sequence[str],
        grid: str,
        area: Area,
        method: str,
        cache: Path,
    ):
        self.path, self.grid, self.area, self.method = path, grid, area, method
        self.locations = _chosen(path, found, variables)
        # the first field of each lead that misses nothing inside an area
        self._full: dict[tuple[object, ...], Location] = {}
        for location in found:
            if not may_miss(location.header.field):
                self._full.setdefault(_lead(location.header), location)
        self._outside = cached(self._outside_of)
        self._masks: dict[bytes, npt.NDArray[np.bool_]] = {}
        self._shape = regular(grid).shape
        self._weights = cached(lambda source: interpolation_weights(source, grid, cache, method))

    def values(self, location: Location, message: bytes | None = None) -> Field:
        """Return one field within the area, float32 ``(row, column)``, in the file's units."""
        where = f"{location.path}: {location.header}"
        source, values, held = decode_rows(message or location.read(), where)
        weights, name = self._weights(source), variable_name(location.header.field)
        regridded = through_parts(name, values, lambda part: weights.apply(part[None])[0])
        if held is not None:
            lead = _lead(location.header)
            there = lead, source, held.start, held.stop
            outside = self._outside(*there) if lead in self._full else np.isnan(values)
            regridded[_reached(weights, outside)] = np.nan
        found = self.area.cut(regridded.reshape(self._shape))
        if held is not None and np.isnan(found).all() and not may_miss(location.header.field):
            raise InputError(f"{where}: {_nothing_there(source, values, self.grid)}")
        return found

    def _outside_of(self, lead: tuple[object, ...], source: str, start: int, stop: int) -> npt.NDArray[np.bool_]:
        """Return which points of a grid are outside the area that a lead holds."""
        location = self._full[lead]
        grid, values, rows = decode_rows(location.read(), f"{location.path}: {location.header}")
        if (grid, rows) != (source, slice(start, stop)):
            raise InputError(f"{location.path}: {location.header}: on other rows than other fields of the lead")
        outside = np.isnan(values)
        return self._masks.setdefault(np.packbits(outside).tobytes(), outside)  # the same of all leads, as a rule


def _lead(header: Header) -> tuple[object, ...]:
    return header.base_time, header.time, header.number, header.expver


def _reached(weights: Weights, outside: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Return which points of the target are made from a point that is `outside`."""
    assert weights.matrix is not None  # from a reduced grid to a regular one
    return np.isnan(weights.matrix @ np.where(outside, np.float32(np.nan), np.float32(0)))


def _nothing_there(source: str, values: Field, grid: str) -> str:
    """Return why no point asked for has a value, in words: where the points of the file are."""
    points, present = grid_coordinates(source), ~np.isnan(values)
    latitudes = points.latitudes[present]
    there = f"{latitudes[0]:.4g} to {latitudes[-1]:.4g} N" if present.any() else "no point"
    return (
        f"the file holds an area of the globe (forecast.output.area), rows from {there}; expected --area within it, "
        f"and points of --grid {grid} there"
    )


def _data_set(fields: _Fields) -> xr.Dataset:
    headers = [location.header for location in fields.locations]
    times = sorted({header.time for header in headers})
    members = sorted({header.number or 0 for header in headers})
    starts = sorted({header.base_time for header in headers})
    by_variable: dict[str, dict[tuple[int, int], Location]] = {}
    for location in fields.locations:
        header = location.header
        place = times.index(header.time), members.index(header.number or 0)
        known = by_variable.setdefault(variable_name(header.field), {})
        if place in known:
            raise InputError(f"{fields.path}: more than one field of {header}: write .grib2, which keeps both")
        known[place] = location
    shape = (len(times), len(members), fields.area.rows.size, fields.area.columns.size)
    data = xr.Dataset(
        {
            name: lazy_variable(
                ("time", "number", "latitude", "longitude"),
                shape,
                partial(_at, fields, known),
                _attributes(name, known, fields.method),
                threads=1,
            )
            for name, known in by_variable.items()
        },
        {
            "time": ("time", _numpy(times), {"standard_name": "time", "long_name": "valid time", "axis": "T"}),
            "number": netcdf.member_coordinate(members),
            **netcdf.regular_coordinates(fields.area.latitudes, fields.area.longitudes),
        },
        {"Conventions": "CF-1.11", "title": f"{fields.path.name} at {fields.grid} degrees"},
    )
    if len(starts) == 1:
        data.attrs["forecast_reference_time"] = f"{starts[0]:%Y-%m-%dT%H:%MZ}"
        leads = [(time - starts[0]).total_seconds() / 3600 for time in times]
        data = data.assign_coords(leadtime=("time", leads, {"standard_name": "forecast_period", "units": "hours"}))
    data["time"].encoding = {"units": f"hours since {times[0]:%Y-%m-%d %H:%M:%S}", "dtype": "f8"}
    return data


def _at(fields: _Fields, known: dict[tuple[int, int], Location], time: int, member: int) -> Field:
    location = known.get((time, member))
    if location is None:
        return np.full((fields.area.rows.size, fields.area.columns.size), np.nan, np.float32)
    return fields.values(location)


def _numpy(times: Sequence[datetime]) -> Any:
    return np.array([time.replace(tzinfo=None) for time in times], "M8[ns]")


def _attributes(name: str, known: dict[tuple[int, int], Location], method: str) -> dict[str, str]:
    header = next(iter(known.values())).header
    named = netcdf.cf_attributes(name) if has_row(name) else {"long_name": name}
    steps = [location.header.step for location in known.values()]
    amounts = has_row(name) and parameter_of(name).accumulates
    from_start = all(step.partition("-")[0] in ("0", step) for step in steps)
    when = "from the start of the forecast" if from_start and amounts else f"hours {steps[0]} and so on"
    statistic = "sum" if amounts else _CELL_METHODS.get(split_name(header.field.name)[1], "")
    over = f"time: {statistic} (comment: {when})" if statistic else ""
    if not over and not any("-" in step for step in steps):
        over = "time: point"
    return {**named, "units": cf_units(header.units), "interpolation": method} | (
        {"cell_methods": over} if over else {}
    )


def _write_grib(fields: _Fields, output: Path) -> None:
    with atomic_writer(output) as file:
        for location in fields.locations:
            message = location.read()
            file.write(_regular_message(message, fields.values(location, message), fields.area, str(location.path)))


def _regular_message(message: bytes, values: Field, area: Area, where: str) -> bytes:
    """Return a message with its grid and values replaced by those of an area."""
    handle = eccodes.codes_new_from_message(message)
    rows, columns = values.shape
    doubles, missing = values.ravel().astype(np.float64), np.isnan(values.ravel())
    try:
        if eccodes.codes_get_long(handle, "edition") != 2:
            raise InputError(f"{where}: GRIB 1, expected GRIB 2: write .nc")
        bits = eccodes.codes_get_long(handle, "bitsPerValue")
        packing = eccodes.codes_get_string(handle, "packingType")
        some_rows = not eccodes.codes_get_long(handle, "global")
        for key, value in {
            "gridType": "regular_ll",
            "Ni": columns,
            "Nj": rows,
            "latitudeOfFirstGridPointInDegrees": area.latitudes[0],
            "latitudeOfLastGridPointInDegrees": area.latitudes[-1],
            "longitudeOfFirstGridPointInDegrees": area.longitudes[0] % 360,
            "longitudeOfLastGridPointInDegrees": area.longitudes[-1] % 360,
            "iDirectionIncrementInDegrees": _step(area.longitudes),
            "jDirectionIncrementInDegrees": _step(area.latitudes),
        }.items():
            eccodes.codes_set(handle, key, value if isinstance(value, str | int) else float(value))
        eccodes.codes_set_values(handle, np.zeros(values.size))
        eccodes.codes_set(handle, "packingType", packing)
        eccodes.codes_set(handle, "bitsPerValue", bits)
        if some_rows:  # of an area: its bitmap says what is outside, of which nothing may be left
            eccodes.codes_set(handle, "bitmapPresent", 0)
        if missing.any():
            eccodes.codes_set(handle, "missingValue", MISSING)
            eccodes.codes_set(handle, "bitmapPresent", 1)
            doubles[missing] = MISSING
        eccodes.codes_set_values(handle, doubles)
        return eccodes.codes_get_message(handle)
    except eccodes.CodesInternalError as error:
        raise InputError(f"{where}: cannot be written on a regular grid ({foreign(error)}): write .nc") from None
    finally:
        eccodes.codes_release(handle)


def _step(degrees: npt.NDArray[np.float64]) -> float:
    return abs(float(degrees[1] - degrees[0])) if degrees.size > 1 else 1.0
