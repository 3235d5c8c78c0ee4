"""All members, leads and fields as one virtual Zarr (Icechunk), made from the indexes of the leads alone.

An array's chunk is a message of a lead: its object, offset and length. Nothing else of a lead is read, and no value is
copied. Icechunk rather than a file of references (kerchunk): 660,000 of them open lazily, straight from a bucket.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import icechunk
import numpy as np
import numpy.typing as npt
import zarr

from aifs_ensemble.common.config import Config
from aifs_ensemble.common.parameters import field_name, parameter_of, split_variable
from aifs_ensemble.common.storage import Storage
from aifs_ensemble.fields.grids import grid_coordinates
from aifs_ensemble.products import netcdf
from aifs_ensemble.products.cube.codec import GribCodec
from aifs_ensemble.products.cube.containers import absolute, container
from aifs_ensemble.products.delivered_fields import DeliveredFields
from aifs_ensemble.products.parallel import readers

LEVEL = "isobaricInhPa"


@dataclass(frozen=True)
class References:
    """Where each message lies.

    Attributes
    ----------
    members, leads : in the order of the axes
    variables : of the model, in the order of the last axis
    keys : object of each member and lead, ``[member][lead]``
    places : int64 ``(member, lead, variable, 2)``, offset and length in bytes; length 0 where there is no message
    """

    members: tuple[int, ...]
    leads: tuple[int, ...]
    variables: tuple[str, ...]
    keys: list[list[str]]
    places: npt.NDArray[np.int64]

    @property
    def missing(self) -> int:
        """How many messages are missing."""
        return int((self.places[..., 1] == 0).sum())


def find_references(config: Config, members: Sequence[DeliveredFields]) -> References:
    """Return where the messages of delivered members lie, by their indexes."""
    variables = config.output_variables
    names = [field_name(variable) for variable in variables]
    places = np.zeros((len(members), len(config.leads), len(variables), 2), np.int64)

    def one(at: tuple[int, int]) -> str:
        key, found = members[at[0]].places(config.leads[at[1]])
        for number, name in enumerate(names):
            places[(*at, number)] = found.get(name, (0, 0))
        return key

    count = len(config.leads)
    with ThreadPoolExecutor(readers(config)) as pool:
        keys = list(pool.map(one, ((m, lead) for m in range(len(members)) for lead in range(count))))
    rows = [keys[start : start + count] for start in range(0, len(keys), count)]
    return References(tuple(f.member for f in members), config.leads, tuple(variables), rows, places)


def write_virtual(
    config: Config, references: References, storage: Storage, folder: Path, about: dict[str, str]
) -> None:
    """Write an Icechunk repository of all messages to an empty `folder`; `storage` has the leads."""
    kept = icechunk.RepositoryConfig.default()
    kept.set_virtual_chunk_container(container(storage.url))
    repository = icechunk.Repository.create(icechunk.local_filesystem_storage(str(folder)), kept)
    session = repository.writable_session("main")
    root = absolute(storage.url)
    group = zarr.create_group(session.store, attributes={**about, "grid": config.model.grid})
    _coordinates(config, group, references)
    for name, levels in _names(references.variables).items():
        _array(config, group, references, name, levels)
        specs = [
            icechunk.VirtualChunkSpec(
                index=index,
                location=f"{root}/{references.keys[member][lead]}",
                offset=int(references.places[member, lead, number, 0]),
                length=int(references.places[member, lead, number, 1]),
            )
            for member in range(len(references.members))
            for lead in range(len(references.leads))
            for place, number in enumerate(levels.values())
            for index in [[member, lead, *([place] if 0 not in levels else []), 0]]
            if references.places[member, lead, number, 1]
        ]
        session.store.set_virtual_refs(f"/{name}", specs)
    session.commit(about["title"])


def _names(variables: Sequence[str]) -> dict[str, dict[int, int]]:
    """Return the arrays: by name their levels in hPa from the ground upwards, 0 for none, and the variable of each."""
    found: dict[tuple[str, bool], dict[int, int]] = {}
    for number, variable in enumerate(variables):
        name, level = split_variable(variable)
        found.setdefault((name, bool(level)), {})[level] = number
    both = {name for name, on_level in found if (name, not on_level) in found}
    return {
        name if on_level or name not in both else f"{name}_surface": dict(sorted(levels.items(), reverse=True))
        for (name, on_level), levels in found.items()
    }


def _array(config: Config, group: zarr.Group, references: References, name: str, levels: dict[int, int]) -> None:
    points = grid_coordinates(config.model.grid).points
    on_levels = 0 not in levels
    variable = references.variables[next(iter(levels.values()))]
    group.create_array(
        name,
        shape=(len(references.members), len(references.leads), *([len(levels)] if on_levels else []), points),
        chunks=(1, 1, *([1] if on_levels else []), points),
        dtype="f4",
        serializer=GribCodec(),
        compressors=None,
        filters=None,
        fill_value=float("nan"),
        dimension_names=("number", "step", *([_level_axis(references, levels)] if on_levels else []), "values"),
        attributes={
            **netcdf.cf_attributes(variable),
            "long_name": name,
            "cell_methods": cell_methods(config, variable),
            "coordinates": "latitude longitude valid_time",
        },
    )


def _level_axis(references: References, levels: dict[int, int]) -> str:
    """Return the axis of an array's levels: a variable on other levels than most has one of its own."""
    axes = _level_axes(references)
    return next(axis for axis, values in axes.items() if values == list(levels))


def _level_axes(references: References) -> dict[str, list[int]]:
    axes: dict[str, list[int]] = {}
    for name, levels in _names(references.variables).items():
        if 0 not in levels and list(levels) not in axes.values():
            axes[f"{LEVEL}_{name}" if axes else LEVEL] = list(levels)
    return axes


def cell_methods(config: Config, variable: str) -> str:
    """Return what a variable's values stand for: an instant, or an amount since when."""
    if not parameter_of(variable).accumulates:
        return "time: point"
    from_start = config.forecast.accumulate == "from_start"
    return f"time: sum (comment: {'from the start of the forecast' if from_start else 'over the 6 hours before'})"


def _coordinates(config: Config, group: zarr.Group, references: References) -> None:
    grid = grid_coordinates(config.model.grid)
    plain = netcdf.member_coordinate(list(references.members))
    coordinate(group, "number", plain[1], ("number",), dict(plain[2]))
    step = np.array(references.leads, "i4")
    coordinate(group, "step", step, ("step",), {"units": "hours", "standard_name": "forecast_period"})
    times = {"units": netcdf.hours_since(config), "standard_name": "time", "calendar": "proleptic_gregorian"}
    coordinate(group, "valid_time", step, ("step",), times)
    for axis, levels in _level_axes(references).items():
        about = {"units": "hPa", "standard_name": "air_pressure", "positive": "down"}
        coordinate(group, axis, np.array(levels, "i4"), (axis,), about)
    for name, values, units in (
        ("latitude", grid.latitudes, "degrees_north"),
        ("longitude", grid.longitudes, "degrees_east"),
    ):
        coordinate(group, name, values, ("values",), {"units": units, "standard_name": name})


def coordinate(
    group: zarr.Group, name: str, values: npt.NDArray[Any], dimensions: tuple[str, ...], about: dict[str, Any]
) -> None:
    """Store an array of coordinates as one chunk."""
    group.create_array(name, data=np.asarray(values), dimension_names=dimensions, attributes=about, chunks=values.shape)
