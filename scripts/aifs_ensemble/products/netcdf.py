"""NetCDF files of products: CF 1.11, time first, compressed, the same bytes whenever they are made of the same."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
import numpy.typing as npt
import xarray as xr

from aifs_ensemble.common.config import Config
from aifs_ensemble.common.errors import StorageError
from aifs_ensemble.common.files import atomic_writer
from aifs_ensemble.common.parameters import parameter_of
from aifs_ensemble.fields.grids import Degrees, Grid
from aifs_ensemble.products.regular_grid import RegularGrid

_LATITUDE = {"standard_name": "latitude", "units": "degrees_north", "axis": "Y"}
_LONGITUDE = {"standard_name": "longitude", "units": "degrees_east", "axis": "X"}
_MEMBER = {"standard_name": "realization", "units": "1", "long_name": "ensemble member"}


def latitude_longitude(grid: RegularGrid) -> dict[str, Any]:
    """Return the coordinates of a regular grid."""
    return regular_coordinates(grid.latitudes, grid.longitudes)


def regular_coordinates(latitudes: Degrees, longitudes: Degrees) -> dict[str, Any]:
    """Return the coordinates of lines of latitude and longitude, degrees."""
    return {"latitude": ("latitude", latitudes, _LATITUDE), "longitude": ("longitude", longitudes, _LONGITUDE)}


def point_coordinates(grid: Grid) -> dict[str, Any]:
    """Return latitude and longitude of each point of a model's grid, along the dimension ``value``."""
    places = (("latitude", grid.latitudes, _LATITUDE), ("longitude", grid.longitudes, _LONGITUDE))
    return {name: ("value", degrees, _without_axis(about)) for name, degrees, about in places}


def _without_axis(attributes: Mapping[str, str]) -> dict[str, str]:
    return {key: value for key, value in attributes.items() if key != "axis"}


def member_coordinate(members: list[int]) -> tuple[str, Any, Mapping[str, str]]:
    """Return the coordinate ``number``."""
    return "number", np.array(members, "i4"), _MEMBER


def cf_attributes(variable: str) -> dict[str, str]:
    """Return name and units of a variable of the model, as delivered."""
    parameter = parameter_of(variable)
    attributes = {"long_name": variable, "units": parameter.cf_units}
    return attributes | ({"standard_name": parameter.standard_name} if parameter.standard_name else {})


def cell_methods(config: Config, variable: str) -> str:
    """Return what the values of a variable in a lead are in time: instants, or amounts and over what."""
    if not parameter_of(variable).accumulates:
        return "time: point"
    from_start = config.forecast.accumulate == "from_start"
    return f"time: sum (comment: {'from the start of the forecast' if from_start else 'over the 6 hours before'})"


def global_attributes(config: Config, title: str, *, untrained: bool) -> dict[str, str]:
    """Return what every file says of itself; `untrained` models are named so in title and source."""
    model = config.model.name
    return {
        "Conventions": "CF-1.11",
        "title": f"{title}{', untrained model' if untrained else ''}",
        "source": f"{model}{', an untrained model: its values mean nothing' if untrained else ''}",
        "forecast_reference_time": f"{config.cycle_time:%Y-%m-%dT%H:%MZ}",
    }


def hours_since(config: Config) -> str:
    """Return the units of time coordinates."""
    return f"hours since {config.cycle_time:%Y-%m-%d %H:%M:%S}"


@contextmanager
def _written(path: Path) -> Iterator[str]:
    """Give a path that becomes `path` once it is whole; StorageError where netCDF cannot write it."""
    with atomic_writer(path) as file:
        # netCDF writes to a path of its own
        try:
            yield file.name
        except RuntimeError as error:  # all that netCDF says of a disk without room
            raise StorageError(f"{path}: cannot be written ({error}); is the disk full?") from None


def write_netcdf(data: xr.Dataset, path: Path, unlimited: tuple[str, ...] = ()) -> None:
    """Write a data set atomically, float32 variables compressed; StorageError where it cannot be written."""
    encoding = {
        name: {"zlib": True, "complevel": 1, "shuffle": True, "_FillValue": None}
        for name in data.data_vars
        if data[name].dtype == np.float32
    }
    with _written(path) as name:
        data.to_netcdf(name, engine="netcdf4", encoding=encoding, unlimited_dims=list(unlimited))


@contextmanager
def lead_by_lead(path: Path, leads: Sequence[int], attributes: Mapping[str, str]) -> Iterator[LeadByLead]:
    """Write a file atomically whose values are put lead by lead: the whole of it is never in memory.

    Raises StorageError where it cannot be written.
    """
    with _written(path) as name, netCDF4.Dataset(name, "w") as data:
        data.setncatts(dict(attributes))
        data.createDimension("time", None)
        yield LeadByLead(data, leads)


class LeadByLead:
    """A file that is being written; see `lead_by_lead`. Its first dimension is the time, `leads` in hours."""

    def __init__(self, data: netCDF4.Dataset, leads: Sequence[int]) -> None:
        self.data, self._leads = data, list(leads)

    def put(self, name: str, lead: int, values: npt.ArrayLike) -> None:
        """Store a field at one lead, ``(row, column)`` or with the dimensions before these that it was made with."""
        self.data[name][self._leads.index(lead)] = values

    def coordinate(self, name: str, values: npt.ArrayLike, about: Mapping[str, str]) -> None:
        """Make a dimension with its values."""
        found = np.asarray(values, "f8")
        self.data.createDimension(name, len(found))
        self.along(name, (name,), found, about)

    def along(self, name: str, dimensions: tuple[str, ...], values: npt.ArrayLike, about: Mapping[str, str]) -> None:
        """Make a variable of float64 along dimensions that there are."""
        variable = self.data.createVariable(name, "f8", dimensions)
        variable.setncatts(dict(about))
        variable[:] = np.asarray(values, "f8")

    def grid(self, grid: RegularGrid) -> None:
        """Make the dimensions of a regular grid."""
        for name, (_, values, about) in latitude_longitude(grid).items():
            self.coordinate(name, values, about)

    def times(self, config: Config, window: int = 0) -> None:
        """Describe the one axis of time; of amounts over `window` hours with bounds."""
        about = {"standard_name": "time", "long_name": "valid time", "axis": "T", "calendar": "proleptic_gregorian"}
        about |= {"units": hours_since(config)} | ({"bounds": "time_bnds"} if window else {})
        self.along("time", ("time",), self._leads, about)
        lead_about = {"long_name": "lead time", "standard_name": "forecast_period", "units": "hours"}
        self.along("leadtime", ("time",), self._leads, lead_about)
        if window:
            self.data.createDimension("bnds", 2)
            self.along("time_bnds", ("time", "bnds"), [[lead - window, lead] for lead in self._leads], {})

    def field(self, name: str, extra: tuple[str, ...], about: Mapping[str, str]) -> None:
        """Make a field ``(time, *extra, latitude, longitude)`` of float32, a chunk for each map."""
        space = ("latitude", "longitude")
        variable = self.data.createVariable(
            name,
            "f4",
            ("time", *extra, *space),
            zlib=True,
            complevel=1,
            shuffle=True,
            chunksizes=(1, *(1 for _ in extra), *(len(self.data.dimensions[one]) for one in space)),
            fill_value=np.float32(np.nan),
        )
        variable.setncatts({**about, "coordinates": "leadtime"})
