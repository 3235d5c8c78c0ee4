"""Seconds by phase of a forecast."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter


class Timings:
    """Seconds by phase, added up."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        """Add the time spent inside to `phase`."""
        start = perf_counter()
        try:
            yield
        finally:
            self.seconds[phase] = self.seconds.get(phase, 0.0) + perf_counter() - start

    @property
    def rounded(self) -> dict[str, float]:
        """The seconds to a tenth of a millisecond."""
        return {phase: round(seconds, 4) for phase, seconds in self.seconds.items()}
