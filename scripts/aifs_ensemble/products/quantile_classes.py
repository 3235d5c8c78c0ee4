"""Probabilities of the classes between climatological quantiles, from the members' weekly files.

Class k holds what is at or above its lower bound and below its upper one; the last class has no upper bound
(``conditional_obs_probs`` of AI-WQ-package 3.33).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import xarray as xr

from aifs_ensemble.common.config import Config
from aifs_ensemble.common.config.sections import PeriodVariable
from aifs_ensemble.common.errors import InputError
from aifs_ensemble.common.names import format_members
from aifs_ensemble.products import netcdf
from aifs_ensemble.products.climatology import Climatology, read_climatology, read_model_climatology
from aifs_ensemble.products.climatology_names import climatology_path, own_climatology_path
from aifs_ensemble.products.regular_grid import RegularGrid
from aifs_ensemble.products.submission import submission_names
from aifs_ensemble.products.weekly import attributes, period_coordinates

Field = npt.NDArray[np.float32]


def class_probabilities(members: npt.NDArray[np.floating], bounds: npt.NDArray[np.floating]) -> Field:
    """Return the share of members in each class, float32 ``(class, ...)``, summing to 1.

    `members` is ``(member, ...)``, `bounds` ``(bound, ...)``, growing. Where a bound is missing (NaN) so is the result.
    Source: AI-WQ-package 3.33.
    """
    rank = (members[None] >= bounds[:, None]).sum(axis=0)
    shares = np.stack([(rank == k).mean(axis=0) for k in range(len(bounds) + 1)]).astype(np.float32)
    shares[:, np.isnan(bounds).any(axis=0)] = np.nan
    return shares


def read_members(paths: Sequence[Path]) -> xr.Dataset:
    """Return the members' weekly files as one data set, by member; InputError for other files."""
    parts = []
    for path in paths:
        with xr.open_dataset(path, engine="netcdf4", decode_timedelta=False) as data:
            parts.append(data.load())
    try:
        together = xr.concat(parts, "number", join="exact", combine_attrs="override", data_vars="all", coords="minimal")
    except ValueError as error:
        raise InputError(f"{paths[0]} and others: not of one ensemble ({error})") from None
    return together.assign_attrs(digests=" ".join(part.attrs["member_digest"][:16] for part in parts))


def ensemble_attributes(config: Config, members: Sequence[int], title: str) -> dict[str, str]:
    """Return what a product of the ensemble says of itself: its members, and which are missing."""
    missing = sorted(set(config.members) - set(members))
    short = f", short: without members {format_members(missing)}" if missing else ""
    return {
        **netcdf.global_attributes(config, f"{title}{short}", untrained=config.model.untrained),
        "members": format_members(members),
        "ensemble": f"{len(members)} of {len(config.members)} members{short}",
    }


def write_weekly_ensemble(config: Config, paths: Sequence[Path], output: Path) -> None:
    """Write mean and spread over the members of every weekly variable, ``(period, latitude, longitude)``.

    The spread is the standard deviation with 1/m, as ECMWF's products have it.
    """
    data = read_members(paths)
    members = [int(number) for number in data["number"]]
    result = xr.Dataset(
        {
            f"{name}_{kind}": (
                ("period", "latitude", "longitude"),
                np.asarray(getattr(data[name].astype("f8"), reduce)("number"), np.float32),
                attributes(config, item) | {"long_name": f"{item.variable}, ensemble {words}"},
            )
            for name, item in config.products.weekly.variables.items()
            for kind, reduce, words in (("mean", "mean", "mean"), ("spread", "std", "standard deviation"))
        },
        {**period_coordinates(config), **netcdf.latitude_longitude(RegularGrid(config))},
        ensemble_attributes(config, members, "AIFS ENS weekly mean and spread")
        | {"member_digests": data.attrs["digests"]},
    )
    netcdf.write_netcdf(result, output)


def write_quintiles(config: Config, paths: Sequence[Path], output: Path, submissions: Mapping[str, Path]) -> None:
    """Write the probabilities of all variables and periods, and the files of a submission.

    `output` has names and dimensions of ea-aifs: ``{variable}_quintiles (time_week, quintile, latitude, longitude)``.
    `submissions` are the paths of AI Weather Quest's files by their names, see `submission_names`.
    Raises InputError for a climatology that is absent or does not fit.
    """
    grid = RegularGrid(config)

    def bounds(name: str, period: str, item: PeriodVariable) -> Climatology:
        return read_climatology(climatology_path(config, name, period), item, grid)

    title = "AIFS ENS weekly probabilities of climatological classes"
    found = _probabilities(config, paths, bounds, title)
    netcdf.write_netcdf(_data_set(config, grid, found, "quintiles", "years"), output)
    for name, period, file in submission_names(config):
        one = xr.Dataset(
            {name: (("quintile", "latitude", "longitude"), found.shares[name, period], {"units": "1"})},
            _class_coordinates(grid, found),
            found.about,
        )
        netcdf.write_netcdf(one, submissions[file])


def write_model_quintiles(config: Config, paths: Sequence[Path], output: Path) -> None:
    """Write the probabilities of classes of the model's own climate, as `write_quintiles` does of the observed one.

    The variables are ``{variable}_model_quintiles``. Raises InputError for a climatology that is absent or does not
    fit.
    """
    grid = RegularGrid(config)

    def bounds(name: str, period: str, item: PeriodVariable) -> Climatology:
        return read_model_climatology(config, own_climatology_path(config, name, period), item, grid)

    title = "AIFS ENS weekly probabilities of classes of the model's own climate"
    found = _probabilities(config, paths, bounds, title, dry=True)
    netcdf.write_netcdf(_data_set(config, grid, found, "model_quintiles", "samples of the model's climate"), output)


class _Found(NamedTuple):
    """Shares of members by variable and period, the upper edges of all classes but the last, attributes."""

    shares: dict[tuple[str, str], Field]
    edges: npt.NDArray[np.float64]
    about: dict[str, str]


def _probabilities(
    config: Config,
    paths: Sequence[Path],
    bounds: Callable[[str, str, PeriodVariable], Climatology],
    title: str,
    *,
    dry: bool = False,
) -> _Found:
    """Return the probabilities of all variables and periods between `bounds`; InputError where quantiles differ.

    With `dry`, amounts below zero, which packing leaves where nothing falls, count as none.
    """
    data = read_members(paths)
    about = ensemble_attributes(config, [int(number) for number in data["number"]], title)
    about["member_digests"] = data.attrs["digests"]
    found: dict[tuple[str, str], Field] = {}
    edges: npt.NDArray[np.float64] | None = None
    for name, item in config.products.weekly.variables.items():
        for period in config.periods:
            climatology = bounds(name, period, item)
            if edges is not None and not np.array_equal(edges, climatology.probabilities):
                raise InputError(f"{climatology.path}: quantiles {climatology.probabilities}, the others {edges}")
            edges = climatology.probabilities
            values = data[name].sel(period=period).transpose("number", "latitude", "longitude").to_numpy()
            if dry and item.statistic == "sum":
                values = np.maximum(values, 0)
            found[name, period] = class_probabilities(values, climatology.bounds)
    assert edges is not None
    return _Found(found, edges, about)


def _class_coordinates(grid: RegularGrid, found: _Found, of: str = "years") -> dict[str, Any]:
    about = {"long_name": f"upper bound of the class, share of {of}"}
    return {
        "quintile": ("quintile", np.append(found.edges, 1.0), about),
        **netcdf.latitude_longitude(grid),
    }


def _data_set(config: Config, grid: RegularGrid, found: _Found, kind: str, of: str) -> xr.Dataset:
    """Return all probabilities as one data set; its variables end in `kind`, bounds are shares `of` something."""
    periods = list(config.periods)
    return xr.Dataset(
        {
            f"{item.variable}_{kind}": (
                ("time_week", "quintile", "latitude", "longitude"),
                np.stack([found.shares[name, period] for period in periods]),
                {"units": "1", "long_name": f"probability of {item.variable}, {item.statistic} of the period"},
            )
            for name, item in config.products.weekly.variables.items()
        },
        {
            "week": ("time_week", np.array([f"week{n}" for n in range(1, len(periods) + 1)], object)),
            **{key: ("time_week", *part[1:]) for key, part in period_coordinates(config).items()},  # type: ignore[index]
            **_class_coordinates(grid, found, of),
        },
        found.about,
    )
