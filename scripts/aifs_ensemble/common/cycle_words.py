"""Words that stand for a cycle: ``latest``, ``latest-thursday``, ``latest-12z``, each with an offset such as ``-1d``.

What a word stands for is looked up once, where a run or a command begins; nothing behind that knows words.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from aifs_ensemble.common.errors import ConfigError
from aifs_ensemble.common.names import STEP_HOURS

WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
EXPECTED = "expected latest, latest-thursday, latest-00z or latest-thursday-12z, with or without an offset such as -1d"
# so many cycles of a word are looked at, and none older
_MOST, _OLDEST = 8, timedelta(days=15)
_WORD = re.compile(
    rf"latest(?:-(?P<day>{'|'.join(WEEKDAYS)}))?(?:-(?P<hour>\d\d)z)?(?:-(?P<count>\d{{1,3}})(?P<unit>[hdw]))?"
)
_HOURS = {"h": 1, "d": 24, "w": 168}


@dataclass(frozen=True)
class CycleWord:
    """A word that stands for a cycle.

    Attributes
    ----------
    text : as the user wrote it
    weekday : 0 for Monday; None for any day
    hour : UTC; None for any of 00, 06, 12 and 18. A weekday without an hour means 00 UTC
    offset : what is counted back from the cycle that is found
    key : of the configuration, with what tells the item of a file from others, for messages
    """

    text: str
    weekday: int | None
    hour: int | None
    offset: timedelta
    key: str = "cycle"

    def __str__(self) -> str:
        return self.text

    @property
    def step(self) -> timedelta:
        """The time from one cycle of the word to the next."""
        return timedelta(days=7 if self.weekday is not None else 1) if self.hour is not None else timedelta(hours=6)

    @property
    def is_series(self) -> bool:
        """Whether it names a day or an hour: then a cycle between two others was missed; ``latest`` misses none."""
        return self.hour is not None

    def fits(self, time: datetime) -> bool:
        """Tell whether a cycle may be the one that is found, before the offset."""
        return (self.hour is None or time.hour == self.hour) and (
            self.weekday is None or time.weekday() == self.weekday
        )

    def newest_first(self, now: datetime) -> Iterator[datetime]:
        """Yield the cycles that may be meant at a time: those that have begun, the newest first."""
        start = now.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
        start -= timedelta(hours=start.hour % STEP_HOURS)
        while not self.fits(start):
            start -= timedelta(hours=STEP_HOURS)
        for count in range(_MOST):
            if now - (time := start - count * self.step) <= _OLDEST:
                yield time

    def between(self, first: datetime, last: datetime) -> list[datetime]:
        """Return the cycles of the word after `first` and before `last`, both with the offset; in order."""
        found = []
        time = last - self.step
        while time > first:
            if self.fits(time + self.offset):
                found.append(time)
            time -= self.step
        return found[::-1]


def is_word(cycle: Any) -> bool:
    """Tell whether a value of the key ``cycle``, or an item of ``cycles``, is meant as a word."""
    return isinstance(cycle, str) and cycle.startswith("latest")


def parse_word(text: str, key: str = "cycle") -> CycleWord:
    """Return the word that a text is; ConfigError, which names the key, if it is none."""
    key = key.removesuffix(": ")
    match = _WORD.fullmatch(text)
    hour = int(match["hour"]) if match and match["hour"] else 0 if match and match["day"] else None
    hours = int(match["count"]) * _HOURS[match["unit"]] if match and match["count"] else 0
    if not match or (hour is not None and hour not in range(0, 24, STEP_HOURS)) or hours % STEP_HOURS:
        raise ConfigError(f"config: {key}: {text!r}, {EXPECTED}")
    weekday = WEEKDAYS.index(match["day"]) if match["day"] else None
    return CycleWord(text, weekday, hour, timedelta(hours=hours), key)
