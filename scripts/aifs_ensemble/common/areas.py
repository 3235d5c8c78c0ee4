"""Areas of maps, by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

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
    def is_globe(self) -> bool:
        """Whether it is drawn whole, in a projection of the globe."""
        return self.east - self.west >= 359 and self.north - self.south >= 179


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


def areas_named(names: Sequence[str], own: Mapping[str, Sequence[float]], where: str) -> list[Area]:
    """Return areas by name, from the presets and the user's `own` boxes ``[north, west, south, east]``.

    Raises ConfigError, naming the key below `where`, for a name that is not known and for a box that is none.
    """
    known = dict(PRESETS)
    for name, box in own.items():
        north, west, south, east = box
        if not (-360 <= west < east <= min(west + 360, 540) and -90 <= south < north <= 90):
            raise ConfigError(
                f"config: {where}.own_areas.{name}: {list(box)}, expected [north, west, south, east] in degrees, "
                "west below east and south below north"
            )
        known[name] = Area(name, name.replace("-", " ").capitalize(), west, east, south, north)
    for name in names:
        if name not in known:
            meant = hint(name, known, f"known are {', '.join(known)}")
            raise ConfigError(f"config: {where}.areas: {name!r}, expected an area, {meant}")
    return [known[name] for name in names]
