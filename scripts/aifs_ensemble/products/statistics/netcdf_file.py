"""Statistics of several leads as one NetCDF file, written lead by lead: the whole of it is never in memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
import numpy.typing as npt

from aifs_ensemble.common.config import Config
from aifs_ensemble.common.errors import StorageError
from aifs_ensemble.common.files import atomic_writer
from aifs_ensemble.common.parameters import parameter_of
from aifs_ensemble.common.wind_speed import STANDARD_NAME, UNITS, wind_speed
from aifs_ensemble.products import netcdf
from aifs_ensemble.products.regular_grid import RegularGrid
from aifs_ensemble.products.statistics.choice import variables
from aifs_ensemble.products.statistics.named_thresholds import AT_LEAST, BELOW

Field = npt.NDArray[np.float32]
_SPACE = ("latitude", "longitude")
_WORDS = {AT_LEAST: "at or above", BELOW: "below"}


def thresholds_of(config: Config, name: str) -> dict[str, list[float]]:
    """Return the thresholds of a variable by comparison, those that there are."""
    statistics = config.products.statistics
    given = {AT_LEAST: statistics.at_least.get(name, []), BELOW: statistics.below.get(name, [])}
    return {comparison: [float(value) for value in values] for comparison, values in given.items() if values}


class StatisticsFile:
    """A file that is being written; see `statistics_file`."""

    def __init__(self, data: netCDF4.Dataset, leads: Sequence[int]) -> None:
        self._data, self._leads = data, list(leads)

    def put(self, variable: str, lead: int, values: Field) -> None:
        """Store a variable of the file at one lead, ``(row, column)`` or ``(threshold or quantile, row, column)``."""
        self._data[variable][self._leads.index(lead)] = values


@contextmanager
def statistics_file(
    config: Config,
    path: Path,
    grid: RegularGrid,
    leads: Sequence[int],
    window: int,
    attributes: Mapping[str, str],
) -> Iterator[StatisticsFile]:
    """Write a file atomically, ``(time, ...)``, whose values are put lead by lead.

    Of each variable NAME it has NAME_mean and NAME_spread ``(time, latitude, longitude)``, NAME_quantile
    ``(time, quantile, latitude, longitude)`` and NAME_at_least or NAME_below with a dimension of the thresholds.
    Raises StorageError where it cannot be written.
    """
    with atomic_writer(path) as file:
        try:
            with netCDF4.Dataset(file.name, "w") as data:
                _describe(config, data, grid, leads, window, attributes)
                yield StatisticsFile(data, leads)
        except RuntimeError as error:  # all that netCDF says of a disk without room
            raise StorageError(f"{path}: cannot be written ({error}); is the disk full?") from None


def _describe(
    config: Config,
    data: netCDF4.Dataset,
    grid: RegularGrid,
    leads: Sequence[int],
    window: int,
    attributes: Mapping[str, str],
) -> None:
    data.setncatts(dict(attributes))
    data.createDimension("time", None)
    _coordinate(data, "latitude", *netcdf.latitude_longitude(grid)["latitude"][1:])
    _coordinate(data, "longitude", *netcdf.latitude_longitude(grid)["longitude"][1:])
    _times(config, data, leads, window)
    shares = [float(share) for share in config.products.statistics.quantiles]
    if shares:
        _coordinate(data, "quantile", shares, {"long_name": "share of the members", "units": "1"})
    for name in variables(config, window):
        about = _about(name, window)
        kept = {key: value for key, value in about.items() if key != "long_name"}
        _variable(data, f"{name}_mean", (), about | {"long_name": f"{name}, ensemble mean"})
        _variable(data, f"{name}_spread", (), kept | {"long_name": f"{name}, ensemble standard deviation (1/m)"})
        if shares:
            _variable(
                data, f"{name}_quantile", ("quantile",), about | {"long_name": f"{name}, quantiles of the members"}
            )
        for comparison, values in thresholds_of(config, name).items():
            dimension = f"threshold_{name}_{comparison}"
            _coordinate(data, dimension, values, {"long_name": f"threshold of {name}", "units": about["units"]})
            words = {"units": "%", "long_name": f"probability that {name} is {_WORDS[comparison]} the threshold"}
            cell = {"cell_methods": about["cell_methods"]}
            _variable(data, f"{name}_{comparison}", (dimension,), words | cell)


def _about(name: str, window: int) -> dict[str, str]:
    if wind_speed(name):
        about = {"units": UNITS, "standard_name": STANDARD_NAME}
    else:
        about = {"units": parameter_of(name).cf_units}
        if standard_name := parameter_of(name).standard_name:
            about["standard_name"] = standard_name
    return about | {"cell_methods": f"time: sum (interval: {window} hours)" if window else "time: point"}


def _times(config: Config, data: netCDF4.Dataset, leads: Sequence[int], window: int) -> None:
    """Describe the one axis of time, with the bounds of amounts."""
    about = {"standard_name": "time", "long_name": "valid time", "axis": "T", "calendar": "proleptic_gregorian"}
    time = data.createVariable("time", "f8", ("time",))
    time.setncatts({**about, "units": netcdf.hours_since(config), **({"bounds": "time_bnds"} if window else {})})
    time[:] = np.array(leads, "f8")
    leadtime = data.createVariable("leadtime", "f8", ("time",))
    leadtime.setncatts({"long_name": "lead time", "standard_name": "forecast_period", "units": "hours"})
    leadtime[:] = np.array(leads, "f8")
    if window:
        data.createDimension("bnds", 2)
        bounds = data.createVariable("time_bnds", "f8", ("time", "bnds"))
        bounds[:] = np.array([[lead - window, lead] for lead in leads], "f8")


def _coordinate(data: netCDF4.Dataset, name: str, values: Any, about: Mapping[str, str]) -> None:
    data.createDimension(name, len(values))
    variable = data.createVariable(name, "f8", (name,))
    variable.setncatts(dict(about))
    variable[:] = np.asarray(values, "f8")


def _variable(data: netCDF4.Dataset, name: str, extra: tuple[str, ...], about: Mapping[str, str]) -> None:
    shape = [len(data.dimensions[dimension]) for dimension in _SPACE]
    variable = data.createVariable(
        name,
        "f4",
        ("time", *extra, *_SPACE),
        zlib=True,
        complevel=1,
        shuffle=True,
        chunksizes=(1, *(1 for _ in extra), *shape),
        fill_value=np.float32(np.nan),
    )
    variable.setncatts({**about, "coordinates": "leadtime"})
