"""Durations, sizes, money, tables and hints as people read them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any


def duration(seconds: float) -> str:
    """Return e.g. ``45 s``, ``7 min 23 s``, ``42 min``, ``2 h 05 min`` or ``3 d 4 h``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 600:
        return f"{whole // 60} min {whole % 60} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{minutes // 1440} d {minutes % 1440 // 60} h"


def size(count: float) -> str:
    """Return bytes in the largest decimal unit that leaves a number above 1."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def money(usd: float) -> str:
    """Return an amount: cents below $100."""
    return f"${usd:,.2f}" if abs(usd) < 100 else f"${usd:,.0f}"


def table(rows: Sequence[Sequence[Any]], headers: Sequence[str]) -> list[str]:
    """Return a plain table, numbers to the right."""
    from tabulate import tabulate

    return tabulate(
        rows, headers=headers, tablefmt="simple", disable_numparse=True, colalign=_align(rows, headers)
    ).split("\n")


def _align(rows: Sequence[Sequence[Any]], headers: Sequence[str]) -> list[str]:
    def numeric(column: int) -> bool:
        values = [str(row[column]) for row in rows if str(row[column])]
        return bool(values) and all(value[0] in "0123456789$-+~<" and len(value) < 14 for value in values)

    return ["right" if rows and numeric(i) else "left" for i in range(len(headers))]


def nearest(name: object, known: Iterable[str], *, cutoff: float = 0.6) -> str | None:
    """Return the known name that a mistyped one is nearest to, None where none is near."""
    near = get_close_matches(str(name), list(known), n=1, cutoff=cutoff)
    return near[0] if near else None


def hint(name: object, known: Iterable[str], otherwise: str = "") -> str:
    """Return ``did you mean 'x'?`` for the nearest known name, else `otherwise` or what is known: an error's end."""
    known = list(known)
    near = nearest(name, known)
    return f"did you mean {near!r}?" if near else otherwise or f"known are {', '.join(known)}"


def first_of(lines: Sequence[str], most: int, *, told: bool = False) -> str:
    """Return the first of several problems and how many more there are; only how many, where each was `told`."""
    if told:
        return f"{len(lines)} {'problem' if len(lines) == 1 else 'problems'}, named above"
    more = f" and {len(lines) - most} more" if len(lines) > most else ""
    return f"{'; '.join(lines[:most])}{more}"


def printable(text: str) -> str:
    """Return text for a terminal: its lines, and a question mark for whatever would be a command to it."""
    return "".join(c if c.isprintable() or c == "\n" else "?" for c in text)


def foreign(value: object, most: int = 100) -> str:
    """Return what a file, an object or a server says, fit for a message: one line, at most `most` printable characters.

    Nobody vouches for such bytes: they may hold line feeds, commands to a terminal, or millions of characters.
    """
    try:
        text = str(value)
    except ValueError:  # a number of more digits than Python writes
        text = type(value).__name__
    shown = "".join(c if c.isprintable() else " " if c.isspace() else "?" for c in text[: most + 1])
    return shown if len(shown) <= most else f"{shown[: most - 3]}..."
