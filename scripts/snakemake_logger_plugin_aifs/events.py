"""Snakemake's events as lines: one for each that matters, none for the others."""

from __future__ import annotations

import logging
import re
import textwrap
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from snakemake_interface_logger_plugins.common import LogEvent

from snakemake_logger_plugin_aifs import configfiles

Line = tuple[str, str]
# rules whose every member is an event; of the others, when the last job of a rule has ended
EACH = {"forecast_member": "forecast done", "sync_member": "delivered"}
# targets, which do nothing
_SILENT = {"all", "forecasts", "products", "report"}
_NOTHING = "Nothing to be done"
_LOG_LINES = 3
_KEPT = "\N{NO-BREAK SPACE}"  # a number stays with what it counts
# what executors say besides warnings: what machines cost, and that those of a coordinator that died go on
_RENTED, _TAKEN_UP = "rented: ", ": still being made by "
# of the target alone, and of the first file that a rule needs
_NO_RULE = re.compile(r"MissingRuleException:\nNo rule to produce (.*) \(if you use input functions")
_NO_INPUT = re.compile(
    r"^Missing input files for rule (\w+):\n.*affected files:\n\s+([^\n]+)", re.DOTALL | re.MULTILINE
)
# what Snakemake says besides of a job that failed
_SAID_ELSEWHERE = (
    "RuleException:",
    "Exiting because a job execution failed",
    "WorkflowError:\nAt least one job did not",
)


class Job(NamedTuple):
    """A job as it is told of: member, cycle and model are empty without one, cycle and model in a run of one, too."""

    rule: str
    member: str = ""
    cycle: str = ""
    model: str = ""

    @property
    def unit(self) -> str:
        """The model before the cycle, or the one of them that it has."""
        return "/".join(filter(None, [self.model, self.cycle]))

    def __str__(self) -> str:
        return " ".join(filter(None, [self.unit, f"member {int(self.member)}" if self.member else ""]))


class Events:
    """What was said of jobs so far, and what is to be said of the next event."""

    def __init__(self, *, dryrun: bool):
        self.dryrun = dryrun
        self.why_no_rule: Callable[[str], str] | None = None
        self.why_no_input: Callable[[str, str], str] | None = None
        self._jobs: dict[Any, Job] = {}
        self._working: dict[Any, Job] = {}
        self._planned: dict[str, int] = {}
        self._done: dict[str, int] = {}
        self._said: set[Any] = set()
        self._ended = False

    def lines(self, record: logging.LogRecord, *, priced: bool = True) -> Iterator[Line]:
        """Yield the lines that an event is worth, with their styles; `priced` those on what machines cost, too."""
        event = getattr(record, "event", None)
        if event == LogEvent.JOB_INFO:
            self._job(record)
        elif event == LogEvent.RUN_INFO:
            yield from self._run(getattr(record, "stats", {}))
        elif event == LogEvent.JOB_FINISHED:
            yield from self._finished(record)
        elif event == LogEvent.JOB_ERROR:
            yield from self._failed(record)
        elif event in (None, LogEvent.ERROR) and (text := record.getMessage().strip()):
            if text.startswith(_SAID_ELSEWHERE):
                return
            if self.why_no_rule and (target := _NO_RULE.match(text)):
                yield f"Error: {self.why_no_rule(target[1])}", "red"
            elif self.why_no_input and (lacking := _NO_INPUT.search(text)):
                yield f"Error: {self.why_no_input(lacking[1], lacking[2])}", "red"
            elif record.levelno >= logging.ERROR:
                # before a rule is known it may be of a configuration file, which Snakemake does not name
                known = [] if self._jobs or self._planned else configfiles.faults()
                yield from ((f"Error: {fault}", "red") for fault in known) if known else [(text, "red")]
            elif record.levelno >= logging.WARNING or text.startswith(_NOTHING):
                yield text, "yellow" if record.levelno >= logging.WARNING else ""
            elif _TAKEN_UP in text or (priced and text.startswith(_RENTED)):
                yield f"{_clock()} {text}", "dim"

    def at_work(self) -> str:
        """Return the jobs that run, forecasts aside, e.g. ``initial_member 3-4, product_member 1``."""
        by_rule: dict[tuple[str, str], list[str]] = {}
        for job in self._working.values():
            if job.rule != "forecast_member":
                by_rule.setdefault((job.rule, job.unit), []).append(job.member)
        return ", ".join(
            " ".join(filter(None, [*which, _ranges(members)])) for which, members in sorted(by_rule.items())
        )

    def last(self) -> Iterator[Line]:
        """Yield what is said at the end: of a dry-run, its jobs by rule and member."""
        if not self.dryrun or self._ended:  # a handler is closed twice: by Snakemake, and as Python ends
            return
        self._ended = True
        by_rule: dict[str, list[Job]] = {}
        for job in self._jobs.values():
            if job.rule not in _SILENT:
                by_rule.setdefault(job.rule, []).append(job)
        width = max(map(len, by_rule), default=0)
        for rule, jobs in by_rule.items():
            units = {job.unit for job in jobs if job.unit}
            of = f"of {_counted(jobs)}" if len(units) > 1 else "".join(units)
            members = _ranges({job.member for job in jobs})
            yield f"{rule:{width}}  {len(jobs):4}  {' '.join(filter(None, [members, of]))}".rstrip(), ""
        if by_rule:
            yield "this was a dry-run: nothing was made", ""

    def _job(self, record: logging.LogRecord) -> None:
        wildcards = getattr(record, "wildcards", None) or {}
        job, rule = getattr(record, "jobid", None), str(getattr(record, "rule_name", ""))
        cycle = wildcards.get("cycle") or "_".join(wildcards[name] for name in ("date", "time") if name in wildcards)
        member, model = str(wildcards.get("member", "")), str(wildcards.get("model") or "")
        self._jobs[job] = self._working[job] = Job(rule, member, str(cycle), model)
        self._said.discard(job)

    def _run(self, stats: dict[str, int]) -> Iterator[Line]:
        if self._planned or self.dryrun:
            return
        self._planned = {rule: count for rule, count in stats.items() if rule != "total" and rule not in _SILENT}
        if self._planned:
            yield (
                f"{_clock()} {sum(self._planned.values())} jobs: "
                + ", ".join(f"{count}{_KEPT}{rule}" for rule, count in self._planned.items()),
                "bold",
            )

    def _finished(self, record: logging.LogRecord) -> Iterator[Line]:
        job = getattr(record, "job_id", None)
        of = self._working.pop(job, Job(""))
        rule = of.rule
        self._done[rule] = self._done.get(rule, 0) + 1
        done, planned = self._done[rule], self._planned.get(rule, 0)
        if rule in EACH and of.member:
            yield f"{_clock()} {of}: {EACH[rule]} ({done} of {max(planned, done)})", "green"
        elif rule and rule not in _SILENT and done == planned:
            yield f"{_clock()} {rule}: done{f', {done} jobs' if done > 1 else ''}", ""

    def _failed(self, record: logging.LogRecord) -> Iterator[Line]:
        job = getattr(record, "jobid", None)
        of = self._working.pop(job, self._jobs.get(job, Job(str(getattr(record, "rule_name", "")))))
        if job in self._said:
            return  # Snakemake tells of a job in a group twice
        self._said.add(job)
        logs = [str(name).partition(" (")[0] for name in getattr(record, "log", None) or ()]
        what = ": ".join(filter(None, [str(of), of.rule]))
        yield f"{_clock()} {what} failed{f', log: {logs[0]}' if logs else ''}", "bold red"
        for name in logs[:1]:
            yield from ((f"  {line}", "red") for line in _worst(Path(name)))


def folded(text: str, width: int | None) -> str:
    """Return a text in lines of at most `width` columns, further ones indented; None: as it is. Paths stay whole."""
    if width is None:
        return text.replace(_KEPT, " ")
    rows: list[str] = []
    for line in text.splitlines():
        indent = line[: len(line) - len(line.lstrip())]
        wrapped = textwrap.wrap(
            line, width, subsequent_indent=f"{indent}  ", break_long_words=False, break_on_hyphens=False
        )
        rows += wrapped or [""]
    return "\n".join(rows).replace(_KEPT, " ")


def _worst(path: Path) -> list[str]:
    """Return the lines of a job's log that say why it failed: its errors, else its end."""
    try:
        lines = [line.rstrip() for line in path.read_text(errors="replace").splitlines() if line.strip()]
    except OSError:
        return []
    wrong = [line for line in lines if " ERROR " in line or " CRITICAL " in line]
    return [line[:400] for line in (wrong or lines)[-_LOG_LINES:]]


def _counted(jobs: Sequence[Job]) -> str:
    """Return how many models and cycles jobs are of."""
    counts = {"models": len({job.model for job in jobs} - {""}), "cycles": len({job.cycle for job in jobs} - {""})}
    return " and ".join(f"{count} {what}" for what, count in counts.items() if count > 1)


def _ranges(members: Iterable[str]) -> str:
    """Return members as ranges, e.g. ``1-4,7``; empty for a job without one."""
    numbers = sorted({int(member) for member in members if member.isdigit()})
    found: list[list[int]] = []
    for number in numbers:
        if found and number == found[-1][-1] + 1:
            found[-1].append(number)
        else:
            found.append([number])
    return ",".join(f"{group[0]}-{group[-1]}" if len(group) > 1 else str(group[0]) for group in found)


def _clock() -> str:
    return time.strftime("%H:%M:%S")
