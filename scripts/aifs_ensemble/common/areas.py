"""Areas of the Earth, by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import nan, radians, sin

from aifs_ensemble.common.errors import ConfigError
from aifs_ensemble.common.text import hint


@dataclass(frozen=True)
class Area:
    """A part of the Earth; degrees east and north, `west` below `east`."""

    name: str
    title: str
    west: float
    east: float
    south: float
    north: float

    @property
    def box(self) -> Box:
        """North, west, south and east in degrees."""
        return float(self.north), float(self.west), float(self.south), float(self.east)

    @property
    def is_globe(self) -> bool:
        """Whether it is drawn whole, in a projection of the globe."""
        return self.east - self.west >= 359 and self.north - self.south >= 179


Box = tuple[float, float, float, float]  # north, west, south, east in degrees
PRESETS = {
    area.name: area
    for area in (
        Area("globe", "Globe", -180, 180, -90, 90),
        Area("east-africa", "East Africa", 21, 53, -12, 19),
        Area("africa", "Africa", -20, 55, -36, 38),
        Area("europe", "Europe", -25, 45, 33, 72),
        Area("south-asia", "South Asia", 60, 100, 3, 40),
    )
}


def shares(box: Box) -> tuple[float, float]:
    """Return the shares of the Earth's surface that an area has, and that all longitudes of its latitudes have."""
    north, west, south, east = box
    rows = (sin(radians(north)) - sin(radians(south))) / 2
    return rows * (east - west) / 360, rows


def areas_named(names: Sequence[str], own: Mapping[str, Sequence[float]], where: str) -> list[Area]:
    """Return areas by name, from the presets and the user's `own` boxes ``[north, west, south, east]``.

    Raises ConfigError, naming the key below `where`, for a name that is not known and for a box that is none.
    """
    known = dict(PRESETS)
    for name, box in own.items():
        known[name] = own_area(name, box, f"{where}.own_areas.{name}")
    return [_known(name, known, f"{where}.areas") for name in names]


def own_area(name: str, box: Sequence[float], key: str) -> Area:
    """Return the area of a box ``[north, west, south, east]``; ConfigError, naming the key, for one that is none."""
    north, west, south, east = box if len(box) == 4 else (nan,) * 4
    across = f"; across the date line east is {east + 360:g}" if -180 <= east < 0 < west <= 180 else ""
    if not (-360 <= west < east <= min(west + 360, 540) and -90 <= south < north <= 90):
        raise ConfigError(
            f"config: {key}: {list(box)}, expected [north, west, south, east] in degrees, "
            f"west below east and south below north{across}"
        )
    return Area(name, name.replace("-", " ").capitalize(), west, east, south, north)


def _known(name: str, known: Mapping[str, Area], key: str) -> Area:
    if name not in known:
        meant = hint(name, known, f"known are {', '.join(known)}")
        raise ConfigError(f"config: {key}: {name!r}, expected an area, {meant}")
    return known[name]


def one_area(area: str | Sequence[float], key: str) -> Area:
    """Return a preset by its name, or the area of a box; ConfigError, naming the key, for what is neither."""
    return _known(area, PRESETS, key) if isinstance(area, str) else own_area("area", area, key)
