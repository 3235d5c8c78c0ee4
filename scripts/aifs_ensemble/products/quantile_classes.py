"""Probabilities of the classes between climatological quantiles, from the members' weekly files.

Class k holds what is at or above its lower bound and below its upper one; the last class has no upper bound
(``conditional_obs_probs`` of AI-WQ-package 3.33).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import xarray as xr

from aifs_ensemble.common.config import Config
from aifs_ensemble.common.errors import InputError
from aifs_ensemble.common.names import format_members
from aifs_ensemble.products import netcdf
from aifs_ensemble.products.climatology import climatology_path, read_climatology
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
    data, grid, weekly = read_members(paths), RegularGrid(config), config.products.weekly
    members = [int(number) for number in data["number"]]
    about = ensemble_attributes(config, members, "AIFS ENS weekly probabilities of climatological classes")
    about["member_digests"] = data.attrs["digests"]
    found: dict[tuple[str, str], Field] = {}
    edges: npt.NDArray[np.float64] | None = None
    for name, item in weekly.variables.items():
        for period in config.periods:
            climatology = read_climatology(climatology_path(config, name, period), item, grid)
            if edges is not None and not np.array_equal(edges, climatology.probabilities):
                raise InputError(f"{climatology.path}: quantiles {climatology.probabilities}, the others {edges}")
            edges = climatology.probabilities
            values = data[name].sel(period=period).transpose("number", "latitude", "longitude").to_numpy()
            found[name, period] = class_probabilities(values, climatology.bounds)
    assert edges is not None
    coordinates = {
        "quintile": ("quintile", np.append(edges, 1.0), {"long_name": "upper bound of the class, share of years"}),
        **netcdf.latitude_longitude(grid),
    }
    periods = list(config.periods)
    result = xr.Dataset(
        {
            f"{item.variable}_quintiles": (
                ("time_week", "quintile", "latitude", "longitude"),
                np.stack([found[name, period] for period in periods]),
                {"units": "1", "long_name": f"probability of {item.variable}, {item.statistic} of the period"},
            )
            for name, item in weekly.variables.items()
        },
        {
            "week": ("time_week", np.array([f"week{n}" for n in range(1, len(periods) + 1)], object)),
            **{key: ("time_week", *part[1:]) for key, part in period_coordinates(config).items()},  # type: ignore[index]
            **coordinates,
        },
        about,
    )
    netcdf.write_netcdf(result, output)
    for name, period, file in submission_names(config):
        one = xr.Dataset(
            {name: (("quintile", "latitude", "longitude"), found[name, period], {"units": "1"})}, coordinates, about
        )
        netcdf.write_netcdf(one, submissions[file])
