"""Snakemake's log without lists of thousands of names: of those alike but for numbers the first, the last, a count.

A run of fifty members declares 6,600 leads, and Snakemake names every output of a job, twice where it is missing.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Sequence
from typing import Any

# as many alike are named one by one
_MOST = 4
_ITEM = r"[^\s,;()]+(?: \([a-z ]+\))?"
_LIST = re.compile(rf"{_ITEM}(?:(?:, |\n){_ITEM}){{{_MOST},}}")
_LISTS = ("input", "output", "log")
_TEXTS = ("msg", "reason")


def shortened(names: Iterable[str]) -> list[str]:
    """Return names in their order, those alike but for numbers once, as first, last and how many."""
    kept = list(names)
    alike: dict[str, list[str]] = {}
    for name in kept:
        alike.setdefault(re.sub(r"\d+", "0", name), []).append(name)
    short: list[str] = []
    for same in alike.values():
        if len(same) > _MOST:
            same.sort()
            short.append(f"{same[0]} ... {same[-1].rpartition('/')[2]} ({len(same)} files)")
        else:
            short += same
    return short


def short_text(text: str) -> str:
    """Return a text in which lists of names, by comma or line, are shortened."""

    def short(found: re.Match[str]) -> str:
        separator = "\n" if "\n" in found[0] else ", "
        return separator.join(shortened(found[0].split(separator)))

    return _LIST.sub(short, text)


class ShortNames(logging.Filter):
    """Shortens what Snakemake's records name; never drops one."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Shorten the names in a record."""
        if not record.args:
            _shorten(record.__dict__)
        for job in getattr(record, "job_error_info", None) or ():
            if isinstance(job, dict):
                _shorten(job)
        return True


def _shorten(content: dict[str, Any]) -> None:
    for name in _LISTS:
        value = content.get(name)
        if isinstance(value, Sequence) and not isinstance(value, str) and len(value) > _MOST:
            content[name] = shortened(value)
    for name in _TEXTS:
        value = content.get(name)
        if isinstance(value, str) and len(value) > 200:
            content[name] = short_text(value)
