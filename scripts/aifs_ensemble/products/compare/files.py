"""Which files a comparison of two models has, and where they are: all that the plan of a run asks."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from aifs_ensemble.common.config import Config

if TYPE_CHECKING:
    from aifs_ensemble.common.areas import Area
    from aifs_ensemble.products.pictures.catalogue import Series, When

FOLDER = "compare"
PAGE, DATA, TABLE, SCORES = "index.html", "compare.nc", "differences.csv", "scores.csv"
DIFFERENCE = "difference"


def is_compared(config: Config) -> bool:
    """Tell whether the models of a run are compared: two, unless that is left out."""
    return len(config.models) > 1 and config.products.compare.enabled


def comparison_key(cycle: str, name: str) -> str:
    """Return where a file of a comparison is, relative to the destination of the run."""
    return f"{FOLDER}/{cycle}/{name}"


def stamp_key(cycle: str) -> str:
    """Return where the record is of which members were compared."""
    return comparison_key(cycle, "stamp.json")


def map_name(series: Series, shown: str, area: Area, when: When, theme: str) -> str:
    """Return the name of a map's file; `shown` is a model, of whose mean it is, or `DIFFERENCE`."""
    return f"maps/{series.name}_{shown}_{area.name}_{when.name}-{theme}.png"


@cache
def comparison_files(config: Config) -> tuple[str, ...]:
    """Return the names of the files of a comparison, the page first; `config` is that of a run of two models."""
    return (PAGE, DATA, TABLE, SCORES, *(_map_names(config) if config.products.pictures.enabled else ()))


def _map_names(config: Config) -> list[str]:
    # they import matplotlib
    from aifs_ensemble.common.themes import THEMES
    from aifs_ensemble.products.pictures.catalogue import areas_of, lead_series

    one = config.of_each_cycle[0]
    return [
        map_name(series, shown, area, when, theme.name)
        for series in lead_series(one)
        for shown in (*config.models, DIFFERENCE)
        for area in areas_of(one)
        for when in series.whens
        for theme in THEMES
    ]


def compared_leads(config: Config) -> list[int]:
    """Return the leads in hours that are compared, those of ``products.compare.every_hours``, or else the last."""
    every = config.products.compare.every_hours
    return [lead for lead in config.leads if lead % every == 0] or [config.leads[-1]]
