"""Wind speed, which no model makes: how GRIB names it, and the components that it is made of."""

from __future__ import annotations

from dataclasses import dataclass

from aifs_ensemble.common.parameters import FieldName, split_variable

UNITS = "m s-1"
STANDARD_NAME = "wind_speed"
_HEIGHTS = {"10si": (207, "10"), "100si": (228249, "100")}
NEAR_SURFACE = tuple(_HEIGHTS)
_ON_PRESSURE_LEVELS = ("ws", 10)


@dataclass(frozen=True)
class WindSpeed:
    """A wind speed: ECMWF's number of it, its name in indexes, and the variables of the model it is made of."""

    param_id: int
    field: FieldName
    components: tuple[str, str]


def wind_speed(name: str) -> WindSpeed | None:
    """Return the wind speed that a name such as ``10si`` or ``ws_850`` stands for, None for another name."""
    if name in _HEIGHTS:
        param_id, height = _HEIGHTS[name]
        return WindSpeed(param_id, FieldName(name, "sfc"), (f"{height}u", f"{height}v"))
    short_name, level = split_variable(name)
    if level and short_name == _ON_PRESSURE_LEVELS[0]:
        return WindSpeed(_ON_PRESSURE_LEVELS[1], FieldName(short_name, "pl", level), (f"u_{level}", f"v_{level}"))
    return None


def sources(name: str) -> tuple[str, ...]:
    """Return the variables of the model that a variable of a product is made of."""
    speed = wind_speed(name)
    return speed.components if speed else (name,)
