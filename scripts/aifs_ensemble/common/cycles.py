"""The cycles of a run: one, several, those of a range with a step, or those of a file with one a line."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Protocol, TypeVar

from aifs_ensemble.common.errors import ConfigError, WorkflowError
from aifs_ensemble.common.names import STEP_HOURS, parse_cycle

# In place of a cycle in names of files: the wildcard of the rules, as {member} is. Where a name has the day alone, too,
# it takes two wildcards.
EACH_CYCLE = "{cycle}"
EACH_DAY = "{date}_{time}"
C = TypeVar("C", bound="OfCycle")
MOST_CYCLES = 10_000  # a slip in a year would otherwise fill the memory
_EXPECTED = (
    "expected cycles such as 20250819_0000, a range such as 20250101_0000..20251225_0000 every 7d, or a file of these"
)
_CYCLE = re.compile(r"\d{8}_\d{4}")
_WITHOUT_SEPARATOR = re.compile(r"(\d{8})(\d{4})")
_RANGE = re.compile(r"(\S+?)\s*\.\.\s*(\S+)(?:\s+every\s+(\d+)\s*([hd]))?")


def wildcard_patterns(cycles: Iterable[str]) -> dict[str, str]:
    """Return what the wildcards of `EACH_CYCLE` and `EACH_DAY` stand for: these cycles and no others."""
    split = [cycle.partition("_") for cycle in cycles]
    days = (f"{day}(?=_{time})" for day, _, time in split)
    return {"cycle": "|".join(cycles), "date": "|".join(days), "time": "|".join(sorted({time for *_, time in split}))}


def cycle_of(wildcards: Mapping[str, str]) -> str | None:
    """Return the cycle that the wildcards of a job name; None where they name none."""
    # Snakemake's wildcards are a list of values with names: `in` looks at the values
    named, day = wildcards.get("cycle"), wildcards.get("date")
    return EACH_DAY.format(**wildcards) if named is None and day is not None else named


class OfCycle(Protocol):
    """What is of one cycle, such as its configuration."""

    @property
    def cycle(self) -> str: ...


def each_cycle(each: Sequence[C], do: Callable[[C], None], said: Callable[[str], None]) -> None:
    """Do something of each cycle, whatever becomes of the others.

    `said` is told each error of several as it comes. At the end a WorkflowError names these cycles, with the highest
    exit code among them; the error of one alone is raised as it is.
    """
    if len(each) == 1:
        do(each[0])
        return
    failed: dict[str, WorkflowError] = {}
    for one in each:
        try:
            do(one)
        except WorkflowError as error:
            failed[one.cycle] = error
            said(f"{one.cycle}: {error}")
    if failed:
        whole = WorkflowError(f"{len(failed)} of {len(each)} cycles: {name_cycles(tuple(failed))}: see above")
        whole.exit_code = max(error.exit_code for error in failed.values())
        raise whole


def format_cycles(cycles: Sequence[str]) -> str:
    """Return cycles as one word: the cycle, or the first and the last of several with a dash."""
    return cycles[0] if len(cycles) == 1 else f"{cycles[0]}-{cycles[-1]}"


def name_cycles(cycles: Sequence[str]) -> str:
    """Return cycles in a few words: each, or how many with the first and the last of more than three."""
    return ", ".join(cycles) if len(cycles) <= 3 else f"{len(cycles)} cycles, {cycles[0]} to {cycles[-1]}"


def check_cycle(text: str, key: str = "cycle") -> datetime:
    """Return the time of a cycle; ConfigError unless it is ``YYYYMMDD_HHMM`` at hour 00, 06, 12 or 18."""
    try:
        time = parse_cycle(text)
    except ConfigError as error:
        raise ConfigError(f"config: {key}: {str(error).removeprefix('cycle: ')}") from None
    if time.hour % STEP_HOURS or time.minute:
        raise ConfigError(f"config: {key}: {text!r}, expected hour 00, 06, 12 or 18")
    return time


def parse_cycles(value: str | Iterable[Any]) -> tuple[str, ...]:
    """Return the cycles that the key ``cycles`` names, the earliest first.

    Parameters
    ----------
    value : a list of cycles and ranges, the same with commas, or the path of a file that has one of them a line
        (``#`` begins a comment)

    Raises ConfigError, naming file and line of what a file holds, for anything else, a range that runs backwards, a
    cycle that is named twice, and more than `MOST_CYCLES`.
    """
    found: Counter[str] = Counter()
    for item, where in _items(value):
        found.update(_cycles_of(item, where))
        if found.total() > MOST_CYCLES:
            raise ConfigError(f"config: cycles: {where}{item!r}, expected at most {MOST_CYCLES} cycles")
    if not found:
        raise ConfigError(f"config: cycles: nothing named, {_EXPECTED}")
    if twice := sorted(cycle for cycle, count in found.items() if count > 1):
        more = f" and {len(twice) - 1} others" if len(twice) > 1 else ""
        raise ConfigError(f"config: cycles: {twice[0]}{more} named more than once")
    return tuple(sorted(found))


def _items(value: str | Iterable[Any]) -> Iterator[tuple[str, str]]:
    """Yield cycles and ranges as texts, and where each stands: empty where the configuration has it itself."""
    if not isinstance(value, str):
        for item in value:
            yield _text(item), ""
        return
    pieces = [piece.strip() for piece in value.split(",")]
    if all(map(_may_be_cycles, pieces)):
        yield from ((_text(piece), "") for piece in pieces)
        return
    path = Path(value).expanduser()
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "no text file"
        raise ConfigError(f"config: cycles: {value!r}, {_EXPECTED} ({why})") from None
    for number, line in enumerate(lines, start=1):
        if text := line.partition("#")[0].strip():
            yield _text(text), f"{value}:{number}: "


def _text(item: Any) -> str:
    """Return an item as text; 20250819_0000 without quotes is a number to YAML."""
    text = str(item).strip()
    bare = _WITHOUT_SEPARATOR.fullmatch(text)
    return f"{bare[1]}_{bare[2]}" if bare else text


def _may_be_cycles(text: str) -> bool:
    return bool(_CYCLE.fullmatch(_text(text)) or (_RANGE.fullmatch(text) and "/" not in text))


def _cycles_of(text: str, where: str) -> list[str]:
    """Return the cycles of one item."""
    span = _RANGE.fullmatch(text)
    if not span and not _CYCLE.fullmatch(text):
        raise ConfigError(f"config: cycles: {where}{text!r}, {_EXPECTED}")
    key = f"cycles: {where}".removesuffix(": ")
    if not span:
        check_cycle(text, key)
        return [text]
    first, last = check_cycle(_text(span[1]), key), check_cycle(_text(span[2]), key)
    if span[3] is None:
        raise ConfigError(f"config: cycles: {where}{text!r}, expected a step after it, such as every 7d or every 12h")
    hours = int(span[3]) * (24 if span[4] == "d" else 1)
    if not hours or hours % STEP_HOURS:
        raise ConfigError(f"config: cycles: {where}{text!r}, expected a step of {STEP_HOURS} hours or a multiple")
    if last < first:
        raise ConfigError(f"config: cycles: {where}{text!r} runs backwards, expected the earlier cycle first")
    count = int((last - first) / timedelta(hours=hours)) + 1
    if count > MOST_CYCLES:
        raise ConfigError(f"config: cycles: {where}{text!r}, expected at most {MOST_CYCLES} cycles")
    return [f"{first + index * timedelta(hours=hours):%Y%m%d_%H%M}" for index in range(count)]
