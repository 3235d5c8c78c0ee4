"""The model catalogue: what each model reads, makes and runs from."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any

from aifs_ensemble.common.errors import CheckpointError, ConfigError
from aifs_ensemble.common.parameter_rows import MISSING, WAVES
from aifs_ensemble.common.parameters import TABLE, accumulated, check_variables, delivered, find_variable
from aifs_ensemble.common.text import hint
from aifs_ensemble.common.yaml_tables import check_row, read_table

CATALOGUE = Path(__file__).parents[3] / "config" / "models.yaml"


# Beyond 32 nothing was measured.
_CHUNKS = (1, 2, 4, 8, 16, 32)


@dataclass(frozen=True)
class Model:
    """One catalogue entry.

    Variables carry the names used in the checkpoint: ``t_500`` for pressure levels, ``stl1`` for
    soil, the short name for the rest; ``z`` without a level is the surface geopotential. `own_pass_gpu_mb` is the GPU
    memory of a member that is not accelerated, MB of 1e6 bytes, 0 where that is not known; what ``forecast.chunks``
    divide, `chunked_gpu_mb`, comes on top of it.
    `environment` names the packages that lie over the common ones (`common.overlays`), empty where none do.
    `pressure` gives the levels (hPa) of each parameter. `missing` says where values of a variable may be missing,
    ``sea`` or ``land``; those that it does not name have a value everywhere.
    """

    name: str
    title: str
    untrained: bool
    grid: str
    timestep_hours: int
    grib_model: str
    surface: tuple[str, ...]
    snow: tuple[str, ...]
    soil: tuple[str, ...]
    waves: tuple[str, ...]
    pressure: Mapping[str, tuple[int, ...]]
    constant: tuple[str, ...]
    computed: tuple[str, ...]
    diagnostic: tuple[str, ...]
    accumulated: tuple[str, ...]
    missing: Mapping[str, str]
    checkpoint: Mapping[str, Any]
    anemoi_models: str
    grib_process: int = 255
    own_pass_gpu_mb: int = 0
    chunked_gpu_mb: int = 0
    environment: str = ""

    def own_pass_mb(self, chunks: int) -> float:
        """Return the GPU memory of a member that is not accelerated, MB of 1e6 bytes, 0 where that is not known."""
        return self.own_pass_gpu_mb + self.chunked_gpu_mb / chunks

    def chunks_within(self, mb: float) -> int | None:
        """Return the fewest chunks, of 1, 2, 4 to 32, with which a member that is not accelerated takes at most `mb`.

        None where none does, or where it is not known what chunks spare.
        """
        if not self.chunked_gpu_mb:
            return None
        return next((chunks for chunks in _CHUNKS if self.own_pass_mb(chunks) <= mb), None)

    @property
    def built(self) -> bool:
        """Whether the checkpoint is built by the workflow, which takes the software of the GPU machines."""
        return bool(self.checkpoint.get("build"))

    @property
    def pressure_variables(self) -> tuple[str, ...]:
        return tuple(f"{name}_{level}" for name, levels in self.pressure.items() for level in levels)

    @property
    def levels(self) -> tuple[int, ...]:
        """Pressure levels (hPa) that any parameter has, from the top down."""
        return tuple(sorted({level for levels in self.pressure.values() for level in levels}))

    @property
    def prognostic(self) -> tuple[str, ...]:
        """Variables read at both times and made by every step, sorted."""
        return tuple(sorted(self.surface + self.snow + self.soil + self.waves + self.pressure_variables))

    @property
    def inputs(self) -> tuple[str, ...]:
        """Variables of an initial state, sorted: prognostic and constant ones."""
        return tuple(sorted(self.prognostic + self.constant))

    @property
    def outputs(self) -> tuple[str, ...]:
        """Variables that the network makes for one lead, sorted: prognostic and diagnostic ones."""
        return tuple(sorted(self.prognostic + self.diagnostic))

    @property
    def delivered(self) -> tuple[str, ...]:
        """Fields of one lead as they are delivered, sorted: `outputs`, a direction in place of its cosine and sine."""
        return delivered(self.outputs)


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
_OPTIONAL = {"grib_process": int, "own_pass_gpu_mb": int, "chunked_gpu_mb": int, "environment": str}
_VARIABLES = {"prognostic": dict, "constant": list, "computed": list, "diagnostic": list}
_VARIABLES_OPTIONAL = {"missing": dict}
_PROGNOSTIC = {"surface": list, "soil": list, "pressure": dict}
_PROGNOSTIC_OPTIONAL = {"snow": list, "waves": list}
# the family in the table of parameters of what stands in a list of prognostic variables
_FAMILIES = {"surface": "surface", "snow": "surface", "soil": "soil", "waves": WAVES}
_CHECKPOINT = dict.fromkeys(("repository", "revision", "file", "url", "mirror", "sha256"), (str, type(None))) | {
    "build": dict,
    "globals": list,
    "size": (int, type(None)),
}


def _check(entry: Any, where: str, parameters: Path) -> None:
    """Raise ConfigError naming the first thing that is wrong with an entry of the catalogue."""
    check_row(entry, where, _KEYS, _OPTIONAL)
    variables, checkpoint = entry["variables"], entry["checkpoint"]
    check_row(variables, f"{where}: variables", _VARIABLES, _VARIABLES_OPTIONAL)
    check_row(variables["prognostic"], f"{where}: variables.prognostic", _PROGNOSTIC, _PROGNOSTIC_OPTIONAL)
    check_row(checkpoint, f"{where}: checkpoint", {}, _CHECKPOINT)
    if not any(checkpoint.get(key) for key in ("build", "repository", "url")):
        raise ConfigError(f"{where}: checkpoint needs one of build, repository, url")
    if checkpoint.get("repository") and not checkpoint.get("file"):
        raise ConfigError(f"{where}: checkpoint.file is missing, it names the file in {checkpoint['repository']}")
    sha256 = checkpoint.get("sha256")
    if sha256 and not re.fullmatch(r"[0-9a-f]{64}", sha256):
        raise ConfigError(f"{where}: checkpoint.sha256: {sha256!r}, expected 64 hexadecimal digits, lower case")
    _check_variables(variables, f"{where}: variables", parameters)


def _check_variables(variables: Mapping[str, Any], where: str, parameters: Path) -> None:
    read = variables["prognostic"]
    for name, levels in read["pressure"].items():
        if not (isinstance(levels, list) and levels and all(type(level) is int and level > 0 for level in levels)):
            raise ConfigError(f"{where}.prognostic.pressure.{name}: {levels!r}, expected levels in hPa")
    on_levels = [f"{name}_{level}" for name, levels in read["pressure"].items() for level in levels]
    lists = {group: read.get(group, []) for group in _FAMILIES}
    prognostic, diagnostic = [*chain.from_iterable(lists.values()), *on_levels], variables["diagnostic"]
    named = [*prognostic, *variables["constant"], *variables["computed"], *diagnostic]
    if twice := sorted({name for name in named if named.count(name) > 1}):
        raise ConfigError(f"{where}: {', '.join(twice)} named more than once")
    model = where.removesuffix(": variables")
    check_variables(model, [*prognostic, *variables["constant"]], prognostic + diagnostic, parameters)
    for group, names in lists.items():
        for name in names:
            if (family := find_variable(name, parameters)[0].family) != _FAMILIES[group]:
                raise ConfigError(f"{where}.prognostic.{group}: {name!r}, expected under {family}")
    if amounts := accumulated(prognostic, parameters):
        raise ConfigError(f"{where}: {', '.join(amounts)} accumulates, expected among the diagnostic ones")
    for name, place in variables.get("missing", {}).items():
        if name not in named:
            raise ConfigError(f"{where}.missing: {name!r} is no variable of the model, {hint(name, named)}")
        if place not in (*MISSING, None):
            raise ConfigError(f"{where}.missing.{name}: {place!r}, expected {', '.join(MISSING)} or null")


@lru_cache(maxsize=4)
def _read(path: Path, written: int) -> dict[str, Any]:
    """Return the catalogue as `written` (ns): another program may write it anew while this one runs."""
    return read_table(path, "a catalogue of models")


def get_model(name: str, path: Path = CATALOGUE, parameters: Path = TABLE) -> Model:
    """Return a catalogue entry, each of whose variables has its row in the table of parameters.

    Raises ConfigError naming the nearest entry when there is none, or what is wrong with it.
    """
    models = _read(path, path.stat().st_mtime_ns)["models"]
    if name not in models:
        raise ConfigError(f"model: {name!r} is not in {path.name}, {hint(name, models)}")
    entry, where = models[name], f"{path.name}: {name}"
    _check(entry, where, parameters)
    variables = entry["variables"]
    read = variables["prognostic"]
    model = Model(
        name=name,
        title=entry["title"],
        untrained=entry["untrained"],
        grid=entry["grid"],
        timestep_hours=entry["timestep_hours"],
        grib_model=entry["grib_model"],
        surface=tuple(read["surface"]),
        snow=tuple(read.get("snow", ())),
        soil=tuple(read["soil"]),
        waves=tuple(read.get("waves", ())),
        pressure={name: tuple(levels) for name, levels in read["pressure"].items()},
        constant=tuple(variables["constant"]),
        computed=tuple(variables["computed"]),
        diagnostic=tuple(variables["diagnostic"]),
        accumulated=accumulated(variables["diagnostic"], parameters),
        missing={},
        checkpoint=entry["checkpoint"],
        anemoi_models=entry["anemoi_models"],
        grib_process=entry.get("grib_process", 255),
        own_pass_gpu_mb=entry.get("own_pass_gpu_mb", 0),
        chunked_gpu_mb=entry.get("chunked_gpu_mb", 0),
        environment=entry.get("environment", ""),
    )
    fields = dict.fromkeys([*model.inputs, *model.outputs, *delivered(model.outputs, parameters)])
    places = {name: find_variable(name, parameters)[0].missing for name in fields} | variables.get("missing", {})
    return replace(model, missing={name: place for name, place in places.items() if place})


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
