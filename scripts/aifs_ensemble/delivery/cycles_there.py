"""The cycles at the destination and on scratch, by their names alone: which a user names, the newest, those missed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from aifs_ensemble.common.config import Config
from aifs_ensemble.common.cycle_words import CycleWord
from aifs_ensemble.common.errors import ConfigError, InputError, VerificationError
from aifs_ensemble.common.names import Keys, cycle_name, parse_cycle
from aifs_ensemble.common.storage import MissingError, Storage, open_destination
from aifs_ensemble.delivery.ensemble import parse_ensemble_manifest

_LOOK_SECONDS = 20.0


def cycles_at(storage: Storage) -> list[str]:
    """Return the cycles that a destination has something of, in order."""
    return _cycles(storage.folders())


def choose_cycles(there: Iterable[str], text: str) -> list[str]:
    """Return those of the cycles that are `there` which a text names, in order: cycles and ranges ``A..B``.

    Raises ConfigError for a piece that is neither, and for one that names no cycle that is there.
    """
    found: set[str] = set()
    known = sorted(there)
    for piece in map(str.strip, text.split(",")):
        first, dots, last = piece.partition("..")
        last = last if dots else first
        parse_cycle(first)
        parse_cycle(last)
        held = {cycle for cycle in known if first <= cycle <= last}
        if not held:
            ends = f"{len(known)} from {known[0]} to {known[-1]}" if known else "none"
            raise ConfigError(f"cycles: {piece!r}: not there, expected cycles of the destination, which has {ends}")
        found |= held
    return sorted(found)


def newest_there(word: CycleWord, config: Config) -> str:
    """Return the newest cycle that a word may have stood for of which the destination or scratch has something.

    The word's offset is not counted again: what it was counted back to is there. The cycle of `config` is not looked
    at. Raises InputError, one line, where there is none.
    """
    return cycle_name(words_there({word: False}, config)[word])


def words_there(words: Mapping[CycleWord, bool], config: Config) -> dict[CycleWord, datetime]:
    """Return what words in one list stood for when a run made the newest cycle that is there and may be of them.

    `words` says which of them end a range: then any cycle may be of it. Those with the least offset meant that newest
    cycle, or the last before it of their day and hour, and the others as much before. As in `newest_there`, the cycle
    of `config` is not looked at, and InputError is raised where there is none.
    """
    found: set[str] = set()
    for one in config.of_each_model:
        found |= set(_on_scratch(one.scratch_root))
        if one.destination:
            found |= set(cycles_at(open_destination(one, within=_LOOK_SECONDS)))
    times = [
        time
        for time in map(parse_cycle, found)
        if any(in_range or word.fits(time + word.offset) for word, in_range in words.items())
    ]
    if not times:
        places = " and ".join(filter(None, [config.destination, str(config.scratch_root)]))
        word = next(iter(words))
        raise InputError(f"config: {word.key}: {word.text!r}: {places} have no such cycle, expected one that was run")
    then = max(times) + min(word.offset for word in words)
    return {word: next(word.newest_first(then)) - word.offset for word in words}


def missed(word: CycleWord, cycle_time: datetime, storage: Storage) -> Iterator[str]:
    """Yield what is to be said of earlier cycles of a word when a later one is run: not made, or not whole.

    Looked at are those since the newest of the word that is there, and this one.
    """
    if not word.is_series:
        return
    times = map(parse_cycle, cycles_at(storage))
    earlier = [time for time in times if time < cycle_time and word.fits(time + word.offset)]
    if not earlier:
        return
    last = max(earlier)
    named = [cycle_name(time) for time in word.between(last, cycle_time)]
    if named:
        yield f"not forecast since {cycle_name(last)}: {', '.join(named)}; --config cycle={named[-1]} makes that one"
    if (state := _state(storage, cycle_name(last))) != "complete":
        yield f"{cycle_name(last)} is {state}: --config cycle={cycle_name(last)} goes on with it"


def _state(storage: Storage, cycle: str) -> str:
    """Return what the manifest of an ensemble says that it is, ``unfinished`` without one."""
    key = Keys(cycle).ensemble_manifest
    try:
        return parse_ensemble_manifest(storage.get_bytes(key), key, cycle).state
    except MissingError:
        return "unfinished"
    except VerificationError:
        return "damaged"


def _on_scratch(root: Path) -> list[str]:
    with suppress(OSError):
        return _cycles([path.name for path in root.iterdir() if path.is_dir()])
    return []


def _cycles(names: Iterable[str]) -> list[str]:
    """Return those of the names that are cycles, in order."""
    found = []
    for name in names:
        with suppress(ConfigError):
            parse_cycle(name)
            found.append(name)
    return sorted(found)
