"""Weather in, GRIB out: a run from the small replica of open data, and figures that say whether it makes sense."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import eccodes
import numpy as np
import numpy.typing as npt
import xarray as xr
from aifs_ensemble.common.names import lead_file
from aifs_ensemble.fields.state import read_state

from workflow.project import CYCLE, Project

Values = npt.NDArray[np.floating]


def settings(url: str, members: str, hours: int) -> dict[str, object]:
    """Return the configuration of a run from a server of open data at `url`."""
    return {
        "members": members,
        "lead_hours": hours,
        "initial_conditions": {"source": "ecmwf-open-data", "ecmwf_open_data": {"sources": [url]}},
        "forecast": {"restart_hours": 6, "encoders": 1},
    }


def correlation(one: Values, other: Values) -> float:
    return float(np.corrcoef(one, other)[0, 1])


def t500_with_cfgrib(path: Path) -> xr.DataArray:
    """Return t at 500 hPa of one lead, as a user of cfgrib reads it."""
    reading = {"filter_by_keys": {"shortName": "t", "typeOfLevel": "isobaricInhPa", "level": 500}, "indexpath": ""}
    with xr.open_dataset(path, engine="cfgrib", backend_kwargs=reading) as dataset:
        return dataset["t"].load()


def t500_with_eccodes(path: Path, **wanted: int) -> Values:
    """Return the values of t at 500 hPa, of the message whose further keys are as wanted."""
    keys = {"shortName": "t", "level": 500, "typeOfLevel": "isobaricInhPa"} | wanted
    with path.open("rb") as file:
        while (handle := eccodes.codes_grib_new_from_file(file)) is not None:
            try:
                if all(eccodes.codes_get(handle, key, type(value)) == value for key, value in keys.items()):
                    return eccodes.codes_get_values(handle)
            finally:
                eccodes.codes_release(handle)
    raise AssertionError(f"{path}: no message with {keys}")


@dataclass(frozen=True)
class Field:
    """t at 500 hPa of one member in K, ``(value,)``: the input at T and the forecast of 6 hours."""

    member: int
    before: Values
    after: Values

    def figures(self) -> dict[str, float]:
        return {
            "member": self.member,
            "minimum": float(self.after.min()),
            "mean": float(self.after.mean()),
            "maximum": float(self.after.max()),
            "change": float(np.sqrt(np.mean((self.after - self.before) ** 2))),
            "correlation": correlation(self.before, self.after),
        }


def t500(project: Project, member: int) -> Field:
    """Return t500 of a member, input and step 6."""
    state = read_state(project.scratch / "initial" / f"member{member:03d}.safetensors")
    lead = project.results / "forecasts" / lead_file(CYCLE, member, 6)
    return Field(member, state.variable("t_500")[-1], t500_with_eccodes(lead))


def requests_by_kind(log: list[tuple[str, str | None]]) -> dict[str, dict[tuple[str, str | None], int]]:
    """Return how often each index, each range of the constants and each range of members was asked for."""
    counted: dict[str, dict[tuple[str, str | None], int]] = {"index": {}, "constants": {}, "members": {}}
    for path, asked in log:
        kind = "index" if path.endswith(".index") else "constants" if "-oper-fc" in path else "members"
        counted[kind][path, asked] = counted[kind].get((path, asked), 0) + 1
    return counted


def manifest(project: Project) -> Mapping[str, object]:
    """Return the ensemble's manifest at the destination."""
    content: Mapping[str, object] = json.loads((project.results / "manifest.json").read_text())
    return content
