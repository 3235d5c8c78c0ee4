"""The balanced jet of Jablonowski and Williamson (2006) as initial conditions: no network, no files.

Zonal wind, temperature, geopotential and surface geopotential are the analytic steady state, with the
wave-triggering perturbation, from Jablonowski and Williamson, Q. J. R. Meteorol. Soc. 132 (2006),
2943-2975, equations 2 to 10, on pressure levels (surface pressure is 1000 hPa, so eta = p / 1000 hPa).
Humidity follows the moist version of the DCMIP 2012 test case 4-2, kept below saturation, with temperature
so that virtual temperature is the paper's. The rest (land, diurnal cycle, vertical motion) is made up to be
plausible. Members differ by a sum of smooth waves that is geostrophic, hydrostatic and seeded; the control has none.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import numpy.typing as npt

from aifs_ensemble.common.config import Config
from aifs_ensemble.common.config.sections import Idealised
from aifs_ensemble.common.names import CONTROL
from aifs_ensemble.fields.grids import Grid, grid_coordinates
from aifs_ensemble.initial import derive
from aifs_ensemble.initial.constants import GRAVITY, VAPOUR_RATIO, VIRTUAL
from aifs_ensemble.initial.idealised_land_and_sea import land_and_sea_fields
from aifs_ensemble.initial.source import Inputs, input_times

Field = npt.NDArray[np.floating[Any]]

# Constants of the paper
_RADIUS, _OMEGA, _GAS, _G = 6.371229e6, 7.29212e-5, 287.0, 9.80616
_U0, _ETA0, _ETA_TROPOPAUSE, _P0 = 35.0, 0.252, 0.2, 1e5
_T0, _LAPSE, _DELTA_T = 288.0, 0.005, 4.8e5
_CENTRE = np.deg2rad(20.0), np.deg2rad(40.0)
# Moisture of DCMIP 2012, test 4-2
_Q0, _Q_WIDTH, _Q_DEPTH = 0.021, 2 * np.pi / 9, 34000.0
# Members
_MODES, _WIND, _SPEED, _VERTICAL_WIND = 12, 3.0, 10.0, 0.1


@dataclass(frozen=True)
class _Sphere:
    """Coordinates in radians and what the formulas use again and again."""

    latitude: Field
    longitude: Field

    @property
    def shapes(self) -> tuple[Field, Field]:
        """The two meridional shapes of the paper's temperature and geopotential."""
        sin, cos = np.sin(self.latitude), np.cos(self.latitude)
        first = -2 * sin**6 * (cos**2 + 1 / 3) + 10 / 63
        second = (8 / 5 * cos**3 * (sin**2 + 2 / 3) - np.pi / 4) * _RADIUS * _OMEGA
        return first, second


def _eta_v(eta: float) -> float:
    return (eta - _ETA0) * np.pi / 2


def _wind(sphere: _Sphere, eta: float) -> Field:
    steady = _U0 * np.cos(_eta_v(eta)) ** 1.5 * np.sin(2 * sphere.latitude) ** 2
    angle = np.sin(_CENTRE[1]) * np.sin(sphere.latitude)
    angle += np.cos(_CENTRE[1]) * np.cos(sphere.latitude) * np.cos(sphere.longitude - _CENTRE[0])
    distance = np.arccos(np.clip(angle, -1, 1))  # in Earth radii; the perturbation's is a tenth
    return steady + np.exp(-((distance * 10) ** 2))


def _virtual_temperature(sphere: _Sphere, eta: float) -> Field:
    mean = _T0 * eta ** (_GAS * _LAPSE / _G)
    if eta < _ETA_TROPOPAUSE:
        mean += _DELTA_T * (_ETA_TROPOPAUSE - eta) ** 5
    cosine, sine = np.cos(_eta_v(eta)), np.sin(_eta_v(eta))
    first, second = sphere.shapes
    factor = 0.75 * eta * np.pi * _U0 / _GAS * sine * np.sqrt(cosine)
    return mean + factor * (first * 2 * _U0 * cosine**1.5 + second)


def _geopotential(sphere: _Sphere, eta: float) -> Field:
    mean = _T0 * _G / _LAPSE * (1 - eta ** (_GAS * _LAPSE / _G))
    if eta < _ETA_TROPOPAUSE:
        top = _ETA_TROPOPAUSE
        series = 5 * top**4 * eta - 5 * top**3 * eta**2 + 10 / 3 * top**2 * eta**3 - 5 / 4 * top * eta**4 + eta**5 / 5
        mean -= _GAS * _DELTA_T * ((np.log(eta / top) + 137 / 60) * top**5 - series)
    first, second = sphere.shapes
    jet = _U0 * np.cos(_eta_v(eta)) ** 1.5
    return mean + jet * (first * jet + second)


@dataclass(frozen=True)
class _Waves:
    """A member's perturbation: a stream function of `_MODES` travelling waves (m2 s-1), and its derivatives."""

    stream: Field
    eastward: Field  # m s-1, from the stream function
    northward: Field


def _seed(seed: int, cycle: str, member: int) -> np.random.Generator:
    digest = hashlib.sha256(f"idealised/{seed}/{cycle}/{member}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "big"))


def _waves(sphere: _Sphere, random: np.random.Generator, hours: float, amplitude: float) -> _Waves:
    stream, east, north = (np.zeros_like(sphere.latitude) for _ in range(3))
    cosine = np.maximum(np.cos(sphere.latitude), 1e-6)
    for _ in range(_MODES):
        number = int(random.integers(3, 10))
        centre = np.deg2rad(random.uniform(-65, 65))
        width = np.deg2rad(random.uniform(8, 16))
        phase = random.uniform(0, 2 * np.pi)
        strength = random.normal() * _WIND * amplitude * _RADIUS / 6 / np.sqrt(_MODES / 4)
        angular_speed = _SPEED / (_RADIUS * np.cos(centre))
        argument = number * (sphere.longitude - angular_speed * hours * 3600) + phase
        # the factor cos(latitude)**2 keeps the wind regular at the poles
        envelope = strength * np.exp(-(((sphere.latitude - centre) / width) ** 2)) * cosine**2
        slope = envelope * (-2 * (sphere.latitude - centre) / width**2 - 2 * np.tan(sphere.latitude))
        stream += envelope * np.cos(argument)
        east -= slope * np.cos(argument) / _RADIUS
        north -= envelope * number * np.sin(argument) / (_RADIUS * cosine)
    return _Waves(stream, east, north)


def _vertical(eta: float) -> tuple[float, float]:
    """Return the perturbation's amplitude at `eta`, largest at 300 hPa, and its derivative by ln(eta)."""
    x = (np.log(eta) - np.log(0.3)) / 1.2
    value = np.exp(-(x**2))
    return float(value), float(-2 * x / 1.2 * value)


def _temperature_and_humidity(sphere: _Sphere, waves: _Waves, eta: float) -> tuple[Field, Field]:
    """Return t (K) and q (kg kg-1), the member's perturbation included.

    Temperature follows the perturbed geopotential hydrostatically; air moving poleward is moister.
    """
    coriolis = 2 * _OMEGA * np.sin(sphere.latitude)
    virtual = _virtual_temperature(sphere, eta) - coriolis * waves.stream * _vertical(eta)[1] / _GAS
    shape = np.exp(-((sphere.latitude / _Q_WIDTH) ** 4)) * np.exp(-(((eta - 1) * _P0 / _Q_DEPTH) ** 2))
    moister = 1 + 0.2 * np.tanh(waves.northward * np.sign(sphere.latitude) / (2 * _WIND))
    saturated = VAPOUR_RATIO * derive.saturation_pressure(np.maximum(virtual, 180.0)) / (eta * _P0)
    humidity = np.maximum(np.minimum(_Q0 * shape * moister, 0.85 * saturated), 2e-6)
    return virtual / (1 + VIRTUAL * humidity), humidity


def _levels(sphere: _Sphere, waves: _Waves, levels: tuple[int, ...]) -> dict[str, Field]:
    """Return q t u v w z on `levels` (hPa)."""
    coriolis = 2 * _OMEGA * np.sin(sphere.latitude)
    fields: dict[str, Field] = {}
    for level in levels:
        eta = level / 1000
        share, _ = _vertical(eta)
        fields[f"t_{level}"], fields[f"q_{level}"] = _temperature_and_humidity(sphere, waves, eta)
        fields[f"u_{level}"] = _wind(sphere, eta) + share * waves.eastward
        fields[f"v_{level}"] = share * waves.northward
        fields[f"w_{level}"] = -_VERTICAL_WIND * np.sin(0.95 * np.pi * eta) * waves.northward / _WIND
        fields[f"z_{level}"] = _geopotential(sphere, eta) + coriolis * waves.stream * share
    return fields


def _land(sphere: _Sphere) -> dict[str, Field]:
    """Return the constant fields: the paper's orography, and land where it stands above the sea."""
    surface = _geopotential(sphere, 1.0)
    step = 1e-4
    north = _Sphere(sphere.latitude + step, sphere.longitude)
    gradient = np.abs(_geopotential(north, 1.0) - surface) / (step * _RADIUS * GRAVITY)
    return {
        "z": surface,
        "lsm": np.clip(0.5 + surface / 1000, 0, 1),
        "slor": 1e-4 + gradient,
        "sdor": 0.1 * np.maximum(surface, 0) / GRAVITY,
    }


def _surface(sphere: _Sphere, waves: _Waves, time: datetime, levels: dict[str, Field]) -> dict[str, Field]:
    land = _land(sphere)
    coriolis = 2 * _OMEGA * np.sin(sphere.latitude)
    bottom = _Waves(*(_vertical(1.0)[0] * part for part in (waves.stream, waves.eastward, waves.northward)))
    air, humidity = _temperature_and_humidity(sphere, waves, 1.0)
    hour = time.hour + np.rad2deg(sphere.longitude) / 15
    diurnal = 4 * land["lsm"] * np.cos(sphere.latitude) * np.cos((hour - 14) * np.pi / 12)
    pressure = _P0 * np.exp(coriolis * bottom.stream / (_GAS * derive.virtual_temperature(air, humidity)))
    fields = {
        "sp": pressure,
        "msl": pressure * derive.sea_level_factor(land["z"], air),
        "2t": air + 0.5 * diurnal,
        "skt": air + diurnal,
        "stl1": air + 0.3 * diurnal,
        "stl2": air,
        "10u": 0.75 * (_wind(sphere, 1.0) + bottom.eastward),
        "10v": 0.75 * bottom.northward,
        "tcw": _column_water(levels),
    }
    fields["2d"] = derive.dew_point_from_humidity(humidity, pressure, fields["2t"] - 0.5)
    return fields | land


def _column_water(levels: dict[str, Field]) -> Field:
    """Return the column's water (kg m-2): humidity integrated over pressure, and 2 % cloud."""
    heights = sorted(int(name[2:]) for name in levels if name.startswith("q_"))
    profile = np.stack([levels[f"q_{level}"] for level in heights])
    return np.asarray(1.02 * np.trapezoid(profile, np.array(heights) * 100.0, axis=0) / GRAVITY)


def idealised_fields(
    grid: Grid,
    levels: tuple[int, ...],
    time: datetime,
    *,
    cycle_time: datetime,
    member: int,
    settings: Idealised,
    land_and_sea: bool = False,
) -> dict[str, Field]:
    """Return every input variable of AIFS ENS v1 at `time`, float64 ``(value,)`` each, in the model's units.

    Parameters
    ----------
    levels : pressure levels, hPa
    settings : ``seed`` and ``amplitude`` of the members' perturbations
    land_and_sea : whether to return those that v2 has besides: snow, soil water and waves, NaN where they are missing
    """
    sphere = _Sphere(np.deg2rad(grid.latitudes), np.deg2rad(grid.longitudes))
    random = _seed(settings.seed, f"{cycle_time:%Y%m%d%H}", member)
    hours = (time - cycle_time).total_seconds() / 3600
    waves = _waves(sphere, random, hours, 0.0 if member == CONTROL else settings.amplitude)
    upper = _levels(sphere, waves, levels)
    fields = upper | _surface(sphere, waves, time, upper)
    return fields | land_and_sea_fields(sphere.latitude, fields) if land_and_sea else fields


@dataclass(frozen=True)
class IdealisedSource:
    """The idealised initial conditions, on the model's own grid."""

    config: Config

    def prepare(self) -> dict[str, Any]:
        """Return a record of the source; members share nothing."""
        return {"source": self._record()}

    def read(self, member: int) -> Inputs:
        """Return one member's fields, all variables at both times."""
        config = self.config
        settings = config.initial_conditions.idealised
        grid, levels = grid_coordinates(config.model.grid), config.model.levels
        fields = {}
        for time in input_times(config):
            at_time = idealised_fields(
                grid,
                levels,
                time,
                cycle_time=config.cycle_time,
                member=member,
                settings=settings,
                land_and_sea=bool(config.model.snow or config.model.waves),
            )
            fields[time] = {name: values.astype(np.float32) for name, values in at_time.items()}
        return Inputs(fields, {"source": self._record()})

    def _record(self) -> dict[str, Any]:
        return {
            "kind": "idealised",
            "case": "Jablonowski and Williamson (2006), moist, seeded perturbations",
            **self.config.initial_conditions.idealised.model_dump(),
        }
