"""The comparison as one NetCDF file, written lead by lead: the whole of it is never in memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import netCDF4
import numpy as np

from aifs_ensemble.common.config import Config
from aifs_ensemble.common.errors import StorageError
from aifs_ensemble.common.files import atomic_writer
from aifs_ensemble.products import netcdf
from aifs_ensemble.products.compare.fields import Compared
from aifs_ensemble.products.regular_grid import RegularGrid

_SPACE = ("latitude", "longitude")


class ComparisonFile:
    """A file that is being written; see `comparison_file`."""

    def __init__(self, data: netCDF4.Dataset, leads: Sequence[int]) -> None:
        self._data, self._leads = data, list(leads)

    def put(self, variable: str, lead: int, compared: Compared) -> None:
        """Store a variable at one lead."""
        place = self._leads.index(lead)
        self._data[f"{variable}_difference"][place] = compared.difference.astype(np.float32)
        self._data[f"{variable}_spread"][place] = np.stack(compared.spreads).astype(np.float32)


@contextmanager
def comparison_file(
    units: tuple[Config, Config],
    path: Path,
    variables: Sequence[str],
    leads: Sequence[int],
    attributes: Mapping[str, str],
) -> Iterator[ComparisonFile]:
    """Write a file atomically whose values are put lead by lead.

    Of each variable NAME it has NAME_difference ``(time, latitude, longitude)``, the second model's mean less the
    first's, and NAME_spread ``(time, model, latitude, longitude)``. Raises StorageError where it cannot be written.
    """
    with atomic_writer(path) as file:
        try:
            with netCDF4.Dataset(file.name, "w") as data:
                _describe(units, data, variables, leads, attributes)
                yield ComparisonFile(data, leads)
        except RuntimeError as error:  # all that netCDF says of a disk without room
            raise StorageError(f"{path}: cannot be written ({error}); is the disk full?") from None


def _describe(
    units: tuple[Config, Config],
    data: netCDF4.Dataset,
    variables: Sequence[str],
    leads: Sequence[int],
    attributes: Mapping[str, str],
) -> None:
    first, second = units
    data.setncatts(dict(attributes))
    data.createDimension("time", None)
    data.createDimension("model", 2)
    for name, (_, values, about) in netcdf.latitude_longitude(RegularGrid(first)).items():
        data.createDimension(name, len(values))
        _put(data, name, (name,), values, about)
    model = data.createVariable("model", str, ("model",))
    model.long_name = "model of the ensemble"
    for place, one in enumerate(units):
        model[place] = one.model.name
    about = {"standard_name": "time", "long_name": "valid time", "axis": "T", "calendar": "proleptic_gregorian"}
    _put(data, "time", ("time",), leads, about | {"units": netcdf.hours_since(first)})
    lead_about = {"long_name": "lead time", "standard_name": "forecast_period", "units": "hours"}
    _put(data, "leadtime", ("time",), leads, lead_about)
    shape = [len(data.dimensions[dimension]) for dimension in _SPACE]
    for name in variables:
        # a difference of temperatures is none that has the zero of their scale: no standard name
        about = {"units": netcdf.cf_attributes(name)["units"], "cell_methods": netcdf.cell_methods(first, name)}
        words = {
            "difference": f"{name}, ensemble mean of {second.model.name} less that of {first.model.name}",
            "spread": f"{name}, ensemble standard deviation (1/m) of each model",
        }
        for kind, extra in (("difference", ()), ("spread", ("model",))):
            variable = data.createVariable(
                f"{name}_{kind}",
                "f4",
                ("time", *extra, *_SPACE),
                zlib=True,
                complevel=1,
                shuffle=True,
                chunksizes=(1, *(1 for _ in extra), *shape),
                fill_value=np.float32(np.nan),
            )
            variable.setncatts({**about, "long_name": words[kind], "coordinates": "leadtime"})


def _put(
    data: netCDF4.Dataset, name: str, dimensions: tuple[str, ...], values: Sequence[float], about: Mapping[str, str]
) -> None:
    variable = data.createVariable(name, "f8", dimensions)
    variable.setncatts(dict(about))
    variable[:] = np.asarray(values, "f8")
