"""Which pictures there are: the choices of a reader, and the file of each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

from aifs_ensemble.common.areas import Area, areas_named
from aifs_ensemble.common.config import Config
from aifs_ensemble.common.names import lead_name, place_label
from aifs_ensemble.common.themes import THEMES
from aifs_ensemble.products.pictures.quantities import Quantity, quantity_of
from aifs_ensemble.products.wording import day_words, lead_words, number_words, period_words, time_words

MEAN, SPREAD, MEMBERS, LOWEST, HIGHEST = "mean", "spread", "members", "lowest", "highest"


@dataclass(frozen=True)
class Kind:
    """What a map shows of a quantity; `threshold`, in GRIB's units, of a probability."""

    name: str
    title: str
    threshold: float | None = None


@dataclass(frozen=True)
class When:
    """A time or a period that a map is of: its name in files, a short label, words, its first lead and its hours."""

    name: str
    label: str
    words: str
    lead: int


@dataclass(frozen=True)
class Series:
    """Maps that a slider goes through: one quantity, its kinds and its times."""

    name: str
    title: str
    quantity: Quantity
    kinds: tuple[Kind, ...]
    whens: tuple[When, ...]


def areas_of(config: Config) -> list[Area]:
    """Return the areas of the maps."""
    pictures = config.products.pictures
    return areas_named(pictures.areas, pictures.own_areas, "products.pictures")


def lead_series(config: Config) -> list[Series]:
    """Return the maps of leads."""
    pictures = config.products.pictures
    leads = [lead for lead in config.leads if lead % pictures.step_hours == 0] or [config.leads[-1]]
    found = []
    for name in pictures.variables:
        quantity = quantity_of(name)
        over, first = "", 0
        if quantity.accumulates:
            first = pictures.amount_hours
            over = f" in {first} hours"
        whens = tuple(_lead_when(config, quantity, lead) for lead in leads if lead >= first)
        if whens:
            title = f"{quantity.style.title}{over}"
            found.append(Series(name, title, quantity, tuple(_kinds(quantity)), whens))
    return found


def period_series(config: Config) -> list[Series]:
    """Return the maps of the periods of ``products.weekly``."""
    weekly = config.products.weekly
    whens = tuple(
        When(name, _period_label(config, start), period_words(config, start, weekly.hours), start)
        for name, start in config.periods.items()
    )
    found = []
    for name, item in weekly.variables.items() if whens else ():
        quantity = quantity_of(item.variable)
        days = lead_words(weekly.hours)
        title = f"{quantity.style.title}, {'total' if item.statistic == 'sum' else 'mean'} of {days}"
        kinds = [kind for kind in _kinds(quantity) if kind.threshold is None]
        if weekly.climatology:
            kinds += [
                Kind(LOWEST, "Probability of the lowest class of the climatology"),
                Kind(HIGHEST, "Probability of the highest class of the climatology"),
            ]
        # a name of its own: a variable of the periods may be called as one of the leads
        found.append(Series(f"{name}-{weekly.hours}h", title, quantity, tuple(kinds), whens))
    return found


def _kinds(quantity: Quantity) -> Iterator[Kind]:
    yield Kind(MEAN, "Ensemble mean")
    yield Kind(SPREAD, "Spread (colours) and mean (lines)")
    for threshold in quantity.thresholds:
        shown = float(quantity.units.shown(threshold))
        name = f"over-{shown:.6g}".replace("--", "-m").replace(".", "p")
        yield Kind(name, f"Probability of at least {number_words(shown)} {quantity.units.name}", threshold)
    yield Kind(MEMBERS, "Each member")


def _lead_when(config: Config, quantity: Quantity, lead: int) -> When:
    valid = config.cycle_time + timedelta(hours=lead)
    words = f"{time_words(valid)}, {lead_words(lead)} after the start"
    if quantity.accumulates:
        words = f"{config.products.pictures.amount_hours} hours up to {words}"
    return When(lead_name(lead), f"+{lead} h", words, lead)


def _period_label(config: Config, start: int) -> str:
    return day_words(config.cycle_time + timedelta(hours=start)).rpartition(" ")[0]


def map_file(series: Series, kind: Kind, area: Area, when: When, theme: str) -> str:
    """Return the name of a map's file."""
    return f"{series.name}_{kind.name}_{area.name}_{when.name}-{theme}.png"


def map_files(config: Config) -> list[str]:
    """Return the names of the files of all maps."""
    return [
        map_file(series, kind, area, when, theme.name)
        for series in (*lead_series(config), *period_series(config))
        for kind in series.kinds
        for area in areas_of(config)
        for when in series.whens
        for theme in THEMES
    ]


def meteogram_files(config: Config) -> list[str]:
    """Return the names of the files of all meteograms: a picture for each theme, and the figures as JSON."""
    labels = [place_label(place) for place in config.products.pictures.places]
    return [name for label in labels for name in (*(f"{label}-{theme.name}.png" for theme in THEMES), f"{label}.json")]
