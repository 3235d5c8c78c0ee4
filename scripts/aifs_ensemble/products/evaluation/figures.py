"""Figures of scores, each in a light and a dark version: by lead, and ranks of the analysis among the members."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, MultipleLocator

from aifs_ensemble.common.themes import Theme, legend, new_figure, title

_FEW_LEADS, _MANY_RANKS = 3, 12
Lines = tuple[tuple[str, str, str], ...]  # score, label, dashes


def drawing(data: xr.Dataset, variable: str) -> Callable[[Theme], Figure]:
    """Return what draws the figure of a variable in a theme."""
    return partial(scores_of, data, variable)


def scores_of(data: xr.Dataset, variable: str, theme: Theme) -> Figure:
    """Return CRPS, spread against error, and rank histograms of a variable over the first area."""
    area = str(data["area"].to_numpy()[0])
    one = data.sel(variable=variable, area=area)
    one = one.isel(lead=np.flatnonzero(np.isfinite(one["crps"].to_numpy())))
    figure, axes = new_figure(theme, 10.0, rows=3)
    cycle = data.attrs["forecast_reference_time"]
    note = f"{area}, {one['units'].item()}; {cycle}; {data.attrs['source']}; {data.attrs['ensemble']}"
    if not one.sizes["lead"]:
        title(axes[0], theme, f"{variable}: no analysis", note)
        return figure
    title(axes[0], theme, f"{variable}: fair CRPS, smaller is better", note)
    lines: Lines = (
        ("crps", "ensemble", "-"),
        ("persistence_crps", "persistence", "--"),
        ("climatology_crps", "climatology", ":"),
    )
    _by_lead(axes[0], theme, one, lines, start=0)
    title(axes[1], theme, "Error and spread: equal where the spread is right, and the bias")
    lines = (
        ("rmse", "RMSE of the mean", "-"),
        ("spread", "spread", "--"),
        ("bias", "bias", "-."),
        ("control_rmse", "RMSE of the control", ":"),
    )
    _by_lead(axes[1], theme, one, lines, start=3)
    title(axes[2], theme, "Rank of the analysis among the members: flat where they are reliable")
    _ranks(axes[2], theme, one)
    return figure


def _by_lead(axis: Axes, theme: Theme, one: xr.Dataset, lines: Lines, start: int) -> None:
    leads = one["lead"].to_numpy()
    for number, (score, label, dash) in enumerate(lines):
        values = one[score].to_numpy()
        if np.isfinite(values).any():
            color = theme.series[(start + number) % len(theme.series)]
            axis.plot(leads, values, dash, color=color, marker="o", markersize=4, linewidth=2, label=label)
    axis.set_xlabel("lead, h", fontsize=9)
    axis.xaxis.set_major_locator(MultipleLocator(24 * max(1, round(leads[-1] / 24 / 12))))
    axis.grid(axis="y", color=theme.line, linewidth=0.8)
    axis.set_ylim(bottom=min(0, axis.get_ylim()[0]))
    legend(axis, theme, loc="upper left", bbox_to_anchor=(1.0, 1.0))


def _ranks(axis: Axes, theme: Theme, one: xr.Dataset) -> None:
    """Draw the histograms of first, middle and last lead side by side, and the flat one."""
    places = sorted({0, one.sizes["lead"] // 2, one.sizes["lead"] - 1})[:_FEW_LEADS]
    count = one.sizes["rank"]
    width = 0.8 / len(places)
    for number, place in enumerate(places):
        at, color = one.isel(lead=place), theme.series[number]
        shares, label = at["rank_histogram"].to_numpy() * count, f"{int(at['lead'])} h"
        if count > _MANY_RANKS:
            axis.stairs(shares, np.arange(count + 1) - 0.5, color=color, linewidth=2, label=label)
        else:
            axis.bar(np.arange(count) - 0.4 + (number + 0.5) * width, shares, width, color=color, label=label)
    axis.axhline(1, color=theme.faint, linewidth=1)
    axis.set_xlabel("members below the analysis", fontsize=9)
    axis.set_ylabel("share, 1 is flat", fontsize=9)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=12))
    legend(axis, theme, loc="upper left", bbox_to_anchor=(1.0, 1.0))
