"""Maps of one field of each member, straight from the reduced grid: no projection library, no regridding.

Each pixel of a plate carree takes the nearest point of the nearest row of latitude. Coasts are where the land-sea mask
of an initial state is one half, if there is one on scratch.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from aifs_ensemble.common.config import Config
from aifs_ensemble.common.errors import InputError
from aifs_ensemble.common.names import CONTROL, count_members, format_members, member_name
from aifs_ensemble.common.parameters import parameter_of
from aifs_ensemble.common.themes import DPI, WIDTH, Theme
from aifs_ensemble.fields.grib_encoder import grib_parameter
from aifs_ensemble.fields.grib_index import read_fields
from aifs_ensemble.fields.grids import grid_coordinates

Field = npt.NDArray[np.float32]
HEIGHT_PIXELS = 180
_EXTENT = (-180, 180, -90, 90)


@cache
def raster_index(grid: str, height: int = HEIGHT_PIXELS) -> npt.NDArray[np.int64]:
    """Return the point shown by each pixel, shape ``(height, 2 * height)``, north up, Greenwich in the middle."""
    layout = grid_coordinates(grid)
    starts = np.concatenate([[0], np.cumsum(layout.rows)])
    row_latitudes = layout.latitudes[starts[:-1]]
    latitudes = 90 - (np.arange(height) + 0.5) * 180 / height
    rows = np.abs(latitudes[:, None] - row_latitudes[None, :]).argmin(axis=1)
    longitudes = (np.arange(2 * height) + 0.5) * 180 / height - 180
    counts = layout.rows[rows][:, None]
    columns = np.rint(longitudes[None, :] % 360 / 360 * counts).astype(np.int64) % counts
    return starts[:-1][rows][:, None] + columns


def lead_path(config: Config, member: int, lead: int) -> Path:
    """Return where a lead's GRIB is: on scratch, else in the destination's folder; InputError when in neither."""
    here = config.scratch.lead(member, lead)
    if here.exists():
        return here
    if config.destination and not config.cloud_destination:
        there = Path(config.destination) / config.objects.lead(member, lead)
        if there.exists():
            return there
    raise InputError(f"{here}: no such file, nor in the destination {config.destination}")


def _request(variable: str) -> dict[str, str]:
    parameter = grib_parameter(variable)
    request = {"param": parameter.short_name, "levtype": parameter.levtype}
    if parameter.level is not None:
        request["levelist"] = str(parameter.level)
    return request


def read_field(config: Config, member: int, variable: str, lead: int) -> Field:
    """Return one field of one member, shape ``(value,)``; InputError when the lead does not hold it."""
    path = lead_path(config, member, lead)
    values = read_fields(path, **_request(variable))[0]
    points = grid_coordinates(config.model.grid).points
    if values.size != points:
        raise InputError(f"{path}: {values.size} points, expected the {points} of {config.model.grid}")
    return values


def land_mask(config: Config) -> Field | None:
    """Return the land-sea mask of an initial state on scratch, shape ``(value,)``, or None where there is none."""
    from safetensors import safe_open

    for member in config.members:
        path = config.scratch.initial(member)
        if not path.exists():
            continue
        with safe_open(path, framework="numpy") as file:
            header = file.metadata() or {}
            names = json.loads(header.get("variables", "[]"))
            if "lsm" in names and header.get("grid") == config.model.grid:
                # one row of a file of a gigabyte
                return np.asarray(file.get_slice("fields")[0, names.index("lsm")], np.float32)
    return None


@dataclass(frozen=True)
class _Look:
    """What the maps of one figure share."""

    theme: Theme
    coast: Field | None
    limits: tuple[float, float]
    colors: str

    def draw(self, axis: Axes, raster: Field) -> AxesImage:
        """Draw one map."""
        image = axis.imshow(
            raster,
            extent=_EXTENT,
            cmap=self.colors,
            vmin=self.limits[0],
            vmax=self.limits[1],
            interpolation="nearest",
            aspect="auto",
        )
        if self.coast is not None and self.coast.min() < 0.5 < self.coast.max():
            axis.contour(
                self.coast, levels=[0.5], extent=_EXTENT, origin="upper", colors="#1f2933", linewidths=0.5, alpha=0.7
            )
        axis.set_xticks([])
        axis.set_yticks([])
        for spine in axis.spines.values():
            spine.set_color(self.theme.line)
        return image


def _limits(shown: Mapping[int, Field]) -> tuple[float, float]:
    """Return the range of colours: all but the outermost half percent of a sample of all members' values."""
    together = np.concatenate([values[:: max(1, values.size // 5000)] for values in shown.values()])
    low, high = float(np.nanpercentile(together, 0.5)), float(np.nanpercentile(together, 99.5))
    return (low, high) if low < high else (low - 0.5, high + 0.5)


def _available(config: Config, members: Sequence[int], variable: str, lead: int) -> tuple[dict[int, Field], list[int]]:
    """Return the fields of the members that have them, and those that have none; InputError when none has."""
    shown: dict[int, Field] = {}
    missing = []
    for member in members:
        try:
            shown[member] = read_field(config, member, variable, lead)
        except InputError:
            missing.append(member)
    if not shown:
        raise InputError(f"{config.cycle}: no member has {variable} at {lead} h, nothing to show")
    return shown, missing


def member_fields(config: Config, theme: Theme) -> Figure:
    """Return one map for each member of the variable ``report.field`` at the last lead, side by side on one scale.

    Members without the lead are left out and named; InputError when none has it.
    """
    variable, lead = config.report.field, config.leads[-1]
    shown, missing = _available(config, config.members, variable, lead)
    index = raster_index(config.model.grid)
    mask = land_mask(config)
    parameter = parameter_of(variable)
    colors = "RdYlBu_r" if parameter.colors == "diverging" else "viridis"
    look = _Look(theme, None if mask is None else mask[index], _limits(shown), colors)
    columns = math.ceil(math.sqrt(len(shown)))
    rows = math.ceil(len(shown) / columns)
    height = rows * (WIDTH / columns / 2 + (0.22 if len(shown) > 1 else 0)) + 1.15
    figure = Figure(figsize=(WIDTH, height), dpi=DPI, layout="constrained", facecolor=theme.paper)
    axes = list(figure.subplots(rows, columns, squeeze=False).ravel())
    for axis, (member, values) in zip(axes, shown.items(), strict=False):
        image = look.draw(axis, values[index])
        if len(shown) > 1:
            axis.set_title("control" if member == CONTROL else str(member), color=theme.faint, fontsize=8, pad=2)
    for axis in axes[len(shown) :]:
        axis.set_visible(False)
    bar = figure.colorbar(image, ax=axes, orientation="horizontal", shrink=0.5, aspect=40, pad=0.02)
    bar.ax.tick_params(colors=theme.faint, labelcolor=theme.faint, length=0, labelsize=8)
    bar.outline.set_visible(False)
    bar.set_label(parameter.grib_units, color=theme.faint, fontsize=9)
    who = member_name(config.members[0]) if len(config.members) == 1 else count_members(shown)
    left_out = f", without {format_members(missing)}" if missing else ""
    untrained = ", untrained model" if config.model.untrained else ""
    figure.suptitle(
        f"{variable}, {config.cycle} + {lead} h, {who}{left_out}{untrained}",
        x=0.005,
        ha="left",
        color=theme.ink,
        fontsize=12,
        fontweight="bold",
    )
    return figure
