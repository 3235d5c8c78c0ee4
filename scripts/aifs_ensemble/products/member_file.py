"""A member on a regular grid as one NetCDF file, every lead of the chosen variables."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import xarray as xr

from aifs_ensemble.common.config import Config
from aifs_ensemble.common.names import grid_label
from aifs_ensemble.products import netcdf
from aifs_ensemble.products.parallel import readers
from aifs_ensemble.products.regular_fields import RegularFields
from aifs_ensemble.products.regular_grid import RegularGrid


def write_member_file(config: Config, member: int, path: Path) -> None:
    """Write the variables of ``products.members`` of one member, ``(time, number, latitude, longitude)``.

    Amounts are what the leads hold: from the start of the forecast, or over each step; ``cell_methods`` says which.
    Raises InputError when the member is not delivered.
    """
    variables = config.products.members.variables
    fields = RegularFields(config, member, variables)
    grid = fields.grid
    values = {name: np.empty((len(config.leads), 1, *grid.shape), np.float32) for name in variables}

    def one(place: int) -> None:
        for variable, field in fields.read(config.leads[place], variables).items():
            values[variable][place, 0] = field

    with ThreadPoolExecutor(readers(config)) as pool:
        list(pool.map(one, range(len(config.leads))))
    netcdf.write_netcdf(_data_set(config, fields, values), path, unlimited=("time",))


def _data_set(config: Config, fields: RegularFields, values: dict[str, np.ndarray]) -> xr.Dataset:
    grid = fields.grid
    leads = np.array(config.leads, "f8")
    start = np.datetime64(config.cycle_time.replace(tzinfo=None), "ns")
    time = start + leads.astype("m8[h]")
    data = xr.Dataset(
        {
            name: (("time", "number", "latitude", "longitude"), array, _attributes(config, grid, name))
            for name, array in values.items()
        },
        {
            "time": ("time", time, {"standard_name": "time", "long_name": "valid time", "axis": "T"}),
            "leadtime": ("time", leads, {"standard_name": "forecast_period", "units": "hours"}),
            "number": netcdf.member_coordinate([fields.member]),
            **netcdf.latitude_longitude(grid),
        },
        netcdf.global_attributes(
            config, f"AIFS ENS member {fields.member} at {grid_label(grid.name)}", untrained=fields.untrained
        )
        | {"member_digest": fields.digest},
    )
    data["time"].encoding = {"units": netcdf.hours_since(config), "dtype": "f8"}
    return data


def _attributes(config: Config, grid: RegularGrid, variable: str) -> dict[str, str]:
    weights = grid.weights(variable)
    return {
        **netcdf.cf_attributes(variable),
        "cell_methods": netcdf.cell_methods(config, variable),
        "interpolation": f"{grid.method(variable)} from {config.model.grid}, weights {weights.digest[:16]}",
    }
