"""The table of `aifs-ensemble status`, as rich shows it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Group
from rich.table import Table
from rich.text import Text

from aifs_ensemble.delivery.standing import DAMAGED, DELIVERED, OTHER_SETTINGS, SHORT
from aifs_ensemble.delivery.status import FAILED, RUNNING, MemberStatus, summary

_COLOURS = {
    DELIVERED: "green",
    RUNNING: "cyan",
    SHORT: "yellow",
    **dict.fromkeys((FAILED, DAMAGED, OTHER_SETTINGS), "red"),
}


def table(found: Mapping[str, Sequence[MemberStatus]], now: float, spending: str | None = None) -> Group:
    """Return the table of members by cycle as rich shows it, with what the machines cost that this folder rented."""
    shown = Table(box=None, pad_edge=False)
    several = len(found) > 1
    if several:
        shown.add_column("cycle")
    for name, right in (("member", True), ("state", False), ("s/step", True), ("machine", False), ("updated", True)):
        shown.add_column(name, justify="right" if right else "left", overflow="fold")  # nothing is cut off
    rows = [(cycle, status) for cycle, statuses in found.items() for status in statuses]
    for cycle, status in rows:
        shown.add_row(
            *([cycle] if several else []),
            str(status.member),
            Text(status.text(now), style=_COLOURS.get(status.state, "")),
            f"{status.step_seconds:.3f}" if status.step_seconds else "",
            status.job or status.host,
            f"{now - status.updated:.0f} s ago" if status.updated else "",
        )
    return Group(shown, Text(summary(status for _, status in rows)), *([Text(spending)] if spending else []))
