"""Which statistics are made: of which variables, at which leads, over which hours, into which files.

Fields of one file share their period, for readers' sake: of several windows that end together cfgrib keeps one without
a word, and CDO refuses probabilities of windows beside those of instants (cfgrib 0.9.15, CDO 2.1).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from aifs_ensemble.common.config import Config
from aifs_ensemble.common.names import index_file
from aifs_ensemble.common.parameters import parameter_of
from aifs_ensemble.common.periods import window_ends
from aifs_ensemble.common.wind_speed import wind_speed
from aifs_ensemble.products.statistics.named_thresholds import named_thresholds

MEAN, SPREAD, PROBABILITY = "em", "es", "ep"  # as ECMWF calls the types
NETCDF = "ens"
INSTANT = 0


@dataclass(frozen=True)
class Chunk:
    """What one job makes: all statistics of some leads, in hours."""

    leads: tuple[int, ...]

    @property
    def first(self) -> int:
        return self.leads[0]

    @property
    def last(self) -> int:
        return self.leads[-1]

    @property
    def name(self) -> str:
        """As rules and logs call it: ``h006_024``."""
        return f"h{self.first:03d}_{self.last:03d}"


def chunks(config: Config) -> list[Chunk]:
    """Return the jobs of an ensemble, in order of their leads; none where statistics are off."""
    statistics = config.products.statistics
    if not statistics.enabled:
        return []
    hours = statistics.hours_a_job
    starts = range(0, config.lead_hours, hours)
    found = (tuple(lead for lead in config.leads if start < lead <= start + hours) for start in starts)
    return [Chunk(leads) for leads in found if leads]


def find_chunk(config: Config, name: str) -> Chunk:
    """Return the chunk of a name."""
    return next(chunk for chunk in chunks(config) if chunk.name == name)


def is_amount(name: str) -> bool:
    """Tell whether a variable of a product is an amount over a period."""
    return wind_speed(name) is None and parameter_of(name).accumulates


def variables(config: Config, window: int) -> list[str]:
    """Return the variables of which statistics are made: amounts over a window, or instants (window 0)."""
    return [name for name in config.products.statistics.variables if is_amount(name) == bool(window)]


def windows(config: Config, lead: int) -> list[int]:
    """Return the windows in hours that end at a lead, `INSTANT` among them where there are instants."""
    chosen = [INSTANT, *config.products.statistics.windows]
    return [
        window for window in chosen if variables(config, window) and (window == INSTANT or window_ends(window, lead))
    ]


def leads_of(config: Config, chunk: Chunk, window: int) -> list[int]:
    """Return the leads of a chunk at which a window ends."""
    return [lead for lead in chunk.leads if window in windows(config, lead)]


def kinds(config: Config, window: int) -> list[str]:
    """Return the kinds of GRIB files; probabilities only where GRIB has a name for one."""
    named = any(named_thresholds(config, name) for name in variables(config, window))
    return [MEAN, SPREAD, *([PROBABILITY] if named else [])]


def files(config: Config, chunk: Chunk) -> Iterator[tuple[str, int, int, str]]:
    """Yield kind, lead, window and key of every file of a chunk; of NetCDF the lead is the last one."""
    keys = config.objects
    for lead in chunk.leads:
        for window in windows(config, lead):
            for kind in kinds(config, window):
                yield kind, lead, window, keys.statistics(lead, lead, kind, window)
    for window in sorted({window for lead in chunk.leads for window in windows(config, lead)}):
        yield NETCDF, chunk.last, window, keys.statistics(chunk.first, chunk.last, NETCDF, window)


def outputs(config: Config, chunk: Chunk) -> list[str]:
    """Return the keys of all files of a chunk, indexes among them."""
    keys = []
    for kind, _, _, key in files(config, chunk):
        keys += [key] if kind == NETCDF else [key, index_file(key)]
    return keys
