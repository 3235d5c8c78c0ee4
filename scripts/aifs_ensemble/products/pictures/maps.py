"""Maps of the ensemble: mean, spread, probabilities and postage stamps of the members, by lead and by period."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import xarray as xr

from aifs_ensemble.common.areas import Area
from aifs_ensemble.common.config import Config
from aifs_ensemble.common.files import write_bytes
from aifs_ensemble.common.names import CONTROL
from aifs_ensemble.common.periods import weights_of_leads
from aifs_ensemble.common.themes import THEMES
from aifs_ensemble.products.parallel import readers
from aifs_ensemble.products.pictures import ink, looks
from aifs_ensemble.products.pictures.catalogue import (
    HIGHEST,
    LOWEST,
    MEAN,
    MEMBERS,
    SPREAD,
    Kind,
    Series,
    When,
    areas_of,
    lead_series,
    map_file,
    period_series,
)
from aifs_ensemble.products.pictures.layout import layout
from aifs_ensemble.products.pictures.projection import Sampler, sampler
from aifs_ensemble.products.pictures.quantities import Quantity
from aifs_ensemble.products.pictures.sheet import Drawn, Sheet, png_files
from aifs_ensemble.products.quantile_classes import read_members
from aifs_ensemble.products.regular_fields import RegularFields
from aifs_ensemble.products.regular_grid import RegularGrid
from aifs_ensemble.products.wording import cycle_words, ensemble_words, warnings

Array = npt.NDArray[np.float32]


def delivered_members(config: Config, members: Sequence[int], sources: Sequence[str]) -> dict[int, RegularFields]:
    """Return readers of members; InputError for one that is not delivered."""
    return {member: RegularFields(config, member, sources) for member in members}


def draw_lead_maps(config: Config, members: Mapping[int, RegularFields], folder: Path) -> None:
    """Draw every map of leads into `folder`, one lead after the other."""
    every = lead_series(config)
    untrained = any(member.untrained for member in members.values())
    drawer = Drawer(config, list(members), folder, RegularGrid(config), untrained=untrained)
    by_lead: dict[int, list[tuple[Series, When]]] = {}
    for series in every:
        for when in series.whens:
            by_lead.setdefault(when.lead, []).append((series, when))
    with ThreadPoolExecutor(readers(config)) as pool:
        for lead, wanted in sorted(by_lead.items()):
            quantities = [series.quantity for series, _ in wanted]
            fields = list(
                pool.map(
                    lambda member, lead=lead, q=quantities: read_quantities(config, member, lead, q), members.values()
                )
            )
            for place, (series, when) in enumerate(wanted):
                drawer.draw(series, when, np.stack([one[place] for one in fields]))


def read_quantities(config: Config, member: RegularFields, lead: int, quantities: Sequence[Quantity]) -> list[Array]:
    """Return quantities of one member at a lead: values, or the amounts of the hours before."""
    weights = [_weights(config, quantity, lead) for quantity in quantities]
    wanted: dict[int, set[str]] = {}
    for quantity, leads in zip(quantities, weights, strict=True):
        for one in leads:
            wanted.setdefault(one, set()).update(quantity.sources)
    fields = {one: member.read(one, sorted(variables)) for one, variables in wanted.items()}
    found = []
    for quantity, leads in zip(quantities, weights, strict=True):
        parts = [np.float32(weight) * quantity.of(fields[one]) for one, weight in leads.items()]
        found.append(sum(parts[1:], parts[0]))
    return found


def _weights(config: Config, quantity: Quantity, lead: int) -> dict[int, float]:
    if not quantity.accumulates:
        return {lead: 1.0}
    hours, from_start = config.products.pictures.amount_hours, config.forecast.accumulate == "from_start"
    weights = weights_of_leads("sum", lead - hours, hours, step=config.model.timestep_hours, from_start=from_start)
    weights.pop(0, None)  # nothing has fallen at the start
    return weights


def draw_period_maps(config: Config, files: Sequence[Path], quintiles: Path | None, folder: Path) -> None:
    """Draw every map of periods into `folder`, from the members' `files`, and `quintiles` if there is a climatology."""
    data = read_members(files)
    members = [int(number) for number in data["number"]]
    drawer = Drawer(config, members, folder, RegularGrid(config), untrained=config.model.untrained)
    chances = None
    if quintiles:
        with xr.open_dataset(quintiles, engine="netcdf4", decode_timedelta=False) as file:
            chances = file.load()
    for (name, item), series in zip(config.products.weekly.variables.items(), period_series(config), strict=True):
        for number, when in enumerate(series.whens):
            fields = data[name].sel(period=when.name).transpose("number", "latitude", "longitude").to_numpy()
            classes: Array | None = None
            if chances is not None:
                classes = chances[f"{item.variable}_quintiles"].to_numpy()[number]
            drawer.draw(series, when, fields, classes)


class Drawer:
    """Draws maps of an ensemble into a folder."""

    def __init__(self, config: Config, members: Sequence[int], folder: Path, grid: RegularGrid, *, untrained: bool):
        self._config, self._members, self._folder, self._grid = config, members, folder, grid
        self._warned = warnings(config, members, untrained=untrained)
        self._said = f"Forecast of {cycle_words(config)}, {ensemble_words(config, members)}, model {config.model.name}"
        self._sheet: Callable[[Series, Kind, Area], Sheet] = cache(self._new_sheet)
        folder.mkdir(parents=True, exist_ok=True)

    def draw(self, series: Series, when: When, fields: Array, classes: Array | None = None) -> None:
        """Draw the kinds of a series at a time.

        `fields` are of the members in GRIB's units, ``(member, row, column)``; `classes` the probabilities of the
        climatological classes, ``(class, row, column)``.
        """
        quantity = series.quantity
        mean = quantity.units.shown(fields.mean(axis=0, dtype=np.float64))
        lines_of: Callable[[Sampler], ink.Coverage] = cache(lambda sample: _lines(quantity, mean, sample))
        for kind in series.kinds:
            shown = list(_shown(kind, quantity, fields, classes))
            for area in areas_of(self._config):
                sheet = self._sheet(series, kind, area)
                sample = sampler(sheet.layout.frame, self._grid.latitudes, self._grid.longitudes)
                lines = lines_of(sample) if _with_lines(kind, quantity) else None
                maps = [Drawn(sample.sample(field), sample.outside, lines) for field in shown]
                self._write(
                    series, kind, area, when, sheet.draw(f"{series.title}: {_lower(kind.title)}", when.words, maps)
                )

    def _new_sheet(self, series: Series, kind: Kind, area: Area) -> Sheet:
        labels = tuple("control" if m == CONTROL else str(m) for m in self._members) if kind.name == MEMBERS else ("",)
        return Sheet(looks.look_of(kind, series.quantity), layout(area, labels), self._said, self._warned)

    def _write(self, series: Series, kind: Kind, area: Area, when: When, numbers: npt.NDArray[np.uint8]) -> None:
        sheet = self._sheet(series, kind, area)
        about = {
            "Title": f"{series.title}: {_lower(kind.title)}. {area.title}. {when.words}",
            "Source": ". ".join([self._said, *self._warned]),
        }
        files = png_files(numbers, {theme.name: sheet.colors(theme) for theme in THEMES}, about)
        for theme, content in files.items():
            write_bytes(self._folder / map_file(series, kind, area, when, theme), content)


def _with_lines(kind: Kind, quantity: Quantity) -> bool:
    """Tell whether a map has lines of the mean: over its spread, and over what is read by its lines."""
    by_lines = quantity.style.palette in ("pressure", "height")
    return not quantity.accumulates and (kind.name == SPREAD or (kind.name == MEAN and by_lines))


def _lines(quantity: Quantity, mean: Array, sample: Sampler) -> ink.Coverage:
    pixels = np.where(sample.outside, np.float32(np.nan), sample.sample(mean))
    return ink.contour_lines(sample.frame, pixels, looks.line_distance(quantity))


def _lower(title: str) -> str:
    return title[0].lower() + title[1:]


def _shown(kind: Kind, quantity: Quantity, fields: Array, classes: Array | None) -> Iterator[Array]:
    """Return the fields of a kind of map in the units shown."""
    if kind.name == MEMBERS:
        yield from (quantity.units.shown(field) for field in fields)
    elif kind.name == MEAN:
        yield quantity.units.shown(fields.mean(axis=0, dtype=np.float64))
    elif kind.name == SPREAD:
        yield quantity.units.shown(fields.std(axis=0, dtype=np.float64), difference=True)
    elif kind.name in (LOWEST, HIGHEST):
        assert classes is not None
        yield (100 * classes[0 if kind.name == LOWEST else -1]).astype(np.float32)
    else:
        reached = np.where(np.isnan(fields), np.nan, fields >= np.float32(kind.threshold or 0.0))
        yield (100 * reached.mean(axis=0)).astype(np.float32)
