"""A delivered ensemble as one data set, opened by its address alone and read by byte range."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any, Literal, Self

import numpy as np
import platformdirs
import xarray as xr

from aifs_ensemble.common.config import Config
from aifs_ensemble.common.errors import ConfigError, InputError, VerificationError
from aifs_ensemble.common.locations import expand
from aifs_ensemble.common.manifest import MemberManifest, parse_member_manifest
from aifs_ensemble.common.models import get_model
from aifs_ensemble.common.names import Keys, file_name, format_members, parse_member_name
from aifs_ensemble.common.records import read_record
from aifs_ensemble.common.storage import Storage, open_storage
from aifs_ensemble.common.text import hint
from aifs_ensemble.delivery.receipt import OLD_RECEIPT_SCHEMA, RECEIPT_SCHEMA, MemberReceipt
from aifs_ensemble.delivery.standing import Destination
from aifs_ensemble.fields.area import grid_within
from aifs_ensemble.forecast.settings import area_of, variables_of
from aifs_ensemble.products import netcdf
from aifs_ensemble.products.delivered_fields import DeliveredFields, Field
from aifs_ensemble.products.lazy_fields import lazy_variable
from aifs_ensemble.products.parallel import readers
from aifs_ensemble.products.regular_fields import RegularFields
from aifs_ensemble.products.regular_grid import RegularGrid

LOG = logging.getLogger(__name__)
Method = Literal["linear", "grid-box-average", "nearest-neighbour"]
_CYCLE = re.compile(r"(?P<root>.*?)/*(?P<cycle>\d{8}_\d{4})/*")


def default_cache() -> Path:
    """Return the folder of this user's interpolation weights."""
    return Path(platformdirs.user_cache_dir("aifs-ensemble"))


def open_ensemble(
    url: str | os.PathLike[str],
    *,
    grid: str | None = None,
    variables: Sequence[str] | None = None,
    members: Sequence[int] | None = None,
    interpolation: Mapping[str, Method] | None = None,
    cache: str | os.PathLike[str] | None = None,
) -> xr.Dataset:
    """Return a delivered ensemble as one data set; values are read, by byte range, when they are asked for.

    ``open_ensemble("results/20250819_0000")["2t"].sel(number=3).isel(time=0).values`` reads an index and one field.

    Parameters
    ----------
    url : folder or ``gs://`` URL of one cycle, which ends in its name, such as ``gs://bucket/prefix/20250819_0000``
    grid : regular grid in degrees such as ``"1.5x1.5"``, to which each field is interpolated; None for the model's own
    variables : names of the model, such as ``2t`` and ``t_500``; None for all
    members : numbers; None for all that are delivered whole
    interpolation : method by variable, ``linear`` for those not named
    cache : folder for interpolation weights; None for this user's

    Returns
    -------
    A data set of float32 variables ``(time, number, value)``, or ``(time, number, latitude, longitude)`` with `grid`,
    in the units of the GRIB files, NaN where values are missing. ``time`` is when a field is valid, ``leadtime`` hours
    since the cycle, ``number`` the member. Amounts are what the leads hold: ``cell_methods`` says over which time.
    Members that are there, but not whole or made with other settings than the first, are left out: attribute
    ``left_out`` names them, and why.

    Raises ConfigError for an address, grid or name that is none, InputError where no member is, StorageError where
    nothing answers.
    """
    root, keys = _address(str(url))
    storage = open_storage(root)
    config = _configuration(storage, keys, grid, interpolation, cache)
    standings = Destination(config, storage).standings()
    whole = [member for member, standing in standings.items() if standing.whole]
    left_out = {member: standing.text for member, standing in standings.items() if not standing.whole}
    for member, why in left_out.items():
        LOG.warning("%s: member %d is left out: %s", url, member, why)
    chosen = _chosen("members", members, whole, storage.address(keys.cycle))
    names = _chosen("variables", variables, list(config.output_variables), storage.address(keys.cycle))
    reader = _Reader(config, storage, chosen, names, regular=grid is not None)
    data = xr.Dataset(
        {name: reader.variable(name) for name in names},
        {
            "time": ("time", _valid_times(config), {"standard_name": "time", "long_name": "valid time", "axis": "T"}),
            "leadtime": ("time", np.array(config.leads), {"standard_name": "forecast_period", "units": "hours"}),
            "number": netcdf.member_coordinate(chosen),
            **reader.coordinates(),
        },
        netcdf.global_attributes(config, "AIFS ENS ensemble", untrained=config.model.untrained),
    )
    data.attrs |= {"grid": grid or config.model.grid, "members": format_members(chosen)}
    if left_out:
        data.attrs["left_out"] = "; ".join(f"member {member}: {why}" for member, why in left_out.items())
    return data


def _address(url: str) -> tuple[str, Keys]:
    """Return where a cycle lies, and its names of objects."""
    match = _CYCLE.fullmatch(expand(url, "open_ensemble"))
    if not match:
        raise ConfigError(f"open_ensemble: {url!r}, expected a folder or gs:// URL that ends in YYYYMMDD_HHMM")
    root = match["root"] or ("/" if url.startswith("/") else ".")
    return root, Keys(match["cycle"])


def _chosen(what: str, asked: Sequence[Any] | None, there: Sequence[Any], where: str) -> list[Any]:
    """Return what is asked for, in order; ConfigError for what is not there."""
    if asked is None:
        return list(there)
    for item in asked:
        if item not in there:
            meant = hint(str(item), [*map(str, there)]) if what == "variables" else f"found {format_members(there)}"
            raise ConfigError(f"open_ensemble: {what}: {item!r} is not in {where}, {meant}")
    return list(asked)


def _configuration(
    storage: Storage, keys: Keys, grid: str | None, interpolation: Mapping[str, Method] | None, cache: Any
) -> Config:
    """Return the configuration of which an ensemble was made, by the manifest of its longest member.

    The lists of members that count are made by comparing each member with it, as everywhere.
    """
    address = storage.address(keys.cycle)
    names = [file_name(info.key).removesuffix(".json") for info in storage.list(keys.folder("manifests"))]
    members = [number for name in names if (number := parse_member_name(name)) is not None]
    found: list[MemberManifest] = []
    for member in members:
        try:
            found.append(_manifest(storage, keys, member))
        except VerificationError as error:
            LOG.warning("%s", error)
    if not found:
        raise InputError(f"{address}: no delivered member, expected manifests/memberNNN.json")
    first = max(found, key=lambda manifest: (len(manifest.leads), -manifest.member))
    source = first.initial_conditions.get("source")
    source = source if isinstance(source, Mapping) else {}
    kind = source.get("kind") if source.get("kind") in ("idealised", "ecmwf-open-data", "file") else "idealised"
    idealised = {key: source[key] for key in ("seed", "amplitude") if kind == "idealised" and key in source}
    taken = ("accumulate", "precision", "compile", "deterministic", "chunks", "packing")
    area = area_of(first)
    output = {
        "variables": list(variables_of(get_model(first.model), first)),
        "area": list(area) if area else None,
        "leads": [record.lead for record in first.leads],
    }
    products = {"interpolation": dict(interpolation or {})} | ({"grid": grid} if grid else {})
    return Config(
        {
            "model": first.model,
            "cycle": keys.cycle,
            "members": sorted(members),
            "ensemble_size": first.ensemble_size,
            "lead_hours": first.leads[-1].lead,
            "scratch": str(cache or default_cache()),
            "destination": _destination(storage, keys, first.member),
            "initial_conditions": {
                "source": kind,
                "cache": str(cache or default_cache()),
                "file": {"path": "any"},
                "idealised": idealised,
            },
            "forecast": {key: first.settings[key] for key in taken if key in first.settings} | {"output": output},
            "products": products,
        }
    )


def _manifest(storage: Storage, keys: Keys, member: int) -> MemberManifest:
    key = keys.manifest(member)
    return parse_member_manifest(storage.get_bytes(key), storage.address(key), cycle=keys.cycle, member=member)


def _destination(storage: Storage, keys: Keys, member: int) -> str:
    """Return where a member says that it was delivered to: a copy of a bucket in a folder is read as well."""
    key = keys.receipt(member)
    name = storage.address(key)
    receipt = read_record(
        MemberReceipt, storage.get_bytes(key), name, schema=RECEIPT_SCHEMA, unsealed=OLD_RECEIPT_SCHEMA
    )
    return receipt.destination


def _valid_times(config: Config) -> Any:
    start = np.datetime64(config.cycle_time.replace(tzinfo=None), "ns")
    return start + np.array(config.leads).astype("m8[h]")


def _reopened(config: Config, root: str, members: list[int], names: list[str], regular: bool) -> _Reader:
    return _Reader(config, open_storage(root), members, names, regular=regular)


class _Reader:
    """Reads fields of members, each opened when its first field is asked for."""

    def __init__(self, config: Config, storage: Storage, members: list[int], names: list[str], *, regular: bool):
        self.config, self.storage, self.members, self.names = config, storage, members, names
        self.regular = regular
        self._opened: dict[int, DeliveredFields | RegularFields] = {}
        self._locks = {member: Lock() for member in members}
        self._preparing = Lock()
        # no more than its lines: weights are made when a field is read
        self.grid = RegularGrid(config) if regular else None

    def __deepcopy__(self, memo: Any) -> Self:
        return self  # a copy of the data set reads by the same connections

    def __reduce__(self) -> Any:
        """Let processes of dask open the ensemble for themselves."""
        return _reopened, (self.config, self.storage.url, self.members, self.names, self.regular)

    def _fields(self, member: int) -> DeliveredFields | RegularFields:
        with self._locks[member]:
            if member not in self._opened:
                self._opened[member] = self._open(member)
            return self._opened[member]

    def _open(self, member: int) -> DeliveredFields | RegularFields:
        if self.grid is None:
            return DeliveredFields(self.config, member, self.storage)
        with self._preparing:  # the first one makes the weights, the others find them in the cache
            return RegularFields(self.config, member, self.names, self.storage)

    def read(self, name: str, lead: int, member: int) -> Field:
        """Return a field by the positions of its lead and its member."""
        return self._fields(self.members[member]).read(self.config.leads[lead], [name])[name]

    def variable(self, name: str) -> xr.Variable:
        """Return a variable that is read when it is asked for."""
        attributes = {**netcdf.cf_attributes(name), "cell_methods": netcdf.cell_methods(self.config, name)}
        if self.grid:
            attributes["interpolation"] = f"{self.grid.method(name)} from {self.config.model.grid}"
        points = self.grid.shape if self.grid else (grid_within(self.config.model.grid, self.config.area).points,)
        dims = ("latitude", "longitude") if self.grid else ("value",)
        shape = (len(self.config.leads), len(self.members), *points)
        read = partial(self.read, name)
        return lazy_variable(("time", "number", *dims), shape, read, attributes, readers(self.config))

    def coordinates(self) -> dict[str, Any]:
        """Return latitudes and longitudes, degrees."""
        if self.grid:
            return netcdf.latitude_longitude(self.grid)
        return netcdf.point_coordinates(grid_within(self.config.model.grid, self.config.area))
