"""Figures of a run that a person reads at a glance, each in a light and a dark version.

Every function takes what it shows and a `Theme` and returns a matplotlib figure; `themes.save` writes both versions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, MultipleLocator

from aifs_ensemble.common.text import duration, money
from aifs_ensemble.common.themes import Theme, legend, new_figure, save, title
from aifs_ensemble.planning.account import Account, Stay
from aifs_ensemble.planning.plan import Plan
from aifs_ensemble.planning.runs import Attempt

_USE_LABELS = {
    "computing": "computing",
    "start_up": "starting up",
    "wait_output": "waiting for output",
    "between": "between forward passes",
    "drain": "draining output",
    "lost": "lost to an interruption",
    "gap": "no member",
}


def _clock(axis: Axes, span: float) -> None:
    """Label a time axis in seconds with minutes or hours since the start, at round times."""
    unit, name = (3600, "h") if span > 3 * 3600 else (60, "min") if span > 180 else (1, "s")
    steps = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 21600, 43200, 86400)
    step = next((step for step in steps if span / step <= 9), steps[-1])
    axis.xaxis.set_major_locator(MultipleLocator(step))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / unit:g}"))
    axis.set_xlabel(f"{name} since the first member's start", fontsize=9)


def _lanes(attempts: Sequence[Attempt]) -> list[tuple[Attempt, int]]:
    """Return the attempts of a machine with a lane for each, so that none covers another."""
    ends: list[float] = []
    placed = []
    for attempt in sorted(attempts, key=lambda attempt: attempt.began):
        lane = next((lane for lane, end in enumerate(ends) if end <= attempt.began + 1e-6), len(ends))
        ends[lane : lane + 1] = [attempt.ended]
        placed.append((attempt, lane))
    return placed


def _parts(attempt: Attempt) -> list[tuple[str, float, float]]:
    """Return an attempt's bars: what, start and length in seconds."""
    if attempt.lost:
        return [("lost", attempt.began, attempt.seconds)]
    start, drain = attempt.phases["start_up"], attempt.phases["drain"]
    steps = max(attempt.seconds - start - drain, 0.0)
    return [
        ("start_up", attempt.began, start),
        ("computing", attempt.began + start, steps),
        ("drain", attempt.ended - drain, drain),
    ]


def gantt(found: Account, theme: Theme) -> Figure:
    """Return members over machines: a row for each that runs at once, coloured by what it did."""
    placed = [(stay, _lanes(stay.attempts)) for stay in _by_machine(found.stays)]
    rows = sum(max(lane for _, lane in lanes) + 1 for _, lanes in placed)
    figure, (axis,) = new_figure(theme, 1.5 + min(0.22 * rows + 0.1 * len(placed), 9))
    origin = min(stay.began for stay in found.stays)
    span = max(stay.ended for stay in found.stays) - origin
    top, seen, labels = 0.0, set(), []
    for stay, lanes in placed:
        depth = max(lane for _, lane in lanes) + 1
        for attempt, lane in lanes:
            y = top + lane
            for kind, start, length in _parts(attempt):
                label = ("stepping" if kind == "computing" else _USE_LABELS[kind]) if kind not in seen else None
                seen.add(kind)
                axis.barh(y, length, left=start - origin, height=0.82, color=theme.marks[kind], label=label)
            # a number only where it fits its bar: about 9 points a digit of a figure 9 inches wide
            _, start, length = max(_parts(attempt), key=lambda part: part[2])
            if length > 0.022 * span:
                middle = start + length / 2 - origin
                axis.text(middle, y, str(attempt.member), ha="center", va="center", color=theme.paper, fontsize=8)
        labels.append((top + (depth - 1) / 2, stay.machine))
        top += depth + 0.4
    axis.set_ylim(top - 0.4 - 0.5, -0.5)
    axis.set_xlim(0, span * 1.01)
    axis.set_yticks([y for y, _ in labels], [name[:22] for _, name in labels])
    _clock(axis, span)
    members = len(found.members)
    title(
        axis, theme, "Members over machines", f"{members} members, {duration(3600 * found.hours)}; numbers are members"
    )
    figure.legend(
        *axis.get_legend_handles_labels(),
        loc="outside lower left",
        ncols=5,
        frameon=False,
        labelcolor=theme.ink,
        fontsize=9,
        handlelength=1.0,
        handleheight=1.0,
    )
    return figure


def _by_machine(stays: Sequence[Stay]) -> list[Stay]:
    first: dict[str, float] = {}
    for stay in stays:
        first.setdefault(stay.machine, stay.began)
    return sorted(stays, key=lambda stay: (first[stay.machine], stay.machine, stay.began))


def machine_time(found: Account, theme: Theme) -> Figure:
    """Return where the machines' time went, as one bar."""
    figure, (axis,) = new_figure(theme, 1.9)
    total = sum(found.uses.values())
    left = 0.0
    for kind, seconds in found.uses.items():
        share = 100 * seconds / total if total else 0.0
        if share < 0.05:
            continue
        axis.barh(0, share, left=left, color=theme.marks[kind], label=f"{_USE_LABELS[kind]} {share:.1f} %")
        left += share
    axis.set_xlim(0, 100)
    axis.set_yticks([])
    axis.grid(visible=False)
    axis.spines[["left", "bottom"]].set_visible(False)
    axis.set_xticks([])
    title(axis, theme, f"Where {duration(total)} of machine time went")
    legend(axis, theme, loc="upper left", bbox_to_anchor=(0, 0), ncols=4, borderaxespad=0)
    return figure


def _series(found: Account, columns: Sequence[str]) -> dict[str, pd.DataFrame]:
    """Return sampled metrics of each machine, a row for each ten seconds or less; members on it are averaged."""
    metrics = found.run.metrics
    if metrics.empty:
        return {}
    origin = min(stay.began for stay in found.stays)
    span = max(stay.ended for stay in found.stays) - origin
    bin_seconds = max(1.0, span / 600)
    parts: dict[str, list[pd.DataFrame]] = {}
    for stay in found.stays:
        for attempt in stay.attempts:
            rows = metrics[metrics["member"] == attempt.member]
            rows = rows[(rows["time"] >= attempt.began) & (rows["time"] <= attempt.ended + 1)]
            parts.setdefault(stay.machine, []).append(rows)
    series = {}
    for machine, frames in parts.items():
        rows = pd.concat(frames)
        when = ((rows["time"] - origin) / bin_seconds).round() * bin_seconds
        line = rows[list(columns)].astype(float).groupby(when).mean()
        series[machine] = _broken(line, 5 * bin_seconds)
    return series


def _broken(line: pd.DataFrame, gap: float) -> pd.DataFrame:
    """Return a line with a hole wherever nothing was sampled for longer than `gap` seconds."""
    times = line.index.to_numpy(dtype=float)
    holes = times[:-1][np.diff(times) > gap] + gap / 2
    return pd.concat([line, pd.DataFrame(np.nan, index=holes, columns=line.columns)]).sort_index()


def _plot_series(axis: Axes, theme: Theme, series: Mapping[str, pd.Series]) -> None:
    """Draw a line a machine; more than six become their mean within the range of all."""
    usable = {name: line for name, line in series.items() if not line.dropna().empty}
    if len(usable) <= 6:
        for (name, line), color in zip(usable.items(), theme.series, strict=False):
            axis.plot(line.index, line, color=color, linewidth=1.2, label=name[:22])
        return
    table = pd.DataFrame(usable).sort_index().dropna(how="all")
    low, high, mean = table.min(axis=1), table.max(axis=1), table.mean(axis=1)
    axis.fill_between(table.index, low, high, color=theme.series[0], alpha=0.25, linewidth=0, label="range")
    axis.plot(table.index, mean, color=theme.series[0], linewidth=1.4, label=f"mean of {len(usable)} machines")


def gpu(found: Account, theme: Theme) -> Figure:
    """Return the cards' utilisation and memory over time."""
    figure, axes = new_figure(theme, 4.6, 2, sharex=True)
    series = _series(found, ("gpu_util_percent", "gpu_mem_mib", "gpu_total_mib"))
    _plot_series(axes[0], theme, {name: frame["gpu_util_percent"] for name, frame in series.items()})
    _plot_series(axes[1], theme, {name: frame["gpu_mem_mib"] / 1024 for name, frame in series.items()})
    means = [stay.gpu_percent for stay in found.stays if not np.isnan(stay.gpu_percent)]
    note = f"mean {np.mean(means):.0f} %"
    title(axes[0], theme, "GPU utilisation, %", note)
    title(axes[1], theme, "GPU memory, GiB")
    if means:
        axes[0].set_ylim(0, 105)
        room = [frame["gpu_total_mib"].max() / 1024 for frame in series.values()]
        axes[1].axhline(np.nanmax(room), color=theme.faint, linewidth=1, linestyle=(0, (4, 3)), label="the card's")
        axes[1].set_ylim(0, np.nanmax(room) * 1.05)
        legend(axes[1], theme, loc="upper left", bbox_to_anchor=(1.0, 1.0))
        span = max(stay.ended for stay in found.stays) - min(stay.began for stay in found.stays)
        _clock(axes[1], span)
    return figure


def disk_network(found: Account, theme: Theme) -> Figure:
    """Return rates of disk and network over time."""
    columns = ("disk_write_mb_s", "disk_read_mb_s", "net_sent_mb_s", "net_recv_mb_s")
    figure, axes = new_figure(theme, 4.6, 2, sharex=True)
    series = _series(found, columns)
    machines = len(series)
    for axis, heading, pair in (
        (axes[0], "Disk, MB/s", (("written", columns[0]), ("read", columns[1]))),
        (axes[1], "Network, MB/s", (("sent", columns[2]), ("received", columns[3]))),
    ):
        title(axis, theme, heading, "sum over machines" if machines > 1 and axis is axes[0] else "")
        for (label, column), color, width in zip(pair, theme.series, (2.4, 1.1), strict=False):
            parts = pd.DataFrame({name: frame[column] for name, frame in series.items()}).sort_index()
            total = parts.sum(axis=1, min_count=1)
            axis.plot(total.index, total, color=color, linewidth=width, label=label)
        axis.set_ylim(bottom=0)
        legend(axis, theme, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    _clock(axes[1], max(stay.ended for stay in found.stays) - min(stay.began for stay in found.stays))
    return figure


def costs(stacks: Mapping[str, Mapping[str, float]], theme: Theme, members: int) -> Figure:
    """Return costs by category, a bar for each of `stacks` (such as plan and run), USD."""
    figure, (axis,) = new_figure(theme, 1.5 + 0.55 * len(stacks))
    axis.grid(visible=False)
    names = list(dict.fromkeys(name for stack in stacks.values() for name, usd in stack.items() if usd > 0))
    largest = max((sum(stack.values()) for stack in stacks.values()), default=0.0)
    for name, color in zip(names, theme.series, strict=False):
        left = [sum(stack.get(other, 0.0) for other in names[: names.index(name)]) for stack in stacks.values()]
        values = [stack.get(name, 0.0) for stack in stacks.values()]
        axis.barh(range(len(stacks)), values, left=left, color=color, height=0.62, label=name)
    for place, stack in enumerate(stacks.values()):
        total = sum(stack.values())
        axis.text(
            total + 0.01 * largest,
            place,
            f"{money(total)}, {money(total / members)} a member",
            parse_math=False,  # two dollar signs would be a formula
            va="center",
            color=theme.ink,
            fontsize=9,
        )
    axis.set_xlim(0, largest * 1.32)
    axis.set_ylim(len(stacks) - 0.5, -0.5)
    axis.set_yticks(range(len(stacks)), list(stacks))
    axis.tick_params(axis="y", labelcolor=theme.ink)
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"${value:g}"))
    title(axis, theme, "Cost by category, USD")
    legend(axis, theme, loc="upper left", bbox_to_anchor=(0, -0.16 if len(stacks) > 2 else -0.25), ncols=4)
    return figure


def member_times(found: Account, theme: Theme, recorded_seconds: float | None = None) -> Figure:
    """Return the histogram of members' seconds, beside what was recorded of a member before."""
    figure, (axis,) = new_figure(theme, 3.0)
    seconds = np.array([member.seconds for member in found.members])
    count = max(5, min(30, round(2 * np.sqrt(len(seconds)))))
    low, high = seconds.min(), seconds.max()
    margin = max((high - low) * 0.05, high * 0.02, 0.5)
    axis.hist(seconds, bins=list(np.linspace(low - margin, high + margin, count + 1)), color=theme.marks["computing"])
    axis.axvline(float(np.median(seconds)), color=theme.ink, linewidth=1.2, label=f"median {np.median(seconds):.0f} s")
    if recorded_seconds is not None:
        axis.axvline(
            recorded_seconds,
            color=theme.marks["lost"],
            linewidth=1.2,
            linestyle=(0, (4, 3)),
            label=f"recorded before {recorded_seconds:.0f} s",
        )
    axis.set_xlim(left=0)
    axis.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    axis.set_xlabel("s from a member's start to its end, all attempts", fontsize=9)
    axis.grid(axis="y", color=theme.line, linewidth=0.8)
    axis.grid(axis="x", visible=False)
    title(axis, theme, "Members by time taken", f"{len(seconds)} members")
    legend(axis, theme, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


def account_figures(
    found: Account, plan: Plan | None = None, recorded_seconds: float | None = None
) -> dict[str, Callable[[Theme], Figure]]:
    """Return the figures of an account by name, as functions of a theme."""
    stacks: dict[str, Mapping[str, float]] = {}
    if plan is not None:
        stacks = {"planned, on demand": plan.chosen.costs, "planned, spot": plan.chosen.spot_costs}
    stacks["this run"] = found.costs
    figures: dict[str, Callable[[Theme], Figure]] = {
        "gantt": lambda theme: gantt(found, theme),
        "machine_time": lambda theme: machine_time(found, theme),
        "member_times": lambda theme: member_times(found, theme, recorded_seconds),
    }
    # no empty frames: a processor has no card to sample, one's own machine costs nothing
    if any(not np.isnan(stay.gpu_percent) for stay in found.stays):
        figures["gpu"] = lambda theme: gpu(found, theme)
    if not found.run.metrics.empty:
        figures["disk_network"] = lambda theme: disk_network(found, theme)
    if found.usd > 0:
        figures["costs"] = lambda theme: costs(stacks, theme, len(found.members))
    return figures


__all__ = ["account_figures", "costs", "disk_network", "gantt", "gpu", "machine_time", "member_times", "save"]
