"""Statistics of several leads as one NetCDF file, written lead by lead: the whole of it is never in memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from aifs_ensemble.common.config import Config
from aifs_ensemble.common.parameters import parameter_of
from aifs_ensemble.common.wind_speed import STANDARD_NAME, UNITS, wind_speed
from aifs_ensemble.products import netcdf
from aifs_ensemble.products.regular_grid import RegularGrid
from aifs_ensemble.products.statistics.choice import variables
from aifs_ensemble.products.statistics.named_thresholds import AT_LEAST, BELOW

_WORDS = {AT_LEAST: "at or above", BELOW: "below"}


def thresholds_of(config: Config, name: str) -> dict[str, list[float]]:
    """Return the thresholds of a variable by comparison, those that there are."""
    statistics = config.products.statistics
    given = {AT_LEAST: statistics.at_least.get(name, []), BELOW: statistics.below.get(name, [])}
    return {comparison: [float(value) for value in values] for comparison, values in given.items() if values}


@contextmanager
def statistics_file(
    config: Config,
    path: Path,
    grid: RegularGrid,
    leads: Sequence[int],
    window: int,
    attributes: Mapping[str, str],
) -> Iterator[netcdf.LeadByLead]:
    """Write a file atomically, ``(time, ...)``, whose values are put lead by lead.

    Of each variable NAME it has NAME_mean and NAME_spread ``(time, latitude, longitude)``, NAME_quantile
    ``(time, quantile, latitude, longitude)`` and NAME_at_least or NAME_below with a dimension of the thresholds.
    Raises StorageError where it cannot be written.
    """
    with netcdf.lead_by_lead(path, leads, attributes) as file:
        _describe(config, file, grid, window)
        yield file


def _describe(config: Config, file: netcdf.LeadByLead, grid: RegularGrid, window: int) -> None:
    file.grid(grid)
    file.times(config, window)
    shares = [float(share) for share in config.products.statistics.quantiles]
    if shares:
        file.coordinate("quantile", shares, {"long_name": "share of the members", "units": "1"})
    for name in variables(config, window):
        about = _about(name, window)
        kept = {key: value for key, value in about.items() if key != "long_name"}
        file.field(f"{name}_mean", (), about | {"long_name": f"{name}, ensemble mean"})
        file.field(f"{name}_spread", (), kept | {"long_name": f"{name}, ensemble standard deviation (1/m)"})
        if shares:
            file.field(f"{name}_quantile", ("quantile",), about | {"long_name": f"{name}, quantiles of the members"})
        for comparison, values in thresholds_of(config, name).items():
            dimension = f"threshold_{name}_{comparison}"
            file.coordinate(dimension, values, {"long_name": f"threshold of {name}", "units": about["units"]})
            words = {"units": "%", "long_name": f"probability that {name} is {_WORDS[comparison]} the threshold"}
            cell = {"cell_methods": about["cell_methods"]}
            file.field(f"{name}_{comparison}", (dimension,), words | cell)


def _about(name: str, window: int) -> dict[str, str]:
    if wind_speed(name):
        about = {"units": UNITS, "standard_name": STANDARD_NAME}
    else:
        about = {"units": parameter_of(name).cf_units}
        if standard_name := parameter_of(name).standard_name:
            about["standard_name"] = standard_name
    return about | {"cell_methods": f"time: sum (interval: {window} hours)" if window else "time: point"}
