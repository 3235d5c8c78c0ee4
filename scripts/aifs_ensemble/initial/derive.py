"""Formulas that may fill a missing field, each by its own name, only where the configuration asks for it.

Nothing else is ever filled. What was derived, and how, goes into the state's provenance.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from aifs_ensemble.common.parameters import split_variable
from aifs_ensemble.initial.constants import GAS_CONSTANT, GRAVITY, VAPOUR_RATIO, VIRTUAL

LOG = logging.getLogger(__name__)

Field = npt.NDArray[np.floating[Any]]
_LAPSE = 0.0065  # K m-1


def sea_level_factor(surface_geopotential: Field, temperature: Field) -> Field:
    """Return mean sea level pressure over surface pressure (dimensionless).

    The hypsometric equation below ground as ECMWF applies it when it reduces pressure to sea level
    (ARPEGE/IFS FULL-POS, routine PPPMER): lapse rate 6.5 K/km, moderated over hot and very cold ground.

    Parameters
    ----------
    surface_geopotential : m2 s-2
    temperature : K, at the surface
    """
    z, t = np.asarray(surface_geopotential, float), np.asarray(temperature, float)
    height = z / GRAVITY
    sea_level = t + _LAPSE * height
    with np.errstate(divide="ignore", invalid="ignore"):
        moderated = np.where(np.abs(height) > 1e-3, (290.5 - t) / height, 0.0)
    lapse = np.where(sea_level > 290.5, np.where(t <= 290.5, moderated, 0.0), _LAPSE)
    t = np.where((sea_level > 290.5) & (t > 290.5), (290.5 + t) / 2, t)
    t = np.where(t < 255, (255 + t) / 2, t)
    x = lapse * height / t
    return np.exp(z / (GAS_CONSTANT * t) * (1 - x / 2 + x**2 / 3))


def surface_pressure(msl: Field, surface_geopotential: Field, temperature: Field) -> Field:
    """Return surface pressure (Pa) from mean sea level pressure, orography and 2 m temperature."""
    return msl / sea_level_factor(surface_geopotential, temperature)


def saturation_pressure(temperature: Field) -> Field:
    """Return saturation vapour pressure over water (Pa): Tetens with the coefficients of Buck (1981), as in the IFS."""
    return 611.21 * np.exp(17.502 * (temperature - 273.16) / (temperature - 32.19))


def dew_point(vapour_pressure: Field) -> Field:
    """Return dew point (K) from vapour pressure (Pa): the inverse of `saturation_pressure`."""
    ratio = np.log(np.maximum(vapour_pressure, 1e-3) / 611.21) / 17.502
    return (273.16 - 32.19 * ratio) / (1 - ratio)


def dew_point_from_humidity(humidity: Field, pressure: Field, temperature: Field) -> Field:
    """Return 2 m dew point (K) from specific humidity (kg kg-1) at `pressure` (Pa), at most the 2 m temperature."""
    return np.minimum(dew_point(humidity * pressure / (VAPOUR_RATIO + (1 - VAPOUR_RATIO) * humidity)), temperature)


def dew_point_from_relative(relative: Field, temperature: Field) -> Field:
    """Return 2 m dew point (K) from 2 m relative humidity (per cent, over water) and temperature."""
    return np.minimum(dew_point(relative / 100 * saturation_pressure(temperature)), temperature)


def virtual_temperature(temperature: Field, humidity: Field) -> Field:
    """Return virtual temperature (K) from temperature and specific humidity."""
    return temperature * (1 + VIRTUAL * humidity)


@dataclass(frozen=True)
class Recipe:
    """A way to derive a variable: what it needs, its formula in words, and its function of these fields."""

    needs: tuple[str, ...]
    formula: str
    function: Callable[..., Field]


def _geopotential(height: Field) -> Field:
    return GRAVITY * height


def recipes(variable: str) -> list[Recipe]:
    """Return the ways to derive `variable`, best first; none for most variables."""
    name, level = split_variable(variable)
    if variable == "sp":
        formula = "hypsometric from msl, z and 2t (FULL-POS PPPMER)"
        return [Recipe(("msl", "z", "2t"), formula, surface_pressure)]
    if variable == "2d":
        return [
            Recipe(("2r", "2t"), "dew point of relative humidity 2r and 2t (Buck over water)", dew_point_from_relative),
            Recipe(("q_1000", "sp", "2t"), "dew point of q_1000 at sp, at most 2t (Buck)", dew_point_from_humidity),
        ]
    if name == "z" and level:
        return [Recipe((f"gh_{level}",), f"{GRAVITY} gh_{level}", _geopotential)]
    if variable == "z":
        return [Recipe(("orog",), f"{GRAVITY} orog", _geopotential)]
    return []


def needed_for(variables: Collection[str], allowed: Collection[str]) -> set[str]:
    """Return the further variables worth reading so that `variables` could be derived."""
    named = [v for v in variables if split_variable(v)[0] in allowed]
    return {need for v in named for recipe in recipes(v) for need in recipe.needs}


def constant_sources(constants: Collection[str]) -> set[str]:
    """Return the variables that `constants` and what they could be derived from are: the same at all times."""
    return {*constants, *(need for name in constants for recipe in recipes(name) for need in recipe.needs)}


def derive_missing(
    fields: Mapping[str, Field], wanted: Collection[str], allowed: Collection[str]
) -> dict[str, tuple[Field, str]]:
    """Return the missing ones of `wanted` that `allowed` names and `fields` suffice for, with their formulas.

    `allowed` holds short names: ``sp``, ``2d``, ``z`` (on levels and at the surface).
    """
    derived: dict[str, tuple[Field, str]] = {}
    # sp goes first: the dew point may need it
    for variable in sorted((v for v in wanted if v not in fields), key=lambda v: (v == "2d", v == "sp", v)):
        if split_variable(variable)[0] not in allowed:
            continue
        have = {**fields, **{name: value for name, (value, _) in derived.items()}}
        for recipe in recipes(variable):
            if all(need in have for need in recipe.needs):
                derived[variable] = (recipe.function(*(have[need] for need in recipe.needs)), recipe.formula)
                LOG.info("derived %s: %s", variable, recipe.formula)
                break
    return derived
