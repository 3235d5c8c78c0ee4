"""Lines and words of pictures as coverage: how much of each pixel is ink, whatever colour ink will have."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from contourpy import contour_generator
from matplotlib import patheffects
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.transforms import IdentityTransform
from PIL import Image, ImageDraw, ImageFont

from aifs_ensemble.common.areas import Area
from aifs_ensemble.products.pictures.coastlines import read_lines
from aifs_ensemble.products.pictures.projection import MapFrame
from aifs_ensemble.products.wording import number_words

Coverage = npt.NDArray[np.uint8]  # 0 to 255
Line = npt.NDArray[np.float64]
INKS = ("ink", "faint", "warning")  # of words
INK, FAINT, WARNING = INKS
_DPI = 100
_POINTS = 72 / _DPI  # of a pixel
_EVERY = 4  # pixels between the values that contour lines are drawn through
_MOST_LINES = 40


@dataclass(frozen=True)
class Text:
    """Words in a picture: pixels from the left and from the top, size in pixels, ink, and which point is there.

    `anchor` is Pillow's: left, middle or right of the baseline.
    """

    x: float
    y: float
    words: str
    size: float
    ink: str = INK
    bold: bool = False
    anchor: str = "ls"


def texts(width: int, height: int, items: Sequence[Text]) -> dict[str, Coverage]:
    """Return words as coverage ``(height, width)`` by ink; only of inks that are used."""
    images: dict[str, Image.Image] = {}
    for item in items:
        image = images.setdefault(item.ink, Image.new("L", (width, height)))
        place = (item.x, item.y)
        ImageDraw.Draw(image).text(
            place, item.words, fill=255, font=_font(item.size, bold=item.bold), anchor=item.anchor
        )
    return {which: np.array(image) for which, image in images.items()}


@cache
def _font(size: float, *, bold: bool) -> ImageFont.FreeTypeFont:
    """Return the font that comes with matplotlib: every machine draws the same letters."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(Path(mpl.get_data_path()) / "fonts" / "ttf" / name, size)


def _figure(frame: MapFrame, ground: str = "none") -> Figure:
    return Figure(figsize=(frame.width / _DPI, frame.height / _DPI), dpi=_DPI, facecolor=ground)


def _put(figure: Figure, lines: Sequence[Line], **look: Any) -> None:
    """Draw lines in pixels from the left and from the top; axes would take longer than the lines."""
    height = round(figure.get_figheight() * _DPI)
    turned = [line * (1, -1) + (0, height) for line in lines]
    figure.add_artist(LineCollection(turned, transform=IdentityTransform(), **look))


def _rendered(figure: Figure) -> Coverage:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.array(canvas.buffer_rgba())


@cache
def geography(frame: MapFrame) -> Coverage:
    """Return coasts, lakes, borders, degrees and the frame of a map, ``(height, width)``."""
    figure = _figure(frame)
    small = frame.width < 500
    scale = (0.5 if small else 1.0) * (0.8 if frame.area.is_globe else 1.0)
    lines = read_lines()
    kinds = [(lines.coasts, 1.0, 0.95), (lines.lakes, 0.7, 0.8)]
    if not (small and frame.area.is_globe):
        kinds.append((lines.borders, 0.7, 0.6))
    for kind, width, alpha in kinds:
        drawn = [
            np.stack(frame.pixel(line[:, 0] + turn, line[:, 1]), axis=1)
            for turn in frame.turns()
            for line in kind
            if frame.area.is_globe or _meets(line, frame.area, turn)
        ]
        _put(figure, drawn, colors="#000000", linewidths=width * scale, alpha=alpha)
    _put(figure, _graticule(frame), colors="#000000", linewidths=0.5, alpha=0.25)
    _put(figure, _outline(frame), colors="#000000", linewidths=1.0, alpha=0.7)
    return _rendered(figure)[..., 3]


def _meets(line: Line, area: Area, turn: float) -> bool:
    """Tell whether a line's box meets an area."""
    (west, south), (east, north) = line.min(axis=0), line.max(axis=0)
    return bool(west + turn < area.east and east + turn > area.west and south < area.north and north > area.south)


def degrees_of(area: Area) -> tuple[list[float], list[float]]:
    """Return longitudes and latitudes of the lines of a graticule."""
    if area.is_globe:
        return [*map(float, range(-120, 180, 60))], [*map(float, range(-60, 90, 30))]
    found = []
    for low, high in ((area.west, area.east), (area.south, area.north)):
        step = next((step for step in (1, 2, 5, 10, 20, 30) if (high - low) / step <= 8), 60)
        found.append([float(v) for v in range(math.ceil(low / step) * step, math.floor(high) + 1, step)])
    return found[0], found[1]


def _graticule(frame: MapFrame) -> list[Line]:
    area = frame.area
    meridians, parallels = degrees_of(area)
    ups, alongs = np.linspace(area.south, area.north, 90), np.linspace(area.west, area.east, 90)
    lines = [frame.pixel(np.full(90, degree), ups) for degree in meridians]
    lines += [frame.pixel(alongs, np.full(90, degree)) for degree in parallels]
    return [np.stack(line, axis=1) for line in lines]


def _outline(frame: MapFrame) -> list[Line]:
    if not frame.area.is_globe:
        right, bottom = frame.width - 0.5, frame.height - 0.5
        return [np.array([(0.5, 0.5), (right, 0.5), (right, bottom), (0.5, bottom), (0.5, 0.5)])]
    ups = np.linspace(-90, 90, 181)
    west, east = (np.stack(frame.pixel(np.full(181, side), ups), axis=1) for side in (-180.0, 180.0))
    return [np.concatenate([west, east[::-1], west[:1]])]


def contour_lines(frame: MapFrame, pixels: npt.NDArray[np.float32], distance: float) -> Coverage:
    """Return lines of equal value through a field in pixels, `distance` apart, with their values.

    ``(height, width, 3)``: lines, a halo of the values, which covers lines, and the values, which cover both.
    """
    figure = _figure(frame, "#000000")
    thin = np.ma.masked_invalid(pixels[::_EVERY, ::_EVERY])
    if thin.count():
        x, y = (np.arange(count) * _EVERY + 0.5 for count in (thin.shape[1], thin.shape[0]))
        lines = contour_generator(x, y, thin)
        low, high = float(thin.min()), float(thin.max())
        distance *= max(1, math.ceil((high - low) / distance / _MOST_LINES))
        for number in range(math.ceil(low / distance), math.floor(high / distance) + 1):
            found = [np.asarray(line) for line in lines.lines(number * distance) if len(line) > 5]
            _put(figure, found, colors="#ff0000", linewidths=1.4 if number % 4 == 0 else 0.8)
            for line in found:
                _label(figure, frame, line, number_words(number * distance))
    return _rendered(figure)[..., :3]


def _label(figure: Figure, frame: MapFrame, line: Line, words: str) -> None:
    """Write a line's value along it, where there is room."""
    place = _place_of_label(line, frame)
    if place is not None:
        across, down, angle = place
        figure.text(
            across, frame.height - down, words, rotation=angle, fontsize=11 * _POINTS, ha="center", va="center",
            rotation_mode="anchor", color="#0000ff", family="DejaVu Sans", parse_math=False,
            path_effects=[patheffects.withStroke(linewidth=2.6, foreground="#00ff00")], transform=IdentityTransform(),
        )  # fmt: skip


def _place_of_label(line: Line, frame: MapFrame) -> tuple[float, float, float] | None:
    """Return where a line is straightest, inside the map, and its angle there; None for a line too short for words."""
    steps = np.hypot(*np.diff(line, axis=0).T)
    if steps.sum() < 130:
        return None
    reach = max(2, round(14 / max(float(np.median(steps)), 0.1)))
    middles = np.arange(reach, len(line) - reach)
    x, y = line[middles].T
    middles = middles[(x > 30) & (x < frame.width - 30) & (y > 12) & (y < frame.height - 12)]
    if not len(middles):
        return None
    chords = line[middles + reach] - line[middles - reach]
    along = np.concatenate([[0], np.cumsum(steps)])
    straight = np.hypot(*chords.T) / np.maximum(along[middles + reach] - along[middles - reach], 1e-6)
    best = int(straight.argmax())
    angle = math.degrees(math.atan2(-chords[best, 1], chords[best, 0]))
    upright = angle - 180 if angle > 90 else angle + 180 if angle < -90 else angle
    return float(line[middles[best], 0]), float(line[middles[best], 1]), upright
