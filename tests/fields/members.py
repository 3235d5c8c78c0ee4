"""Members made of synthetic fields, small enough to encode in a moment."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from aifs_ensemble.common.models import get_model
from aifs_ensemble.common.parameters import bits_for
from aifs_ensemble.fields.encoder_pool import EncoderPool
from aifs_ensemble.fields.grib_encoder import OutputSpec, output_spec
from aifs_ensemble.fields.grids import grid_coordinates

CYCLE = "20250819_0000"
FEW = ("t_500", "2t", "tp", "stl1", "tcc", "q_50", "100u")


def make_spec(
    variables: Sequence[str] | None = None, member: int = 3, model: str = "demo", **changes: object
) -> OutputSpec:
    """Return the specification of a member on N32, of all its variables unless told otherwise."""
    entry = dataclasses.replace(get_model(model), grid="N32")
    spec = output_spec(entry, CYCLE, member, ensemble_size=4, bits=bits_for(entry.delivered))
    changes = {"variables": tuple(variables or spec.variables), **changes}
    return dataclasses.replace(spec, **changes)


def make_fields(spec: OutputSpec, lead: int) -> npt.NDArray[np.float32]:
    """Return smooth fields with a little noise, float32 ``(row, value)``, the same for the same arguments.

    What may be missing is missing around the equator. Cosine and sine are those of one direction, of another length.
    """
    grid = grid_coordinates(spec.grid)
    rng = np.random.default_rng([spec.member, lead])
    wave = np.cos(np.deg2rad(2 * grid.latitudes)) + 0.3 * np.sin(np.deg2rad(3 * grid.longitudes) + lead)
    rows = []
    for variable in spec.rows:
        noise = 0.02 * rng.standard_normal(grid.points)
        rows.append(np.clip(0.5 + 0.3 * wave + noise, 0, 1) if variable[-2:] == "cc" else 280 + 20 * wave + noise)
        if variable in spec.accumulated:
            rows[-1] = np.maximum(wave, 0) * lead * 1e-3
        if variable[:4] in ("cos_", "sin_"):
            angle = np.deg2rad(2 * grid.longitudes + lead)
            rows[-1] = 0.9 * (np.cos(angle) if variable[:4] == "cos_" else np.sin(angle))
        whole = "mwd" if variable.endswith("_mwd") else variable
        if whole in spec.missing:
            rows[-1] = np.where(np.abs(grid.latitudes) < 20, np.nan, rows[-1])
    return np.array(rows, np.float32)


def write_member(spec: OutputSpec, folder: Path, leads: Sequence[int], processes: int = 1) -> list:
    """Write leads through a pool and return their records."""
    records = []
    with EncoderPool(spec, folder, processes) as pool:
        for lead in leads:
            slot = pool.acquire(120)
            slot.array[:] = make_fields(spec, lead)
            pool.submit(slot, lead)
            records += pool.completed()
        return records + pool.drain()
