"""The live table of a run: what each member is doing, how long it takes yet, and what it has cost.

A thread looks every few seconds, on scratch, in the destination's folder, or in the bucket of rented machines; the
logger plugin shows what it saw last.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from rich.console import Group
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from aifs_ensemble.common.config import Config
from aifs_ensemble.common.cycles import name_cycles
from aifs_ensemble.common.errors import WorkflowError
from aifs_ensemble.common.text import duration
from aifs_ensemble.delivery.standing import COMPUTED, DELIVERED, NOT_AS_ASKED, Destination, noted_here
from aifs_ensemble.delivery.status import (
    FAILED,
    RUNNING,
    STARTING,
    WAITING,
    MemberStatus,
    read_statuses,
    summary,
    with_scratch,
)

_ORDER = (RUNNING, STARTING, FAILED, *NOT_AS_ASKED, COMPUTED, WAITING, DELIVERED)
_STYLES = {DELIVERED: "green", COMPUTED: "green", RUNNING: "cyan", FAILED: "red", WAITING: "dim"}
_OTHER_COLUMNS = 44  # their width beside bar and state
_SHORTEST_BAR, _STATE = 4, len("delivered")  # the least that both have, beside the name of a model
_LOOK_SECONDS = {False: 2.0, True: 15.0}  # here, and in a bucket


@dataclass(frozen=True)
class Progress:
    """When a member, or the run, was first seen at work, with how many leads, and when its leads last changed."""

    since: float
    first: int
    at: float
    last: int

    def seconds(self) -> float:
        """Return seconds a step, 0 before two are seen."""
        steps = self.last - self.first
        return (self.at - self.since) / steps if steps > 0 else 0.0


class _CycleLook:
    """What is seen of a cycle's members; `statuses` are those of the last look."""

    def __init__(self, config: Config, *, rented: bool):
        self._config, self._rented = config, rented
        self._destination: Destination | None = None
        self.statuses: Sequence[MemberStatus] = [
            MemberStatus(member, WAITING, steps=len(config.leads)) for member in config.members
        ]

    def look(self) -> None:
        """Look again, unless everything is delivered."""
        config = self._config
        if all(one.state == DELIVERED for one in self.statuses):
            return
        if self._rented or not config.cloud_destination:
            if self._destination is None:
                self._destination = Destination(config)
            else:
                self._destination.look()
            statuses = read_statuses(config, self._destination)
        else:
            statuses = [MemberStatus(member, WAITING, steps=len(config.leads)) for member in config.members]
        if not self._rented:
            statuses = with_scratch(config, statuses)
        if config.cloud_destination and not self._rented:
            statuses = [
                replace(one, state=DELIVERED, step=one.steps) if noted_here(config, one.member).done else one
                for one in statuses
            ]
        self.statuses = statuses


class MembersView:
    """A table of the members of all cycles, kept current by a thread until `stop`.

    `spending` returns a line on what was spent so far, or None.
    """

    def __init__(self, config: Config, *, rented: bool, spending: Callable[[], str | None]):
        self._config, self.rented, self._spending = config, rented, spending
        self._began = time.time()
        self._looks = [_CycleLook(one, rented=rented) for one in config.of_each_cycle]
        # of each status, in the same order
        self._cycles = [unit for unit in config.units for _ in config.members]
        self._unit_column = max(map(len, config.units)) + 2
        self._statuses: Sequence[MemberStatus] = [one for look in self._looks for one in look.statuses]
        self._paces: dict[tuple[str, int], Progress] = {}
        self._line: str | None = None
        self._progress: Progress | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="members-view", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._stopping.set()

    def _watch(self) -> None:
        while not self._stopping.is_set():
            began = time.monotonic()
            with suppress(WorkflowError, OSError):  # a look that fails is one look less
                self._look()
            # looking at many cycles takes at most a quarter of this thread's time
            self._stopping.wait(max(_LOOK_SECONDS[self.rented], 3 * (time.monotonic() - began)))

    def _look(self) -> None:
        for look in self._looks:
            if self._stopping.is_set():
                return
            look.look()
        now = time.time()
        seen = [one for look in self._looks for one in look.statuses]
        self._statuses = [self._paced(one, now, cycle) for one, cycle in zip(seen, self._cycles, strict=True)]
        self._progress = self._progressed(now)
        self._line = self._spending()

    def _paced(self, status: MemberStatus, now: float, cycle: str = "") -> MemberStatus:
        """Return a status with seconds a step, by what was seen where the job does not say it."""
        if status.state != RUNNING:
            return status
        pace = self._paces.get((cycle, status.member))
        if pace is None or status.step < pace.first:
            pace = Progress(now, status.step, now, status.step)
        elif status.step > pace.last:
            pace = replace(pace, at=now, last=status.step)
        self._paces[cycle, status.member] = pace
        return status if status.step_seconds else replace(status, step_seconds=pace.seconds())

    def _steps_done(self) -> int:
        return sum(one.step for one in self._statuses)

    def _progressed(self, now: float) -> Progress | None:
        """Return how far the run is; None before a member is at work, whose pace its preparations do not tell."""
        done, before = self._steps_done(), self._progress
        if before is None:
            at_work = any(one.state in (RUNNING, STARTING) for one in self._statuses)
            return Progress(now, done, now, done) if at_work else None
        return replace(before, at=now, last=done) if done > before.last else before

    def left(self) -> float | None:
        """Return the seconds that all leads will take yet at the run's pace so far; None before it has one.

        Between two looks that saw no lead it counts down, to the time of one lead at least.
        """
        progress = self._progress
        missing = sum(one.steps - one.step for one in self._statuses)
        if progress is None or not missing or not (pace := progress.seconds()):
            return None
        return max(pace * missing - (time.time() - progress.at), pace)

    def shown(self, width: int, height: int) -> Group:
        """Return the table for a terminal of `width` columns, with at most `height` members."""
        statuses, now = self._statuses, time.time()
        total = sum(one.steps for one in statuses) or 1
        left = self.left()
        head = Text(no_wrap=True, overflow="ellipsis")
        head.append(f"{name_cycles(self._config.cycles)} {' and '.join(self._config.models)}", style="bold")
        head.append(f"  {100 * self._steps_done() // total} % of leads, {duration(now - self._began)}")
        if left is not None:
            head.append(f", {duration(left)} to go")
        table = Table(box=None, pad_edge=False, header_style="dim")
        several = len(self._looks) > 1
        if several:
            table.add_column("cycle", no_wrap=True)
        for name, right in (("member", True), ("", False), ("leads", True), ("s/step", True), ("to go", True)):
            table.add_column(name, justify="right" if right else "left", no_wrap=True)
        table.add_column("state", no_wrap=True, overflow="ellipsis")
        rows = sorted(zip(self._cycles, statuses, strict=True), key=_first_of_interest)
        for cycle, status in rows[:height]:
            named = [cycle] if several else []
            table.add_row(*named, *self._row(status, now, width - self._unit_column * several))
        under = summary(statuses)
        if len(rows) > height:
            under += f" ({len(rows) - height} not shown)"
        lines = [under, *([self._line] if self._line else [])]
        return Group(head, table, *(Text(line, no_wrap=True, overflow="ellipsis") for line in lines))

    @staticmethod
    def _row(status: MemberStatus, now: float, width: int) -> tuple[str | Text | ProgressBar, ...]:
        pace, missing = status.step_seconds, status.steps - status.step
        running = status.state == RUNNING
        text = status.text(now) if not running else " ".join(filter(None, [status.state, status.note]))
        if width >= 120 and (where := status.job or status.host) and running:
            text += f" on {where}"
        bar = 30 if width >= 120 else min(12, max(width - _OTHER_COLUMNS - _STATE, _SHORTEST_BAR))
        text = text[: max(width - bar - _OTHER_COLUMNS, _STATE)]  # the other columns keep theirs
        return (
            str(status.member),
            ProgressBar(total=max(status.steps, 1), completed=status.step, width=bar),
            f"{status.step}/{status.steps}",
            f"{pace:.2f}" if pace and running else "",
            duration(pace * missing) if pace and running else "",
            Text(text, style=_STYLES.get(status.state, "yellow")),
        )


def _first_of_interest(row: tuple[str, MemberStatus]) -> tuple[int, str, int]:
    cycle, status = row
    return _ORDER.index(status.state) if status.state in _ORDER else 0, cycle, status.member
