"""Where the maps of a picture are, in pixels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

from aifs_ensemble.common.areas import Area
from aifs_ensemble.products.pictures.projection import MapFrame, fit

HEAD, FOOT, MARGIN = 58, 92, 14
_BOX = (1000, 620)  # the largest map
_SMALL_BOX = (1000, 900)  # of all small maps together
_GAP, _LABEL = 8, 16
_DEGREES = (24, 18)  # room for degrees left of a map of an area, and below


@dataclass(frozen=True)
class Panel:
    """A map at its place in a picture, pixels from the left and from the top."""

    frame: MapFrame
    left: int
    top: int
    label: str = ""

    @property
    def where(self) -> tuple[slice, slice]:
        """Its pixels in the picture."""
        return slice(self.top, self.top + self.frame.height), slice(self.left, self.left + self.frame.width)


@dataclass(frozen=True)
class Layout:
    """Maps of one area in a picture of `width` by `height` pixels."""

    area: Area
    panels: tuple[Panel, ...]
    width: int
    height: int

    @property
    def frame(self) -> MapFrame:
        """The map that all panels have."""
        return self.panels[0].frame

    @property
    def with_degrees(self) -> bool:
        """Whether degrees are written at the map's edges."""
        return len(self.panels) == 1 and not self.area.is_globe


@cache
def layout(area: Area, labels: tuple[str, ...] = ("",)) -> Layout:
    """Return one large map, or a small map for each label."""
    if len(labels) == 1:
        return layout_of_size(area, _BOX, labels[0])
    # as many columns as make the small maps largest
    frames = [_small(area, len(labels), columns) for columns in range(1, len(labels) + 1)]
    columns, frame = max(enumerate(frames, 1), key=lambda item: item[1].width)
    across, down = frame.width + _GAP, frame.height + _LABEL + _GAP
    panels = tuple(
        Panel(frame, MARGIN + place % columns * across, HEAD + place // columns * down + _LABEL, label)
        for place, label in enumerate(labels)
    )
    rows = math.ceil(len(labels) / columns)
    return Layout(area, panels, max(2 * MARGIN + columns * across - _GAP, 600), HEAD + rows * down + FOOT)


def layout_of_size(area: Area, box: tuple[int, int], label: str = "") -> Layout:
    """Return one map that fits a box of so many pixels, width and height."""
    frame = fit(area, *box)
    left, below = (0, 0) if area.is_globe else _DEGREES
    panel = Panel(frame, MARGIN + left, HEAD, label)
    return Layout(area, (panel,), frame.width + 2 * MARGIN + left, frame.height + HEAD + below + FOOT)


def _small(area: Area, count: int, columns: int) -> MapFrame:
    rows = math.ceil(count / columns)
    width = (_SMALL_BOX[0] - (columns - 1) * _GAP) // columns
    height = (_SMALL_BOX[1] - (rows - 1) * (_GAP + _LABEL)) // rows - _LABEL
    return fit(area, max(width, 16), max(height, 16))
