"""Means and sums over weeks, member by member, as AI Weather Quest defines them.

Its package (AI-WQ-package 3.33, ``forecast_submission``) gives days 18.0 to 24.75 to the first mean, that is the 28
six-hourly values from 432 h to 594 h, and days 18.0 to 25.0 to the first sum, that is what falls from 432 h to 600 h.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
import xarray as xr

from aifs_ensemble.common.config import Config
from aifs_ensemble.common.config.sections import PeriodVariable
from aifs_ensemble.common.periods import weights_of_leads
from aifs_ensemble.products import netcdf
from aifs_ensemble.products.parallel import readers
from aifs_ensemble.products.regular_fields import RegularFields

Field = npt.NDArray[np.float32]


def write_weekly_file(config: Config, member: int, path: Path) -> None:
    """Write all variables of ``products.weekly`` of one member, ``(period, number, latitude, longitude)``.

    Raises InputError when the member is not delivered.
    """
    weekly = config.products.weekly
    fields = RegularFields(config, member, [item.variable for item in weekly.variables.values()])
    grid = fields.grid
    jobs = [(name, period) for name in weekly.variables for period in config.periods]

    def one(job: tuple[str, str]) -> Field:
        return _statistic(config, fields, weekly.variables[job[0]], config.periods[job[1]])

    with ThreadPoolExecutor(readers(config)) as pool:
        found = dict(zip(jobs, pool.map(one, jobs), strict=True))
    periods = list(config.periods)
    data = xr.Dataset(
        {
            name: (
                ("period", "number", "latitude", "longitude"),
                np.stack([found[name, period] for period in periods])[:, None],
                attributes(config, item),
            )
            for name, item in weekly.variables.items()
        },
        {**period_coordinates(config), "number": netcdf.member_coordinate([member]), **netcdf.latitude_longitude(grid)},
        netcdf.global_attributes(config, f"AIFS ENS member {member}, weekly", untrained=fields.untrained)
        | {"member_digest": fields.digest},
    )
    netcdf.write_netcdf(data, path)


def _statistic(config: Config, fields: RegularFields, item: PeriodVariable, start: int) -> Field:
    """Return a variable's mean or sum over a period, float32 ``(row, column)``.

    Sums are float64, of coarse fields where all leads have them. Else they are of the model's grid and regridded once:
    means and differences commute with linear weights.
    """
    variable = item.variable
    weights = weights_of_leads(
        item.statistic,
        start,
        config.products.weekly.hours,
        step=config.model.timestep_hours,
        from_start=config.forecast.accumulate == "from_start",
    )
    coarse = all(fields.has_coarse(lead, variable) for lead in weights)
    source = fields if coarse else fields.native
    total: npt.NDArray[np.float64] | None = None
    for lead, weight in weights.items():
        values = source.read(lead, [variable])[variable]
        total = np.zeros(values.shape) if total is None else total
        # weights of one statistic differ by their sign alone: scaled once, in the end
        (np.add if weight > 0 else np.subtract)(total, values, out=total)
    assert total is not None
    result = (total * max(weights.values())).astype(np.float32)
    return result if coarse else fields.grid.regrid(variable, result)


def attributes(config: Config, item: PeriodVariable) -> dict[str, str]:
    """Return units and cell methods of a variable over a period."""
    interval = f" (interval: {config.model.timestep_hours} hours)" if item.statistic == "mean" else ""
    return {**netcdf.cf_attributes(item.variable), "cell_methods": f"time: {item.statistic}{interval}"}


def period_coordinates(config: Config, names: Sequence[str] | None = None) -> dict[str, object]:
    """Return the coordinates of periods: their names, first and last hour."""
    weekly = config.products.weekly
    names = list(config.periods) if names is None else list(names)
    start = np.array([config.periods[name] for name in names], "i4")
    about = {"units": "hours", "long_name": "hours since the forecast's start"}
    return {
        "period": ("period", np.array(names, object), {"long_name": "period"}),
        "period_start": ("period", start, {**about, "standard_name": "forecast_period"}),
        "period_end": ("period", start + np.int32(weekly.hours), about),
    }
