"""What fields mean: parameters of sources and variables of models, units, constants of nature."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from aifs_ensemble.common.models import Model

GRAVITY = 9.80665  # m s-2, standard gravity: converts geopotential height (gpm) to geopotential
GAS_CONSTANT = 287.0597  # J kg-1 K-1, dry air, as in the IFS (documentation, part IV)
VAPOUR_RATIO = 0.621981  # gas constant of dry air over that of water vapour, as in the IFS
VIRTUAL = 1 / VAPOUR_RATIO - 1  # virtual temperature = t (1 + VIRTUAL q)

_UNITS = {
    **dict.fromkeys(("10u", "10v", "u", "v"), "m s-1"),
    **dict.fromkeys(("2d", "2t", "skt", "t", "stl1", "stl2", "sot"), "K"),
    **dict.fromkeys(("msl", "sp"), "Pa"),
    **dict.fromkeys(("lsm", "slor"), "1"),
    "gh": "gpm",
    "q": "kg kg-1",
    "sdor": "m",
    "tcw": "kg m-2",
    "w": "Pa s-1",
    "z": "m2 s-2",
}


@dataclass(frozen=True, order=True)
class Parameter:
    """A parameter as sources name it: short name, level type (sfc, sol or pl), level (0 at the surface)."""

    name: str
    levtype: str
    level: int = 0

    def __str__(self) -> str:
        return f"{self.name} {self.level}" if self.level else self.name


def split_variable(variable: str) -> tuple[str, int]:
    """Return the short name and pressure level of a model variable: ``t_500`` gives ("t", 500), ``2t`` ("2t", 0)."""
    name, _, level = variable.partition("_")
    return name, int(level or 0)


def units(variable: str) -> str:
    """Return the units of a model variable, e.g. ``m2 s-2`` for ``z_500``."""
    return _UNITS[split_variable(variable)[0]]


def variable_name(parameter: Parameter) -> str:
    """Return the model variable that a parameter is, before any conversion.

    Soil temperature is ``sot`` on soil level 1 or 2 in open data, ``stl1`` and ``stl2`` in older GRIB.
    """
    if parameter.levtype == "pl":
        return f"{parameter.name}_{parameter.level}"
    if parameter.name == "sot":
        return f"stl{parameter.level}"
    return parameter.name


def parameter_of(variable: str) -> Parameter:
    """Return the open-data parameter behind a model variable; geopotential on levels comes as height."""
    name, level = split_variable(variable)
    if level:
        return Parameter("gh" if name == "z" else name, "pl", level)
    if name.startswith("stl"):
        return Parameter("sot", "sol", int(name[3:]))
    return Parameter(name, "sfc")


def by_level_type(variables: Iterable[str]) -> dict[str, list[Parameter]]:
    """Return the open-data parameters of `variables`, sorted, by level type: one request each."""
    groups: dict[str, list[Parameter]] = {}
    for parameter in sorted(map(parameter_of, variables)):
        groups.setdefault(parameter.levtype, []).append(parameter)
    return groups


def constant_variables(model: Model) -> tuple[str, ...]:
    """Return the variables that do not change with time, sorted."""
    return tuple(sorted(model.constant))
