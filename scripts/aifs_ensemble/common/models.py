"""The model catalogue: what each model reads, makes and runs from."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from aifs_ensemble.common.errors import CheckpointError, ConfigError
from aifs_ensemble.common.text import hint
from aifs_ensemble.common.yaml_tables import check_keys

CATALOGUE = Path(__file__).parents[3] / "config" / "models.yaml"


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
    def built(self) -> bool:
        """Whether the checkpoint is built by the workflow, which takes the software of the GPU machines."""
        return bool(self.checkpoint.get("build"))

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


_KEYS = {
    "title": str,
    "untrained": bool,
    "grid": str,
    "timestep_hours": int,
    "grib_model": str,
    "variables": dict,
    "checkpoint": dict,
    "anemoi_models": str,
}
_OPTIONAL = {"grib_process": int}
_VARIABLES = {
    "prognostic": dict,
    "levels": list,
    "constant": list,
    "computed": list,
    "diagnostic": list,
    "accumulated": list,
}
_PROGNOSTIC = {"surface": list, "soil": list, "pressure": list}
_CHECKPOINT = dict.fromkeys(("repository", "revision", "file", "url", "sha256"), (str, type(None))) | {
    "build": dict,
    "globals": list,
    "size": (int, type(None)),
}


def _check_keys(part: Any, where: str, needed: Mapping[str, Any], optional: Mapping[str, Any]) -> None:
    check_keys(part, where, needed, optional)
    known = {**needed, **optional}
    for key, value in part.items():
        if not isinstance(value, known[key]):
            kinds = known[key] if isinstance(known[key], tuple) else (known[key],)
            expected = " or ".join("null" if kind is type(None) else kind.__name__ for kind in kinds)
            raise ConfigError(f"{where}: {key}: {value!r}, expected {expected}")


def _check(entry: Any, where: str) -> None:
    """Raise ConfigError naming the first thing that is wrong with an entry of the catalogue."""
    _check_keys(entry, where, _KEYS, _OPTIONAL)
    variables, checkpoint = entry["variables"], entry["checkpoint"]
    _check_keys(variables, f"{where}: variables", _VARIABLES, {})
    _check_keys(variables["prognostic"], f"{where}: variables.prognostic", _PROGNOSTIC, {})
    _check_keys(checkpoint, f"{where}: checkpoint", {}, _CHECKPOINT)
    if not any(checkpoint.get(key) for key in ("build", "repository", "url")):
        raise ConfigError(f"{where}: checkpoint needs one of build, repository, url")
    if checkpoint.get("repository") and not checkpoint.get("file"):
        raise ConfigError(f"{where}: checkpoint.file is missing, it names the file in {checkpoint['repository']}")
    sha256 = checkpoint.get("sha256")
    if sha256 and not re.fullmatch(r"[0-9a-f]{64}", sha256):
        raise ConfigError(f"{where}: checkpoint.sha256: {sha256!r}, expected 64 hexadecimal digits, lower case")
    read = variables["prognostic"]
    single = [*read["surface"], *read["soil"]]
    levels = [f"{param}_{level}" for param in read["pressure"] for level in variables["levels"]]
    named = [*single, *levels, *variables["constant"], *variables["computed"], *variables["diagnostic"]]
    if twice := sorted({name for name in named if named.count(name) > 1}):
        raise ConfigError(f"{where}: variables: {', '.join(twice)} named more than once")
    if other := sorted(set(variables["accumulated"]) - set(variables["diagnostic"])):
        raise ConfigError(f"{where}: variables.accumulated: {', '.join(other)} not among the diagnostic ones")


@lru_cache(maxsize=4)
def _read(path: Path, written: int) -> dict[str, Any]:
    """Return the catalogue as `written` (ns): another program may write it anew while this one runs."""
    return yaml.safe_load(path.read_text())


def get_model(name: str, path: Path = CATALOGUE) -> Model:
    """Return a catalogue entry; ConfigError naming the nearest entry when there is none."""
    models = _read(path, path.stat().st_mtime_ns)["models"]
    if name not in models:
        raise ConfigError(f"model: {name!r} is not in {path.name}, {hint(name, models)}")
    entry = models[name]
    _check(entry, f"{path.name}: {name}")
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


def fetched_by_coordinator(model: Model, provider: str) -> bool:
    """Return whether the coordinator fetches the checkpoint: for Google Batch, where no token can be sent unseen."""
    return provider == "googlebatch" and not model.built


def check_listed(model: Model, *, trust: bool) -> None:
    """Raise CheckpointError when a machine would refuse the model's checkpoint because the catalogue has no digest."""
    if not trust and not any(model.checkpoint.get(key) for key in ("build", "sha256")):
        raise CheckpointError(
            f"model: models.yaml lists no sha256 for {model.name}: run `aifs-ensemble checkpoint fetch {model.name}`, "
            f"then `aifs-ensemble checkpoint register {model.name} PATH`, or set trust_checkpoint"
        )
