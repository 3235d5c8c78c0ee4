"""How figures look, in light and in dark, and how they are written."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

WIDTH = 9.0  # inches; at 100 dots an inch what a report's page shows without scaling
DPI = 100
_SAVED: dict[Any, Any] = {
    "svg.hashsalt": "aifs-ensemble",
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",
    "text.parse_math": False,
}


@dataclass(frozen=True)
class Theme:
    """Colours of one version. `marks` are by meaning, `series` for things that differ in nothing but name."""

    name: str
    paper: str
    ink: str
    faint: str
    line: str
    marks: Mapping[str, str]
    series: tuple[str, ...]


LIGHT = Theme(
    name="light",
    paper="#ffffff",
    ink="#1f2933",
    faint="#66727f",
    line="#dfe4e8",
    marks={
        "start_up": "#e39b3b",
        "computing": "#2f6db5",
        "wait_output": "#8c6bb1",
        "between": "#9db8d6",
        "drain": "#3c9c83",
        "lost": "#c8493b",
        "gap": "#c9d0d6",
        "recorded": "#66727f",
    },
    series=("#2f6db5", "#e39b3b", "#3c9c83", "#c8493b", "#8c6bb1", "#7d6b45", "#c56aa0", "#5f8a3a"),
)
DARK = Theme(
    name="dark",
    paper="#14181d",
    ink="#e6eaee",
    faint="#98a4b0",
    line="#2d353d",
    marks={
        "start_up": "#e9ad58",
        "computing": "#5b9be0",
        "wait_output": "#ab8fd3",
        "between": "#40607f",
        "drain": "#57b99f",
        "lost": "#e0705f",
        "gap": "#434c55",
        "recorded": "#98a4b0",
    },
    series=("#5b9be0", "#e9ad58", "#57b99f", "#e0705f", "#ab8fd3", "#b5a06d", "#dd8fbd", "#8cba62"),
)
THEMES = (LIGHT, DARK)


def new_figure(theme: Theme, height: float, rows: int = 1, **grid: Any) -> tuple[Figure, list[Axes]]:
    """Return a figure of `height` inches with `rows` axes below each other."""
    figure = Figure(figsize=(WIDTH, height), dpi=DPI, layout="constrained", facecolor=theme.paper)
    axes = figure.subplots(rows, 1, squeeze=False, **grid)[:, 0]
    for axis in axes:
        style(axis, theme)
    return figure, list(axes)


def style(axis: Axes, theme: Theme) -> None:
    """Give axes the theme's colours and leave out what carries no information."""
    axis.set_facecolor(theme.paper)
    axis.spines[["top", "right"]].set_visible(False)
    for spine in axis.spines.values():
        spine.set_color(theme.line)
    axis.tick_params(colors=theme.faint, labelcolor=theme.faint, length=0, labelsize=9)
    axis.grid(axis="x", color=theme.line, linewidth=0.8)
    axis.set_axisbelow(True)
    axis.xaxis.label.set_color(theme.faint)
    axis.yaxis.label.set_color(theme.faint)


def title(axis: Axes, theme: Theme, text: str, note: str = "") -> None:
    """Write a title and, below it, a note."""
    axis.set_title(text, loc="left", color=theme.ink, fontsize=12, fontweight="bold", pad=22 if note else 10)
    if note:
        axis.annotate(
            note, (0, 1), (0, 8), xycoords="axes fraction", textcoords="offset points", color=theme.faint, fontsize=9
        )


def legend(axis: Axes, theme: Theme, **where: Any) -> None:
    """Draw a legend without a frame."""
    axis.legend(frameon=False, labelcolor=theme.ink, fontsize=9, handlelength=1.0, handleheight=1.0, **where)


def png(draw: Callable[[Theme], Figure], theme: Theme) -> bytes:
    """Return a figure in one theme as a PNG file."""
    with mpl.rc_context(_SAVED):
        return _file(draw(theme), theme, "png")


def _file(figure: Figure, theme: Theme, kind: str) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format=kind, metadata={"Date": None} if kind == "svg" else None, facecolor=theme.paper)
    return stream.getvalue()


def save(
    figures: Mapping[str, Callable[[Theme], Figure]], folder: Path, kinds: Sequence[str] = ("svg", "png")
) -> list[Path]:
    """Write each figure in both themes as ``{name}-{theme}.{kind}`` and return the files."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    with mpl.rc_context(_SAVED):
        for name, draw in figures.items():
            for theme in THEMES:
                figure = draw(theme)
                for kind in kinds:
                    path = folder / f"{name}-{theme.name}.{kind}"
                    path.write_bytes(_file(figure, theme, kind))
                    written.append(path)
    return written
