"""Durations, sizes, money, tables and hints as people read them."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from textwrap import wrap
from types import MappingProxyType
from typing import Any, TextIO


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


NARROWEST = 80  # columns, that a terminal is taken to have at least


def terminal_width(stream: TextIO) -> int | None:
    """Return the columns of the terminal that a stream writes to, `NARROWEST` at least; None for a pipe or a file."""
    try:
        return max(os.get_terminal_size(stream.fileno()).columns, NARROWEST) if stream.isatty() else None
    except (OSError, ValueError):  # a stream that stands for one has no file
        return None


def table(
    rows: Sequence[Sequence[Any]],
    headers: Sequence[str],
    *,
    width: int | None = None,
    short: Mapping[str, str] = MappingProxyType({}),
    least: Sequence[str] = (),
) -> list[str]:
    """Return a plain table, numbers to the right.

    Where it is wider than `width` characters, columns stand closer and those in `short` get that heading. If need be,
    columns are left out, `least` needed ones first.
    """
    from tabulate import tabulate

    align = _align(rows, headers)
    lines = tabulate(rows, headers=headers, tablefmt="simple", disable_numparse=True, colalign=align).split("\n")
    for out in range(len(least) + 1):
        if width is None or max(map(len, lines)) <= width:
            return lines
        kept = [place for place, name in enumerate(headers) if name not in least[:out]]
        named = [short.get(headers[place], headers[place]) for place in kept]
        cells = [[str(row[place]) for place in kept] for row in rows]
        widths = [max(map(len, column)) for column in zip(named, *cells, strict=True)]
        # as rows, since tabulate makes a column two wider than its heading
        ruled = [named, ["-" * wide for wide in widths], *cells]
        aligned = [align[place] for place in kept]
        lines = tabulate(ruled, tablefmt="plain", disable_numparse=True, colalign=aligned).split("\n")
    return lines


def fold(line: str, width: int | None) -> list[str]:
    """Return a line as lines of at most `width` characters, folded between words; whole where there is no width."""
    if width is None or len(line) <= width:
        return [line]
    indent = " " * (len(line) - len(line.lstrip()) + 2)
    return wrap(line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def plain_number(value: float) -> str:
    """Return a number in four digits or all before its point, never with an exponent; empty where it is not known."""
    if not math.isfinite(value):
        return ""
    if abs(value) >= 9999.5:
        return f"{value:,.0f}"
    text = f"{value:.4g}"
    return f"{value:.9f}".rstrip("0").rstrip(".") if "e" in text else text


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
