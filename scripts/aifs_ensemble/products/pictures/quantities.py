"""What maps and meteograms show: variables of the model and what follows from several, in units that people use."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from aifs_ensemble.common.parameter_rows import MapStyle
from aifs_ensemble.common.parameters import find_variable
from aifs_ensemble.common.wind_speed import NEAR_SURFACE, sources
from aifs_ensemble.products.wording import Units, shown_units

Array = npt.NDArray[np.float32]
_WIND_LEVELS = (2, 4, 6, 8, 10, 12, 15, 18, 21, 25, 30, 35)
_WIND_SPREAD = (0.25, 0.5, 0.75, 1, 1.5, 2, 3, 4, 5, 6)


@dataclass(frozen=True)
class Quantity:
    """A field that is shown.

    Attributes
    ----------
    name : in names of files
    sources : variables of the model that it is made of
    combine : makes it of their values, in GRIB's units
    thresholds : of probabilities, in GRIB's units
    accumulates : whether it is an amount over a period
    """

    name: str
    sources: tuple[str, ...]
    combine: Callable[..., Array]
    units: Units
    style: MapStyle
    colors: str
    thresholds: tuple[float, ...]
    accumulates: bool

    def of(self, fields: Mapping[str, Array]) -> Array:
        """Return it, in GRIB's units, of the fields of its sources."""
        return self.combine(*(fields[name] for name in self.sources))


def _as_it_is(field: Array) -> Array:
    return field


def _speed(name: str) -> Quantity:
    style = MapStyle(f"{name.removesuffix('si')} m wind speed", "wind", _WIND_LEVELS, _WIND_SPREAD, 5)
    units = shown_units("m s-1")
    return Quantity(name, sources(name), np.hypot, units, style, "sequential", (10.0, 15.0), accumulates=False)


def quantity_of(variable: str) -> Quantity:
    """Return what a variable of the model, or a name such as ``10si`` (wind speed), shows; ConfigError for others."""
    if variable in NEAR_SURFACE:
        return _speed(variable)
    parameter, level = find_variable(variable)
    style = parameter.map
    if parameter.levtype == "pl":
        style = MapStyle(f"{style.title} at {level} hPa", style.palette, style.levels, style.spread, style.lines)
    elif parameter.levtype == "sol":
        style = MapStyle(f"{style.title}, layer {level}", style.palette, style.levels, style.spread, style.lines)
    return Quantity(
        variable,
        (variable,),
        _as_it_is,
        shown_units(parameter.cf_units),
        style,
        parameter.colors,
        parameter.thresholds,
        parameter.accumulates,
    )
