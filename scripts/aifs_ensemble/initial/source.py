"""The one interface of the sources of initial conditions, and how their fields reach the model's grid."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from aifs_ensemble.common.config import Config
from aifs_ensemble.common.parameters import has_row, parameter_of, parts_of, variable_name
from aifs_ensemble.fields.directions import split
from aifs_ensemble.fields.grib_reader import Header
from aifs_ensemble.fields.interpolation import Weights, interpolation_weights

Values = npt.NDArray[np.float32]
_NO_DIRECTION = 1e-3  # length of a mean of directions that are opposite


@dataclass(frozen=True)
class Inputs:
    """What a source gives for one member.

    Attributes
    ----------
    fields : by time (T-6h, then T), by variable: float32 ``(value,)`` on the model's grid, in the model's
        units. Constant variables need only be there at T.
    provenance : where they came from, JSON-compatible, the same whenever the content is
    """

    fields: Mapping[datetime, dict[str, Values]]
    provenance: dict[str, Any]


class Source(Protocol):
    """A source of initial conditions for one cycle."""

    def prepare(self) -> dict[str, Any]:
        """Make what all members share (index, constants, weights), in the cache; return a record of it."""

    def read(self, member: int) -> Inputs:
        """Return one member's fields. Raises InputError or DownloadError, one line, when it cannot."""


def input_times(config: Config) -> tuple[datetime, datetime]:
    """Return the two times of an initial state: T-6h and T."""
    return config.cycle_time - timedelta(hours=config.model.timestep_hours), config.cycle_time


def in_model_units(header: Header, values: Values) -> Values:
    """Return values of a message in the models' units: snow comes in kg m-2 (open data) and in m (ERA5)."""
    name = variable_name(header.field)
    if not has_row(name):
        return values
    parameter = parameter_of(name)
    if parameter.factor == 1 or header.units != parameter.grib_units:
        return values
    return values / np.float32(parameter.factor)


def as_modelled(variable: str, values: Values) -> dict[str, Values]:
    """Return what the models have of a field, in their units: cosine and sine of a direction in degrees."""
    parts = parts_of(variable)
    if len(parts) == 1:
        return {variable: values}
    return dict(zip(parts, split(values), strict=True))


def _on_the_circle(fields: dict[str, Values]) -> None:
    """Make cosine and sine those of one direction again: interpolated, their squares add up to less than 1."""
    for name in list(fields):
        part = parameter_of(name).part if has_row(name) else None
        if part is None or part.kind != "cosine":
            continue
        cosine, sine = (fields[one].astype(np.float64) for one in parts_of(part.of))
        length = np.hypot(cosine, sine)
        length[length < _NO_DIRECTION] = 1
        for one, values in zip(parts_of(part.of), (cosine, sine), strict=True):
            fields[one] = (values / length).astype(np.float32)


@dataclass
class Regridder:
    """Brings fields to the model's grid, with the weights of each grid pair made once and cached."""

    target: str
    cache: Path
    used: dict[str, Weights] = field(default_factory=dict)

    def weights(self, grid: str) -> Weights:
        """Return the weights from `grid` to the model's grid."""
        if grid not in self.used:
            self.used[grid] = interpolation_weights(grid, self.target, self.cache)
        return self.used[grid]

    def to_model(self, grid: str, fields: Mapping[str, Values]) -> dict[str, Values]:
        """Return `fields`, all on `grid`, on the model's grid: one sparse product each."""
        if not fields:
            return {}
        made: dict[str, Values] = {}
        # what is missing over sea gets the model's own coast (`initial.build`): up to there, no land may lack a value
        for reach in (False, True):
            names = [name for name in fields if (has_row(name) and parameter_of(name).missing == "sea") == reach]
            if names:
                values = self.weights(grid).apply(np.stack([fields[name] for name in names]), reach=reach)
                made |= dict(zip(names, values, strict=True))
        _on_the_circle(made)
        return {name: made[name] for name in fields}

    @property
    def provenance(self) -> dict[str, Any]:
        """Return grids, method and digests of the weights used."""
        return {
            "grid": self.target,
            "from": {grid: {"method": w.method, "sha256": w.digest} for grid, w in sorted(self.used.items())},
        }
