"""The members on a regular grid as one Zarr: a copy of some variables, for maps and series in one read."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import zarr
from zarr.codecs import BloscCodec

from aifs_ensemble.common.config import Config
from aifs_ensemble.common.storage import Storage
from aifs_ensemble.products import netcdf
from aifs_ensemble.products.cube.virtual import cell_methods, coordinate
from aifs_ensemble.products.parallel import readers
from aifs_ensemble.products.regular_fields import RegularFields

_CHUNK = 4 << 20  # bytes of a chunk before compression, in whole leads of one member


def write_regular(
    config: Config, members: Sequence[int], storage: Storage, folder: Path, about: dict[str, str]
) -> None:
    """Write the variables of ``products.cube.regular`` to an empty `folder`.

    Arrays are ``(number, step, latitude, longitude)``; in memory are the leads of one chunk of one member and variable
    for each reader. Raises InputError when a member is not delivered.
    """
    names = config.products.cube.regular
    # one after the other: the first makes the weights that all share
    fields = [RegularFields(config, member, names, storage) for member in members]
    grid = fields[0].grid
    leads = max(1, min(len(config.leads), _CHUNK // (4 * grid.shape[0] * grid.shape[1])))
    group = zarr.create_group(str(folder), attributes={**about, "grid": grid.name})
    plain = netcdf.member_coordinate(list(members))
    coordinate(group, "number", plain[1], ("number",), dict(plain[2]))
    step = np.array(config.leads, "i4")
    coordinate(group, "step", step, ("step",), {"units": "hours", "standard_name": "forecast_period"})
    times = {"units": netcdf.hours_since(config), "standard_name": "time", "calendar": "proleptic_gregorian"}
    coordinate(group, "valid_time", step, ("step",), times)
    for name, (_, values, attributes) in netcdf.latitude_longitude(grid).items():
        coordinate(group, name, values, (name,), attributes)
    arrays = {}
    for name in names:
        arrays[name] = group.create_array(
            name,
            shape=(len(members), len(config.leads), *grid.shape),
            chunks=(1, leads, *grid.shape),
            dtype="f4",
            compressors=BloscCodec(cname="zstd", clevel=3, shuffle="shuffle"),
            fill_value=float("nan"),
            dimension_names=("number", "step", "latitude", "longitude"),
            attributes={
                **netcdf.cf_attributes(name),
                "cell_methods": cell_methods(config, name),
                "interpolation": f"{grid.method(name)} from {config.model.grid}",
                "coordinates": "valid_time",
            },
        )

    def one(job: tuple[int, int, str]) -> None:
        place, start, name = job
        chosen = config.leads[start : start + leads]
        values = [fields[place].read(lead, [name])[name] for lead in chosen]
        arrays[name][place, start : start + leads] = np.stack(values)

    jobs = [(p, s, name) for p in range(len(members)) for s in range(0, len(config.leads), leads) for name in names]
    with ThreadPoolExecutor(readers(config)) as pool:
        list(pool.map(one, jobs))
    with warnings.catch_warnings():
        # no part of the format yet, which xarray reads all the same, with one request instead of one an array
        warnings.filterwarnings("ignore", "Consolidated metadata")
        zarr.consolidate_metadata(str(folder))
