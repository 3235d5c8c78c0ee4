"""What a run shows: ``logger: aifs`` in the profiles.

On a terminal a live table of the members, and above it one line per event that matters; without one the lines alone.
What jobs write goes to a file: their processes on this machine would write into the table. Snakemake finds the
package by its name. It imports nothing of `aifs_ensemble`, so that a checkout's own library is the one that runs;
the Snakefile gives it a view of the members.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, TextIO

from rich.console import Console, ConsoleRenderable, Group
from rich.live import Live
from rich.text import Text
from snakemake_interface_logger_plugins.base import LogHandlerBase
from snakemake_interface_logger_plugins.common import LogEvent

from snakemake_logger_plugin_aifs.events import Events, folded

OUTPUT = Path(".snakemake") / "log"


class View(Protocol):
    """What the Snakefile shows of the members, looked up by a thread of its own."""

    def shown(self, width: int, height: int) -> ConsoleRenderable: ...

    def stop(self) -> None: ...


class LogHandler(LogHandlerBase):
    """Lines and table on standard error, or what stood in for it when the run began."""

    def __post_init__(self) -> None:
        """Keep the terminal for this process; what jobs write goes to a file from here on."""
        self._view: View | None = None
        self._live: Live | None = None
        self._kept: list[tuple[int, int, str, TextIO]] = []
        self._prints: TextIO | None = None
        self.output: Path | None = None
        self.dryrun = bool(self.common_settings.dryrun)
        if not self.dryrun:
            self._divert()
        # this very stream: what executors print on standard output goes to the log once jobs run
        stream = sys.stdout if self.common_settings.stdout else sys.stderr
        self.console = Console(file=stream, highlight=False)
        self.console.soft_wrap = not self.console.is_terminal  # in a file a line is one line
        self._events = Events(dryrun=self.dryrun)

    def _divert(self) -> None:
        """Have the files 1 and 2, which jobs inherit, be a log; this process goes on with copies of what they were."""
        path = OUTPUT / f"{time.strftime('%Y-%m-%dT%H%M%S')}-{os.getpid()}.jobs.log"
        with contextlib.suppress(OSError):  # a folder that is read-only: jobs write to the terminal then
            OUTPUT.mkdir(parents=True, exist_ok=True)
            log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            for number, name in ((1, "stdout"), (2, "stderr")):
                before: TextIO = getattr(sys, name)
                before.flush()
                copy = os.dup(number)
                os.dup2(log, number)
                self._kept.append((number, copy, name, before))
                setattr(sys, name, open(copy, "w", buffering=1, errors="replace", closefd=False))  # noqa: SIM115
            os.close(log)
            self.output = path

    def follow(self, view: View) -> None:
        """Show the members from now on; where there is no terminal, nothing changes."""
        self._view = view
        if self.console.is_terminal and not self.console.is_dumb_terminal:
            self._live = Live(
                console=self.console, get_renderable=self._shown, refresh_per_second=2, transient=True,
                vertical_overflow="crop", redirect_stdout=False,
            )  # fmt: skip
            self._live.start()

    def explain(self, no_rule: Callable[[str], str], no_input: Callable[[str, str], str]) -> None:
        """Have a target that no rule makes, and a file that a rule lacks, be one line in the words of functions."""
        self._events.why_no_rule, self._events.why_no_input = no_rule, no_input

    def rest(self) -> None:
        """Take the table away: what is printed from now on stays."""
        live, self._live = self._live, None
        if live is not None:
            live.stop()
        view, self._view = self._view, None
        if view is not None:
            view.stop()

    def _shown(self) -> ConsoleRenderable:
        jobs = Text(self._events.at_work(), style="dim", no_wrap=True, overflow="ellipsis")
        if self._view is None:
            return jobs
        size = self.console.size
        return Group(self._view.shown(size.width, max(size.height - 6, 4)), jobs)

    def emit(self, record: logging.LogRecord) -> None:
        """Print what an event has to say, if anything."""
        try:
            if getattr(record, "event", None) == LogEvent.RUN_INFO:
                self._silence_prints()
            for line, style in self._events.lines(record, priced=self._live is None):
                self._print(line, style)
        except Exception:
            self.handleError(record)

    def _print(self, line: str, style: str) -> None:
        """Print a line; on a terminal one that is too long goes on below its beginning, not at the margin."""
        width = self.console.width if self.console.is_terminal else None
        self.console.print(Text(folded(line, width), style=style))

    def _silence_prints(self) -> None:
        """Have prints of this process go to the log: an executor prints whole requests, into the table."""
        if self.output is not None and not self.common_settings.stdout and self._prints is None:
            self._prints = open(self.output, "a", buffering=1, errors="replace")  # noqa: SIM115
            sys.stdout = self._prints

    def close(self) -> None:
        """Give the terminal back."""
        self.rest()
        for line, style in self._events.last():
            self._print(line, style)
        for number, copy, name, before in self._kept:
            getattr(sys, name).flush()
            os.dup2(copy, number)
            setattr(sys, name, before)
        self._kept = []
        if self._prints is not None:
            self._prints.close()
            self._prints = None
        super().close()

    @property
    def writes_to_stream(self) -> bool:
        """Whether it takes the place of Snakemake's own output."""
        return True

    @property
    def writes_to_file(self) -> bool:
        """Whether Snakemake should name its file at the end."""
        return False

    @property
    def has_filter(self) -> bool:
        """Whether it chooses itself what to show."""
        return True

    @property
    def has_formatter(self) -> bool:
        """Whether it words events itself."""
        return True

    @property
    def needs_rulegraph(self) -> bool:
        """Whether it needs the graph of rules."""
        return False


__all__ = ["LogHandler", "View"]
