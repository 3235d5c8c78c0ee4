"""Durations, sizes, money and tables as people read them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    pass


def duration(seconds: float) -> str:
    """Return e.g. ``45 s``, ``7 min 23 s`` or ``2 h 5 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


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
