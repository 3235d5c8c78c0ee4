"""Meteograms: what the members say of a place, as box plots over time, and the same figures as JSON."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from aifs_ensemble.common.config import Config
from aifs_ensemble.common.files import write_bytes
from aifs_ensemble.common.names import format_members, place_label
from aifs_ensemble.common.themes import DPI, THEMES, WIDTH, Theme, style
from aifs_ensemble.products.delivered_fields import DeliveredFields
from aifs_ensemble.products.pictures.place_values import PlaceValues, read_places, shown_quantities
from aifs_ensemble.products.pictures.quantities import Quantity
from aifs_ensemble.products.pictures.sheet import warning_color
from aifs_ensemble.products.wording import cycle_words, ensemble_words, number_words, warnings

Array = npt.NDArray[np.float32]
Days = npt.NDArray[np.float64]
_COLORS = {"tcc": 7, "tp": 0, "10si": 2, "2t": 3, "msl": 4}  # of the theme's series
_PANEL, _HEAD, _FOOT = 1.35, 0.75, 0.72  # inches
_SMALLEST = {"tp": 2.0, "10si": 5.0, "tcc": 100.0}  # upper ends of scales that begin at nought, at least


def draw_meteograms(config: Config, members: Mapping[int, DeliveredFields], folder: Path) -> None:
    """Write the pictures and figures of every place into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    if not config.products.pictures.places:
        return
    with mpl.rc_context({"font.family": "DejaVu Sans", "text.parse_math": False}):
        for values in read_places(config, members):
            label = place_label(values.place.name)
            text = json.dumps(figures(config, values), indent=1, ensure_ascii=False)
            write_bytes(folder / f"{label}.json", text.encode())
            for theme in THEMES:
                file = io.BytesIO()
                picture = draw(config, values, theme)
                about = {"Software": None, "Title": values.place.name, "Source": ". ".join(_said(config, values))}
                picture.savefig(file, format="png", facecolor=theme.paper, metadata=about)
                write_bytes(folder / f"{label}-{theme.name}.png", file.getvalue())


def _said(config: Config, values: PlaceValues) -> list[str]:
    """Return what the forecast is, and what a reader must know of it."""
    what = f"Forecast of {cycle_words(config)}, {ensemble_words(config, values.members)}, model {config.model.name}"
    return [what, *warnings(config, values.members, untrained=values.untrained)]


def figures(config: Config, values: PlaceValues) -> dict[str, Any]:
    """Return what a meteogram shows, for JSON: quantiles over the members by time, in the units of the picture."""
    place = values.place
    valid = [config.cycle_time + timedelta(hours=lead) for lead in config.leads]
    shown = {}
    for quantity in shown_quantities(config):
        bands = {name: [_rounded(v) for v in band] for name, band in values.quantiles(quantity.name).items()}
        about = {"title": _title(config, quantity), "units": quantity.units.name}
        shown[quantity.name] = {**about, **bands}
    return {
        "place": place.name,
        "latitude": place.latitude,
        "longitude": place.longitude,
        "point": {
            "latitude": round(place.point_latitude, 4),
            "longitude": round(place.point_longitude, 4),
            "distance_km": round(place.distance, 1),
        },
        "forecast_reference_time": f"{config.cycle_time:%Y-%m-%dT%H:%MZ}",
        "model": config.model.name,
        "untrained": values.untrained,
        "members": format_members(values.members),
        "missing": format_members(set(config.members) - set(values.members)),
        "member_digests": list(values.digests),
        "leadtime_hours": list(config.leads),
        "valid_time": [f"{time:%Y-%m-%dT%H:%MZ}" for time in valid],
        "variables": shown,
    }


def _rounded(value: np.float32) -> float | None:
    return None if np.isnan(value) else round(float(value), 2)


def _title(config: Config, quantity: Quantity) -> str:
    over = f" in {config.model.timestep_hours} hours" if quantity.accumulates else ""
    return f"{quantity.style.title}{over}"


def draw(config: Config, values: PlaceValues, theme: Theme) -> Figure:
    """Return the picture of a place."""
    quantities = shown_quantities(config)
    height = _HEAD + _PANEL * len(quantities) + _FOOT
    figure = Figure(figsize=(WIDTH, height), dpi=DPI, facecolor=theme.paper)
    figure.subplots_adjust(0.07, (_FOOT + 0.3) / height, 0.985, 1 - (_HEAD + 0.2) / height, hspace=0.42)
    axes = figure.subplots(len(quantities), 1, squeeze=False, sharex=True)[:, 0]
    days = np.array(config.leads) / 24
    for axis, quantity in zip(axes, quantities, strict=True):
        style(axis, theme)
        axis.grid(axis="both", color=theme.line, linewidth=0.8)
        bands = values.quantiles(quantity.name)
        color = theme.series[_COLORS[quantity.name]]
        (_bars if quantity.accumulates else _boxes)(axis, days, bands, color, theme)
        _scale(axis, quantity, bands)
        axis.set_title(
            f"{_title(config, quantity)}, {quantity.units.name}", loc="left", fontsize=9.5, color=theme.ink, pad=4
        )
    _days(config, axes[-1], theme)
    _say(config, figure, values, theme, height)
    return figure


def _boxes(axis: Axes, days: Days, bands: Mapping[str, Array], color: str, theme: Theme) -> None:
    """Draw minimum to maximum as a line, 10 to 90 % and 25 to 75 % as boxes, the median as a mark."""
    half = _half_width(days)
    _lines(axis, days, bands["min"], bands["max"], color, 1.0)
    _rectangles(axis, days, bands["p10"], bands["p90"], half * 0.6, color, 0.45)
    _rectangles(axis, days, bands["p25"], bands["p75"], half, color, 1.0)
    marks = [((x - half, y), (x + half, y)) for x, y in zip(days, bands["p50"], strict=True)]
    axis.add_collection(LineCollection(marks, colors=theme.ink, linewidths=1.4))


def _bars(axis: Axes, days: Days, bands: Mapping[str, Array], color: str, theme: Theme) -> None:
    """Draw an amount of each step: a bar up to the median, a paler one up to 90 %, a line up to the maximum."""
    step = float(days[0])
    middles, half = days - step / 2, _half_width(days)
    nought = np.zeros_like(bands["p50"])
    _lines(axis, middles, nought, bands["max"], color, 1.0)
    _rectangles(axis, middles, nought, bands["p90"], half * 1.15, color, 0.35)
    _rectangles(axis, middles, nought, bands["p50"], half * 1.15, color, 1.0)


def _half_width(days: Days) -> float:
    return 0.3 * (float(days[1] - days[0]) if len(days) > 1 else float(days[0]))


def _lines(axis: Axes, days: Days, low: Array, high: Array, color: str, width: float) -> None:
    ends = [((x, a), (x, b)) for x, a, b in zip(days, low, high, strict=True)]
    axis.add_collection(LineCollection(ends, colors=color, linewidths=width))


def _rectangles(axis: Axes, days: Days, low: Array, high: Array, half: float, color: str, alpha: float) -> None:
    boxes = [
        ((x - half, a), (x + half, a), (x + half, b), (x - half, b)) for x, a, b in zip(days, low, high, strict=True)
    ]
    axis.add_collection(PolyCollection(boxes, facecolors=color, alpha=alpha, linewidths=0))


def _scale(axis: Axes, quantity: Quantity, bands: Mapping[str, Array]) -> None:
    low, high = float(np.nanmin(bands["min"])), float(np.nanmax(bands["max"]))
    if quantity.name in _SMALLEST:
        smallest = _SMALLEST[quantity.name]
        axis.set_ylim(0, smallest * 1.02 if quantity.name == "tcc" else max(high * 1.08, smallest))
    else:
        room = max(0.08 * (high - low), 0.5)
        axis.set_ylim(low - room, high + room)
    axis.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))


def _days(config: Config, axis: Axes, theme: Theme) -> None:
    """Name the days, as many as there is room for."""
    hours = config.lead_hours
    every = next(step for step in (1, 2, 4, 5, 10) if hours / 24 / step <= 11 or step == 10)
    start: datetime = config.cycle_time
    first = (24 - start.hour) % 24 / 24
    ticks = [first + day for day in range(0, hours // 24 + 1, every) if first + day < hours / 24 - 0.2]
    times = [start + timedelta(days=tick) for tick in ticks]
    axis.set_xlim(0, (hours + config.model.timestep_hours / 2) / 24)
    # a day's name begins where the day does
    axis.set_xticks(ticks, [f"{time:%a} {time.day} {time:%b}" for time in times], ha="left")
    axis.tick_params(axis="x", labelcolor=theme.ink, pad=4)


def _say(config: Config, figure: Figure, values: PlaceValues, theme: Theme, height: float) -> None:
    """Write the place above, and below how to read the boxes, whose forecast it is and what is wrong with it."""
    place = values.place
    above = lambda inches: 1 - inches / height  # noqa: E731
    put = lambda y, words, **look: figure.text(0.015, y, words, **look)  # noqa: E731
    here = _position(place.latitude, place.longitude)
    point = f"{_position(place.point_latitude, place.point_longitude)}, {place.distance:.0f} km away"
    put(above(0.3), place.name, fontsize=14, fontweight="bold", color=theme.ink)
    put(above(0.55), f"{here}. Model point {point}. Times are UTC", fontsize=9, color=theme.faint)
    said, *warned = _said(config, values)
    put(0.58 / height, "Line: lowest to highest member. Boxes: 10 to 90 % and 25 to 75 % of the members. Mark: median. "
        "Precipitation: bars to the median and to 90 %", fontsize=7.5, color=theme.faint)  # fmt: skip
    put(0.37 / height, said, fontsize=8.5, color=theme.faint)
    if warned:
        put(0.15 / height, ". ".join(warned), fontsize=9.5, fontweight="bold", color=warning_color(theme))


def _position(latitude: float, longitude: float) -> str:
    longitude = (longitude + 180) % 360 - 180
    north, east = "S" if latitude < 0 else "N", "W" if longitude < 0 else "E"
    return f"{number_words(round(abs(latitude), 2))}° {north}, {number_words(round(abs(longitude), 2))}° {east}"
