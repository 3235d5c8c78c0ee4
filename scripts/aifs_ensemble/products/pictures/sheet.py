"""A picture of maps as numbers of colours: light and dark differ in nothing but the list of colours.

Paper, colour bar and words that stay are made once, and the lines of an area once. For each lead only the fields and
the title change. A matplotlib figure for each picture and theme takes several times as long.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from aifs_ensemble.common.themes import LIGHT, Theme
from aifs_ensemble.products.pictures import ink
from aifs_ensemble.products.pictures.ink import FAINT, INK, INKS, WARNING, Coverage, Text
from aifs_ensemble.products.pictures.layout import FOOT, HEAD, MARGIN, Layout
from aifs_ensemble.products.pictures.looks import DARK_GROUND, LIGHT_GROUND, Look, rgb
from aifs_ensemble.products.wording import number_words

Numbers = npt.NDArray[np.uint8]
_INKS, _HALOS = 5, 2  # steps from a map's colour to ink, and to the halo of a label
_OVER = 1 + _INKS + _HALOS
_STEPS = 7  # from paper to each ink of words
_WARNINGS = {"light": "#b3261e", "dark": "#ff8a7a"}
_DARK_INK = "#1b232b"  # over colours that cover a map, in both themes
_LIGHT_INK = "#c3ccd4"  # over a dark ground
_LUMINANCE, _DARK, _DARKEST = np.array([0.299, 0.587, 0.114]), 115, 60  # of 255 (ITU-R BT.601)
_BAR = 12  # pixels high


@dataclass(frozen=True)
class Drawn:
    """What a map shows.

    Attributes
    ----------
    pixels : the field in the units shown, ``(height, width)``, NaN where missing
    outside : which pixels are no part of the map
    lines : contour lines, see `ink.contour_lines`
    """

    pixels: npt.NDArray[np.float32]
    outside: npt.NDArray[np.bool_]
    lines: Coverage | None = None


def warning_color(theme: Theme) -> str:
    """Return the colour of what a reader must know first."""
    return _WARNINGS[theme.name]


class Sheet:
    """Draws pictures that differ in their fields and title only.

    `said` is a line about the forecast, `warned` what a reader must know first.
    """

    def __init__(self, look: Look, place: Layout, said: str, warned: Sequence[str]):
        self.look, self.layout = look, place
        self._classes = len(look.colors) + 1
        self._paper = self._classes * _OVER
        self._said, self._warned = said, ". ".join(warned)
        self._frame = self._make_frame()

    def draw(self, title: str, under: str, maps: Sequence[Drawn]) -> Numbers:
        """Return a picture as numbers of colours, ``(height, width)``."""
        picture = self._frame.copy()
        words = [Text(MARGIN, 25, title, 17, INK, bold=True), Text(MARGIN, 46, under, 13, FAINT)]
        picture[: HEAD - 6] = self._written(HEAD - 6, words)
        for panel, drawn in zip(self.layout.panels, maps, strict=True):
            picture[panel.where] = self._map(drawn, ink.geography(panel.frame))
        return picture

    def colors(self, theme: Theme) -> Numbers:
        """Return the list of colours, uint8 ``(color, 3)``."""
        dark = theme is not LIGHT
        classes = self.look.painted(dark=dark).astype(np.float64)
        # over dark colours ink is light; where dark ground is bare, over most of them: coasts seldom change colour
        light_ink = (classes @ _LUMINANCE < (_DARK if dark and self.look.bare else _DARKEST))[:, None]
        inked = np.where(light_ink, rgb(_LIGHT_INK), rgb(_DARK_INK))
        halo = np.where(light_ink, rgb(DARK_GROUND), rgb(LIGHT_GROUND if self.look.bare else "#ffffff"))
        parts = [classes]
        parts += [classes + (inked - classes) * step / _INKS for step in range(1, _INKS + 1)]
        parts += [classes + (halo - classes) * share for share in (0.4, 0.8)]
        paper = rgb(theme.paper).astype(np.float64)
        parts.append(paper[None])
        for color in (theme.ink, theme.faint, warning_color(theme)):
            parts += [(paper + (rgb(color) - paper) * step / _STEPS)[None] for step in range(1, _STEPS + 1)]
        return np.concatenate(parts).round().astype(np.uint8)

    def _map(self, drawn: Drawn, lines: Coverage) -> Numbers:
        over = _step(lines, _INKS)
        if drawn.lines is not None:
            line, halo, value = (_step(drawn.lines[..., part], _INKS) for part in range(3))
            under_values = (halo > 0) | (value > 0)
            over = np.maximum(np.where(under_values, 0, over), np.maximum(line, value))
            over = np.where((over == 0) & (halo > 0), _INKS + 1 + (halo > _INKS // 2), over).astype(np.uint8)
        found = self.look.classes(drawn.pixels)
        numbers = found + self._classes * over
        # the globe's edge is drawn on paper, too
        numbers[drawn.outside] = self._paper + np.minimum(over[drawn.outside], _STEPS)
        return numbers

    def _written(self, height: int, words: Sequence[Text]) -> Numbers:
        """Return a strip of paper with words on it as numbers of colours."""
        numbers = np.full((height, self.layout.width), self._paper, np.uint8)
        for which, coverage in ink.texts(self.layout.width, height, words).items():
            step = _step(coverage, _STEPS)
            drawn = step > 0
            numbers[drawn] = self._paper + INKS.index(which) * _STEPS + step[drawn]
        return numbers

    def _make_frame(self) -> Numbers:
        place = self.layout
        left, right, top = self._bar_box()
        foot = place.height - 12
        words = [
            Text(MARGIN, foot - (18 if self._warned else 0), self._said, 12, FAINT),
            Text(MARGIN, foot, self._warned, 13.5, WARNING, bold=True),
            Text(right + 22, top + 11, self.look.label, 12, INK),
        ]
        width = (right - left) / self.look.shown[1]
        for number, level in enumerate(self.look.levels):
            x = left + width * (number + (self.look.extend == "both"))
            words.append(Text(x, top + _BAR + 13, number_words(level), 11, FAINT, anchor="ms"))
        words += [Text(panel.left + 1, panel.top - 4, panel.label, 11, FAINT) for panel in place.panels if panel.label]
        if place.with_degrees:
            words += self._degrees()
        numbers = self._written(place.height, words)
        self._put_bar(numbers)
        return numbers

    def _degrees(self) -> Iterator[Text]:
        panel = self.layout.panels[0]
        meridians, parallels = ink.degrees_of(panel.frame.area)
        for degree in meridians:
            x = float(panel.frame.pixel(np.array(degree), np.array(0.0))[0])
            if 12 < x + MARGIN < panel.frame.width:
                words = _degree_words((degree + 180) % 360 - 180, "EW")
                yield Text(panel.left + x, panel.top + panel.frame.height + 14, words, 10.5, FAINT, anchor="ms")
        for degree in parallels:
            y = float(panel.frame.pixel(np.array(0.0), np.array(degree))[1])
            yield Text(panel.left - 4, panel.top + y + 4, _degree_words(degree, "NS"), 10.5, FAINT, anchor="rs")

    def _bar_box(self) -> tuple[int, int, int]:
        """Return left, right and top of the colour bar."""
        room = len(self.look.label) * 7 + 40
        width = min(self.layout.width - 2 * MARGIN - room, 640)
        left = max((self.layout.width - width - room // 2) // 2, MARGIN)
        return left, left + width, self.layout.height - FOOT + 18

    def _put_bar(self, numbers: Numbers) -> None:
        left, right, top = self._bar_box()
        first, count = self.look.shown
        edges = np.rint(np.linspace(left, right, count + 1)).astype(int)
        for place in range(count):
            low, high = edges[place], edges[place + 1]
            numbers[top : top + _BAR, low:high] = first + place
            pointed = (-1 if place == 0 and self.look.extend == "both" else 0) + (
                1 if place == count - 1 and self.look.extend != "neither" else 0
            )
            if pointed:
                # beyond the last level: a point
                rows = np.abs(np.arange(_BAR) - (_BAR - 1) / 2)[:, None] / (_BAR / 2)
                along = (np.arange(high - low) + 0.5)[None] / (high - low)
                away = rows > (1 - along if pointed > 0 else along)
                numbers[top : top + _BAR, low:high][away] = self._paper


def _step(coverage: Coverage, steps: int) -> Numbers:
    """Return coverage of 0 to 255 in whole steps."""
    return ((coverage.astype(np.uint16) * steps + 127) // 255).astype(np.uint8)


def _degree_words(value: float, sides: str) -> str:
    return f"{abs(value):g}°{'' if value == 0 else sides[0] if value > 0 else sides[1]}"


def png_files(numbers: Numbers, colors: Mapping[str, Numbers], about: Mapping[str, str]) -> dict[str, bytes]:
    """Return a picture as a PNG file for each list of colours; `about` are texts within them.

    The pixels are compressed once. The same numbers give the same bytes.
    """
    height, width = numbers.shape
    lines = np.zeros((height, width + 1), np.uint8)  # each line begins with its filter: none
    lines[:, 1:] = numbers
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0))
    texts = b"".join(
        _chunk(b"iTXt", key.encode("latin-1") + b"\0\0\0\0\0" + value.encode()) for key, value in about.items()
    )
    data = _chunk(b"IDAT", zlib.compress(lines.tobytes(), 6)) + _chunk(b"IEND", b"")
    return {
        name: b"\x89PNG\r\n\x1a\n" + header + _chunk(b"PLTE", palette.tobytes()) + texts + data
        for name, palette in colors.items()
    }


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
