"""Torch's deterministic mode, without what it costs where nothing could differ.

In that mode torch sorts indices before it writes by them, because of two values for one place the later one would
win by chance, and it fills memory with NaN before it is used. Neither changes a bit where every place is written
once and no memory is read before it is written; both cost passes over fields of half a million points.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


def set_deterministic(enabled: bool) -> None:
    """Ask torch for algorithms that give the same bits every time, or no longer."""
    torch.use_deterministic_algorithms(enabled, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


@contextmanager
def places_written_once() -> Iterator[None]:
    """While it lasts torch writes by indices without sorting them: for indices of which none occurs twice."""
    enabled = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(False)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(enabled, warn_only=warn_only)
