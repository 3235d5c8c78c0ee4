"""Snow, soil water and waves that go with an idealised atmosphere: made up to be plausible, and missing where they are.

Snow lies away from the equator, the soil is wetter in the tropics and under moist air, and the sea has the waves of
the wind over it, fully developed (significant height 0.0246 U**2, the Sverdrup-Munk-Bretschneider limit), on a
swell of 1 m.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

Field = npt.NDArray[np.floating[Any]]

# height of the waves of a band of periods over that of all: their squares make about half of the whole
_BANDS = {"h1012": 0.5, "h1214": 0.35, "h1417": 0.3, "h1721": 0.2, "h2125": 0.1, "h2530": 0.03}
_SWELL, _CALM, _STORM = 1.0, 0.1, 25.0  # m; m s-1
_SNOW = np.deg2rad(25)  # latitude from which on snow lies: the idealised land ends at 50 degrees
_COAST = 0.5  # land-sea mask above which there are no waves


def land_and_sea_fields(latitude: Field, atmosphere: Mapping[str, Field]) -> dict[str, Field]:
    """Return what AIFS ENS v2 has and v1 has not, float64 ``(value,)``: snow and soil water, waves and bathymetry.

    Parameters
    ----------
    latitude : radians
    atmosphere : the idealised fields of v1 at the same time
    """
    land = atmosphere["lsm"]
    soil_and_snow = {
        "sd": 0.3 * np.clip(np.abs(latitude) / _SNOW - 1, 0, 1),
        "swvl1": _soil_water(latitude, atmosphere["tcw"]),
        "swvl2": 0.9 * _soil_water(latitude, atmosphere["tcw"]) + 0.02,
    }
    fields = {name: np.where(land > 0, values, np.nan) for name, values in soil_and_snow.items()}
    return fields | {name: np.where(land > _COAST, np.nan, values) for name, values in _waves(atmosphere).items()}


def _soil_water(latitude: Field, column: Field) -> Field:
    return np.clip(0.1 + 0.15 * np.cos(latitude) ** 2 + 0.003 * column, 0.05, 0.45)


def _waves(atmosphere: Mapping[str, Field]) -> dict[str, Field]:
    """Return waves everywhere: height, period, direction they come from (that of the wind), drag, depth of water."""
    eastward, northward = atmosphere["10u"], atmosphere["10v"]
    wind = np.hypot(eastward, northward)
    speed = np.clip(wind, _CALM, _STORM)
    height = np.hypot(_SWELL, 0.0246 * speed**2)
    calm = wind < _CALM  # there waves come from the west
    wind = np.maximum(wind, _CALM)
    bands = {name: share * height for name, share in _BANDS.items()}
    return bands | {
        "swh": height,
        "mwp": 6 + 0.3 * speed,
        "cos_mwd": np.where(calm, 0.0, -northward / wind),
        "sin_mwd": np.where(calm, -1.0, -eastward / wind),
        "cdww": 1e-3 * (0.8 + 0.065 * speed),
        "wmb": np.clip(-atmosphere["z"] / 5, 5, 999),
    }
