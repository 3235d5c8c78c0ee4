"""The cycles of a run: one, several, those of a range with a step, or those of a file with one a line.

Words such as ``latest`` may stand among them. What they mean is looked up elsewhere, once.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Protocol, TypeVar

from aifs_ensemble.common.cycle_words import CycleWord, is_word, parse_word
from aifs_ensemble.common.errors import ConfigError, WorkflowError
from aifs_ensemble.common.names import STEP_HOURS, cycle_name, parse_cycle

# In place of a cycle in names of files: the wildcard of the rules, as {member} is. Where a name has the day alone, too,
# it takes two wildcards.
EACH_CYCLE = "{cycle}"
EACH_DAY = "{date}_{time}"
C = TypeVar("C", bound="OfCycle")
T = TypeVar("T")
MOST_CYCLES = 10_000  # a slip in a year would otherwise fill the memory
_EXPECTED = (
    "expected cycles such as 20250819_0000 or latest, a range such as 20250101_0000..20251225_0000 every 7d, or a file "
    "of these"
)
_KEYS = ("cycle", "cycles")
_CYCLE = re.compile(r"\d{8}_\d{4}")
_LIKE_WORD = re.compile(r"latest[\w-]*")  # latest.txt is a file
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
    """What is of one cycle, such as its configuration; `unit` is what messages call it."""

    @property
    def unit(self) -> str: ...


def each_cycle(each: Sequence[C], do: Callable[[C], None], said: Callable[[str], None]) -> None:
    """Do something of each cycle, whatever becomes of the others: see `each_of`."""
    each_of({one.unit: one for one in each}, do, said)


def each_of(
    each: Mapping[str, T], do: Callable[[T], None], said: Callable[[str], None], *, what: str = "cycles"
) -> None:
    """Do something of each of several, by their names, whatever becomes of the others; `what` says what they are.

    `said` is told each error of several as it comes. At the end a WorkflowError names those that failed, with the
    highest exit code among them; the error of one alone is raised as it is.
    """
    if len(each) == 1:
        do(*each.values())
        return
    failed: dict[str, WorkflowError] = {}
    for name, one in each.items():
        try:
            do(one)
        except WorkflowError as error:
            failed[name] = error
            told = f"{name}: "
            said(f"{told}{str(error).removeprefix(told)}")
    if failed:
        whole = WorkflowError(f"{len(failed)} of {len(each)} {what}: {name_cycles(tuple(failed))}: see above")
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


def is_given(raw: Mapping[str, Any], key: str) -> bool:
    """Tell whether a configuration sets a key to something else than null."""
    return raw.get(key) not in (None, "null")  # the latter from the command line


def keep_later(raw: dict[str, Any], layers: Sequence[Mapping[str, Any]]) -> None:
    """Leave of ``cycle`` and ``cycles`` in a configuration the one that was given later.

    `layers` are what it was put together from, files and command line, the later ones over the earlier. Where one of
    them gives both they stay, and are refused with the configuration.
    """
    if not all(is_given(raw, key) for key in _KEYS):
        return
    last: list[str] = next(filter(None, ([key for key in _KEYS if is_given(layer, key)] for layer in layers[::-1])), [])
    if len(last) == 1:
        raw.update({key: None for key in _KEYS if key not in last})


def words_of(value: Any) -> dict[CycleWord, bool]:
    """Return the words among the cycles that a value of the key ``cycles`` names, and which of them end a range.

    There are none in a value that `parse_cycles` refuses whatever the words mean.
    """
    found: dict[CycleWord, bool] = {}
    try:
        for item, where in _items(value) if isinstance(value, str | list) else ():
            ends = _ends(item)
            for word in (parse_word(end, f"cycles: {where}") for end in ends if is_word(end)):
                found[word] = found.get(word, False) or len(ends) > 1
    except ConfigError:
        return {}
    return found


def has_words(raw: Mapping[str, Any]) -> bool:
    """Tell whether a word stands for the cycle of a configuration, or for one of its cycles."""
    return is_word(raw.get("cycle")) or bool(words_of(raw.get("cycles")))


def parse_cycles(
    value: str | Iterable[Any], meant: Mapping[str, str] | None = None, said: Callable[[str], None] | None = None
) -> tuple[str, ...]:
    """Return the cycles that the key ``cycles`` names, the earliest first.

    Parameters
    ----------
    value : a list of cycles and ranges, the same with commas, or the path of a file that has one of them a line
        (``#`` begins a comment)
    meant : the cycles that words stand for
    said : is told, in a line, which cycles of a word, or of a range with one, are named already; they count once

    Raises ConfigError, naming file and line of what a file holds, for anything else, a range that runs backwards, a
    cycle that is named twice, a word that is not in `meant`, and more than `MOST_CYCLES`.
    """
    found: Counter[str] = Counter()
    of_words: list[tuple[str, list[str]]] = []
    for item, where in _items(value):
        cycles = _cycles_of(item, where, meant or {})
        if any(map(is_word, _ends(item))):
            of_words.append((where + item, cycles))
        else:
            found.update(cycles)
        if found.total() + sum(len(each) for _, each in of_words) > MOST_CYCLES:
            raise ConfigError(f"config: cycles: {where}{item!r}, expected at most {MOST_CYCLES} cycles")
    if twice := sorted(cycle for cycle, count in found.items() if count > 1):
        more = f" and {len(twice) - 1} others" if len(twice) > 1 else ""
        raise ConfigError(f"config: cycles: {twice[0]}{more} named more than once")
    for text, cycles in of_words:
        if said and (again := tuple(cycle for cycle in cycles if cycle in found)):
            said(
                f"cycles {text}: {name_cycles(again)} {'is' if len(again) == 1 else 'are'} named already, counted once"
            )
        found.update(cycles)
    if not found:
        raise ConfigError(f"config: cycles: nothing named, {_EXPECTED}")
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
    if _CYCLE.fullmatch(_text(text)) or _LIKE_WORD.fullmatch(text):
        return True
    return bool(_RANGE.fullmatch(text) and "/" not in text)


def _ends(text: str) -> list[str]:
    """Return the two ends of a range; of anything else itself."""
    span = _RANGE.fullmatch(text)
    return [span[1], span[2]] if span else [text]


def _time(text: str, key: str, meant: Mapping[str, str]) -> datetime:
    """Return the time of a cycle, or of that which a word stands for."""
    if is_word(text):
        parse_word(text, key)
    return check_cycle(_text(meant.get(text, text)), key)


def _cycles_of(text: str, where: str, meant: Mapping[str, str]) -> list[str]:
    """Return the cycles of one item."""
    span = _RANGE.fullmatch(text)
    if not (span or is_word(text) or _CYCLE.fullmatch(text)):
        raise ConfigError(f"config: cycles: {where}{text!r}, {_EXPECTED}")
    key = f"cycles: {where}".removesuffix(": ")
    first, last = (_time(end, key, meant) for end in (span.groups()[:2] if span else (text, text)))
    if not span:
        return [_text(meant.get(text, text))]
    if span[3] is None:
        raise ConfigError(f"config: cycles: {where}{text!r}, expected a step after it, such as every 7d or every 12h")
    hours = int(span[3]) * (24 if span[4] == "d" else 1)
    if not hours or hours % STEP_HOURS:
        raise ConfigError(f"config: cycles: {where}{text!r}, expected a step of {STEP_HOURS} hours or a multiple")
    if last < first:
        told = ", ".join(f"{end} is {meant[end]}" for end in _ends(text) if end in meant)
        raise ConfigError(
            f"config: cycles: {where}{text!r} runs backwards{f' ({told})' if told else ''}, expected the earlier cycle "
            "first"
        )
    count = int((last - first) / timedelta(hours=hours)) + 1
    if count > MOST_CYCLES:
        raise ConfigError(f"config: cycles: {where}{text!r}, expected at most {MOST_CYCLES} cycles")
    return [cycle_name(first + index * timedelta(hours=hours)) for index in range(count)]
