"""Levels and colours of maps: the same for every lead and member, so that pictures can be compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.colors import LinearSegmentedColormap, to_rgb
from matplotlib.ticker import MaxNLocator

from aifs_ensemble.common.errors import ConfigError
from aifs_ensemble.common.parameters import find_variable
from aifs_ensemble.products.pictures.catalogue import HIGHEST, LOWEST, SPREAD, Kind
from aifs_ensemble.products.pictures.quantities import Quantity

Colors = npt.NDArray[np.uint8]
# by value in degrees C: freezing is where blue ends
_TEMPERATURE = (
    (-45, "#3f1f5f"), (-32, "#5b4aa8"), (-20, "#3f78c4"), (-10, "#79b2e1"), (-0.1, "#d3e9f3"), (0.1, "#dcebc9"),
    (10, "#a8cf8e"), (17, "#e9e08a"), (24, "#f3b45a"), (31, "#e06a3a"), (38, "#b02a37"), (46, "#5e0f2c"),
)  # fmt: skip
_PALETTES: dict[str, tuple[str, ...]] = {
    "rain": (
        "#cfe6c8", "#9fd3b0", "#62bda7", "#3aa0b8", "#2f7fbf", "#3159a8", "#5a3f9e", "#8b3a9c", "#c2418f", "#e8648a",
    ),
    "pressure": ("#4b4a9b", "#5f83c4", "#97bfdc", "#d0e2e6", "#f3efdc", "#efd3a0", "#dca05e", "#b86b3d", "#7d4430"),
    "height": ("#40407f", "#4f76b7", "#7fb4cf", "#bcdcc8", "#ece7b4", "#efc27a", "#db8450", "#a94a44"),
    "wind": ("#d9e8d0", "#b4d8a8", "#8cc58a", "#d8d36a", "#eeb24f", "#e3803f", "#c94d45", "#96326b", "#5d2a72"),
    "moisture": ("#efe6cf", "#d9d7a0", "#a5c78f", "#63ae97", "#3a8aa3", "#34609a", "#3b3a7c"),
    "cloud": ("#e3e7ea", "#c9d0d6", "#aab4bd", "#8894a0", "#677481", "#4a5663"),
    "sun": ("#4a4a78", "#8a5a86", "#c96f6c", "#eaa25a", "#f6dc7d", "#fbf6cf"),
    "spread": ("#e3dcee", "#c9bbe0", "#ab96cf", "#8d70bb", "#7050a4", "#543686", "#3b2063"),
    "water": ("#d3ebe6", "#a3d6d4", "#6cbcc6", "#3d9abb", "#2c76aa", "#2b5191", "#332f73"),
    "heat": ("#fbe9bd", "#f8cf84", "#f2aa59", "#e57f43", "#cf533b", "#a92f3b", "#741c3c"),
    "cold": ("#dbe7f4", "#b5cfe9", "#86b1db", "#588fc8", "#386cae", "#2b4b8b", "#2a2f66"),
    "dry": ("#f2e6c9", "#e3c98f", "#cda560", "#ad7d3f", "#875a2e", "#5f3d23"),
}  # fmt: skip
# what these leave out is no colour but the ground: no rain, no wind, no chance
_BARE = {"rain", "wind", "cloud", "spread", "water", "heat", "cold", "dry"}
# from pale to dark in one hue: on dark paper from dark to pale, else the most would be seen least
_ONE_HUE = {"cloud", "spread", "water", "heat", "cold", "dry"}
_PER_CENT = (5, 10, 20, 30, 40, 50, 60, 70, 80, 90, 95)
_OF_CLASS = (10, 25, 30, 40, 50, 60, 70, 80, 90)  # of five classes; by chance 20
_DEFAULTS = {"diverging": "RdYlBu_r", "sequential": "viridis"}
LIGHT_GROUND, DARK_GROUND = "#f4f3ef", "#232a31"
_CLASSES = 11
_MOST_OF_A_SIDE = 6  # levels of a difference: their numbers stand below a small map
MOST_LEVELS = 25  # a picture has 256 colours


@dataclass(frozen=True)
class Look:
    """Levels in the units shown, and a colour for each class: below the first level, between levels, above the last.

    Attributes
    ----------
    colors : uint8 ``(level + 1, 3)``
    bare : whether below the first level nothing is painted
    one_hue : whether colours go from pale to dark; on dark paper they go the other way
    label : of the colour bar
    extend : on which sides values may lie beyond the levels, as matplotlib says it
    """

    levels: tuple[float, ...]
    colors: Colors
    bare: bool
    one_hue: bool
    label: str
    extend: str

    def classes(self, pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
        """Return the class of each pixel: that of its level, and the number after the last for what is missing."""
        found = np.searchsorted(np.asarray(self.levels, np.float32), pixels, side="right").astype(np.uint8)
        found[np.isnan(pixels)] = len(self.colors)
        return found

    @property
    def shown(self) -> tuple[int, int]:
        """The first class of the colour bar, and how many it shows."""
        above, below = self.extend in ("max", "both"), self.extend == "both"
        return (0 if below else 1), len(self.levels) - 1 + above + below

    def painted(self, *, dark: bool) -> Colors:
        """Return the colour of every class, that of missing values last, uint8 ``(level + 2, 3)``."""
        ground = rgb(DARK_GROUND if dark else LIGHT_GROUND)
        colors = np.vstack([self.colors, ground])
        if dark and self.one_hue:
            colors[1:-1] = colors[1:-1][::-1]
        if self.bare:
            colors[0] = ground
        return colors


@dataclass(frozen=True)
class DifferenceLook(Look):
    """The look of a difference: the class in the middle, which holds 0, is the ground, and both sides grow from it."""

    def painted(self, *, dark: bool) -> Colors:
        """Return the colour of every class; on dark paper the largest differences are pale, else seen least."""
        ground = rgb(DARK_GROUND if dark else LIGHT_GROUND)
        colors = np.vstack([self.colors, ground])
        middle = len(self.levels) // 2
        if dark:
            colors[:middle] = colors[:middle][::-1]
            colors[middle + 1 : -1] = colors[middle + 1 : -1][::-1]
        colors[middle] = ground
        return colors


def rgb(color: str) -> Colors:
    """Return a colour as uint8 ``(3,)``."""
    return (np.array(to_rgb(color)) * 255).round().astype(np.uint8)


def look_of(kind: Kind, quantity: Quantity) -> Look:
    """Return the look of a kind of map."""
    if kind.name == SPREAD:
        return spread_look(quantity)
    if kind.name in (LOWEST, HIGHEST):
        return class_look(quantity, highest=kind.name == HIGHEST)
    return probability_look(quantity) if kind.threshold is not None else value_look(quantity)


def value_look(quantity: Quantity) -> Look:
    """Return the look of the values of a quantity."""
    style = quantity.style
    levels = style.levels or _nice(*_usual(quantity))
    palette = style.palette or _DEFAULTS[quantity.colors]
    return _look(palette, levels, quantity.units.name, "max" if palette in _BARE else "both")


def spread_look(quantity: Quantity) -> Look:
    """Return the look of the standard deviation of an ensemble."""
    low, high = _usual(quantity)
    levels = quantity.style.spread or _nice(0, (high - low) / 10)[1:]
    return _look("spread", levels, quantity.units.name, "max")


def difference_look(quantity: Quantity) -> DifferenceLook:
    """Return the look of the difference of two means: as many levels on each side, those of the spread."""
    levels = spread_look(quantity).levels
    if len(levels) > _MOST_OF_A_SIDE:
        levels = levels[::2]
    less, more = ("dry", "water") if quantity.style.palette == "rain" else ("cold", "heat")
    shares = np.linspace(0, 1, len(levels))
    sides = [np.asarray(_map(palette)(shares))[:, :3] for palette in (less, more)]
    colors = np.vstack([sides[0][::-1], sides[0][:1], sides[1]])
    both = (*(-level for level in reversed(levels)), *levels)
    painted = (colors * 255).round().astype(np.uint8)
    return DifferenceLook(both, painted, bare=True, one_hue=False, label=quantity.units.name, extend="both")


def probability_look(quantity: Quantity) -> Look:
    """Return the look of the probability of reaching a threshold, in per cent."""
    palette = "water" if quantity.style.palette == "rain" else "heat"
    return _look(palette, _PER_CENT, "%", "max")


def class_look(quantity: Quantity, *, highest: bool) -> Look:
    """Return the look of the probability of the lowest or the highest of five climatological classes, in per cent."""
    wet = quantity.style.palette == "rain"
    palette = ("water" if wet else "heat") if highest else ("dry" if wet else "cold")
    return _look(palette, _OF_CLASS, "%   (20 % by chance)", "max")


def line_distance(quantity: Quantity) -> float:
    """Return the distance of contour lines in the units shown."""
    low, high = _usual(quantity)
    return quantity.style.lines or float(np.diff(MaxNLocator(12, steps=[1, 2, 5, 10]).tick_values(low, high))[0])


def _usual(quantity: Quantity) -> tuple[float, float]:
    """Return what nearly all values lie between: two and a half standard deviations around the mean."""
    parameter, level = find_variable(quantity.sources[0])
    known = parameter.statistics or {}
    if level in known or "other" in known:
        mean, deviation = (value * parameter.factor for value in known.get(level, known.get("other", (0, 1))))
    else:
        near = min((one for one in known if isinstance(one, int)), key=lambda one: abs(one - level), default=None)
        mean, deviation = known[near] if near is not None else (0.0, 1.0)
    low, high = (float(quantity.units.shown(mean + sign * 2.5 * deviation)) for sign in (-1, 1))
    return (max(low, 0.0) if parameter.accumulates else low), high


def _nice(low: float, high: float) -> tuple[float, ...]:
    return tuple(float(v) for v in MaxNLocator(_CLASSES, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high))


def _look(palette: str, levels: Sequence[float], label: str, extend: str) -> Look:
    levels = tuple(float(level) for level in levels)
    if len(levels) > MOST_LEVELS:
        raise ConfigError(f"parameters.yaml: map: levels: {len(levels)} levels, expected at most {MOST_LEVELS}")
    # where the air is colder than at the ground, freezing is no colour's end
    if palette == "temperature" and _TEMPERATURE[0][0] < levels[0] and levels[-1] < _TEMPERATURE[-1][0]:
        middles = [levels[0] - 2.5, *(np.add(levels[1:], levels[:-1]) / 2), levels[-1] + 2.5]
        values = [value for value, _ in _TEMPERATURE]
        known = np.array([to_rgb(color) for _, color in _TEMPERATURE])
        colors = np.stack([np.interp(middles, values, known[:, part]) for part in range(3)], axis=1)
    else:
        bare = palette in _BARE
        shares = np.linspace(0, 1, len(levels) + (0 if bare else 1))
        colors = np.asarray(_map(palette)(shares))[:, :3]
        if bare:
            colors = np.vstack([colors[:1], colors])
    rounded = (colors * 255).round().astype(np.uint8)
    return Look(levels, rounded, palette in _BARE, palette in _ONE_HUE, label, extend)


def _map(palette: str) -> Any:
    if palette == "temperature":
        return LinearSegmentedColormap.from_list(palette, [color for _, color in _TEMPERATURE])
    if palette in _PALETTES:
        return LinearSegmentedColormap.from_list(palette, _PALETTES[palette])
    if palette not in mpl.colormaps:
        raise ConfigError(f"parameters.yaml: map: palette: {palette!r}, expected temperature, {', '.join(_PALETTES)}")
    return mpl.colormaps[palette]
