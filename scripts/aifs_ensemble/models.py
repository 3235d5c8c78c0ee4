"""The model catalogue: what each model reads, makes and runs from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from aifs_ensemble.errors import ConfigError

CATALOGUE = Path(__file__).parents[2] / "config" / "models.yaml"


@dataclass(frozen=True)
class Model:
    """One catalogue entry.

    Variables carry the names used in the checkpoint: ``t_500`` for pressure levels, ``stl1`` for
    soil, the short name for the rest; ``z`` without a level is the surface geopotential.
    """

    name: str
    title: str
    untrained: bool
    grid: str
    timestep_hours: int
    grib_model: str
    surface: tuple[str, ...]
    soil: tuple[str, ...]
    pressure: tuple[str, ...]
    levels: tuple[int, ...]
    constant: tuple[str, ...]
    computed: tuple[str, ...]
    diagnostic: tuple[str, ...]
    accumulated: tuple[str, ...]
    checkpoint: Mapping[str, Any]
    anemoi_models: str
    grib_process: int = 255

    @property
    def pressure_variables(self) -> tuple[str, ...]:
        return tuple(f"{param}_{level}" for param in self.pressure for level in self.levels)

    @property
    def prognostic(self) -> tuple[str, ...]:
        """Variables read at both times and made by every step, sorted."""
        return tuple(sorted(self.surface + self.soil + self.pressure_variables))

    @property
    def inputs(self) -> tuple[str, ...]:
        """Variables of an initial state, sorted: prognostic and constant ones."""
        return tuple(sorted(self.prognostic + self.constant))

    @property
    def outputs(self) -> tuple[str, ...]:
        """Variables of one lead, sorted: prognostic and diagnostic ones."""
        return tuple(sorted(self.prognostic + self.diagnostic))


@cache
def _read(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text())


def model_names(path: Path = CATALOGUE) -> tuple[str, ...]:
    """Return the names in the catalogue."""
    return tuple(_read(path)["models"])


def get_model(name: str, path: Path = CATALOGUE) -> Model:
    """Return a catalogue entry; ConfigError naming the nearest entry when there is none."""
    models = _read(path)["models"]
    if name not in models:
        near = get_close_matches(name, models, n=1)
        hint = f", did you mean {near[0]!r}?" if near else f", known are {', '.join(models)}"
        raise ConfigError(f"model: {name!r} is not in {path.name}{hint}")
    entry = models[name]
    variables = entry["variables"]
    read = variables["prognostic"]
    return Model(
        name=name,
        title=entry["title"],
        untrained=entry["untrained"],
        grid=entry["grid"],
        timestep_hours=entry["timestep_hours"],
        grib_model=entry["grib_model"],
        surface=tuple(read["surface"]),
        soil=tuple(read["soil"]),
        pressure=tuple(read["pressure"]),
        levels=tuple(variables["levels"]),
        constant=tuple(variables["constant"]),
        computed=tuple(variables["computed"]),
        diagnostic=tuple(variables["diagnostic"]),
        accumulated=tuple(variables["accumulated"]),
        checkpoint=entry["checkpoint"],
        anemoi_models=entry["anemoi_models"],
        grib_process=entry.get("grib_process", 255),
    )
