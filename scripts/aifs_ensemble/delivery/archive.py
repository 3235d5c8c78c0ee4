"""The cycles that a destination has, and which of them a user names."""

from __future__ import annotations

from collections.abc import Iterable

from aifs_ensemble.common.errors import ConfigError
from aifs_ensemble.common.names import parse_cycle
from aifs_ensemble.common.storage import Storage


def cycles_at(storage: Storage) -> list[str]:
    """Return the cycles that have anything at a destination, in order."""
    return [name for name in storage.folders() if _is_cycle(name)]


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


def _is_cycle(name: str) -> bool:
    try:
        parse_cycle(name)
    except ConfigError:
        return False
    return True
