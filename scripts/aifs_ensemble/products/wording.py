"""Units that people use, times in words, and what a picture says of the forecast it shows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
import numpy.typing as npt

from aifs_ensemble.common.config import Config
from aifs_ensemble.common.names import count_members, format_members

# CF units: what people say, factor, offset
_UNITS: dict[str, tuple[str, float, float]] = {
    "K": ("°C", 1.0, -273.15),
    "Pa": ("hPa", 0.01, 0.0),
    "Pa s-1": ("Pa/s", 1.0, 0.0),
    "kg m-2": ("mm", 1.0, 0.0),
    "kg kg-1": ("g/kg", 1000.0, 0.0),
    "m s-1": ("m/s", 1.0, 0.0),
    "m2 s-2": ("dam", 1 / 98.0665, 0.0),
    "J m-2": ("MJ/m²", 1e-6, 0.0),
    "1": ("", 1.0, 0.0),
}


@dataclass(frozen=True)
class Units:
    """What a field is shown in: ``value * factor + offset``; a difference or a spread without the offset."""

    name: str
    factor: float = 1.0
    offset: float = 0.0

    def shown(self, values: npt.ArrayLike, *, difference: bool = False) -> npt.NDArray[np.float32]:
        """Return values in these units, float32."""
        offset = 0.0 if difference else self.offset
        return (np.asarray(values, np.float64) * self.factor + offset).astype(np.float32)


def shown_units(units: str) -> Units:
    """Return what people use for CF units; others as they are."""
    return Units(*_UNITS.get(units, (units, 1.0, 0.0)))


def number_words(value: float) -> str:
    """Return a number without a tail of noughts, with a real minus sign."""
    return f"{round(value, 3):g}".replace("-", "−")


def day_words(time: datetime) -> str:
    """Return e.g. ``20 August 2025``."""
    return f"{time.day} {time:%B %Y}"


def time_words(time: datetime) -> str:
    """Return e.g. ``Wednesday 20 August 2025, 00 UTC``."""
    return f"{time:%A} {day_words(time)}, {time:%H} UTC"


def cycle_words(config: Config) -> str:
    """Return e.g. ``19 August 2025, 00 UTC``."""
    return f"{day_words(config.cycle_time)}, {config.cycle_time:%H} UTC"


def lead_words(lead: int) -> str:
    """Return a lead time as people say it: ``36 hours``, ``3 days``."""
    return f"{lead} hours" if lead % 24 else f"{lead // 24} day{'s' if lead > 24 else ''}"


def period_words(config: Config, start: int, hours: int) -> str:
    """Return the days of a period, e.g. ``20 to 26 August 2025``; with hours unless it is whole days from 00 UTC."""
    first = config.cycle_time + timedelta(hours=start)
    end = first + timedelta(hours=hours)
    if first.hour or hours % 24:
        return f"{day_words(first)} {first:%H} UTC to {day_words(end)} {end:%H} UTC"
    last = end - timedelta(days=1)
    if first == last:
        return day_words(first)
    parts: list[Callable[[datetime], str]] = [lambda t: f"{t.year}", lambda t: f"{t:%B}"]
    year, month = (part(first) == part(last) for part in parts)
    if year and month:
        return f"{first.day} to {day_words(last)}"
    return f"{first.day} {first:%B} to {day_words(last)}" if year else f"{day_words(first)} to {day_words(last)}"


def ensemble_words(config: Config, members: Sequence[int]) -> str:
    """Return who is in a product, and who is missing: ``3 of 4 members``."""
    return count_members(config.members, members) if set(members) != set(config.members) else count_members(members)


def warnings(config: Config, members: Sequence[int], *, untrained: bool) -> list[str]:
    """Return what a reader must know before the picture is believed; empty where there is nothing."""
    said = ["Untrained model: this is not a forecast"] if untrained else []
    if missing := sorted(set(config.members) - set(members)):
        who = f"member{'s' if len(missing) > 1 else ''} {format_members(missing)}"
        said.append(f"Short ensemble: without {who}")
    return said
