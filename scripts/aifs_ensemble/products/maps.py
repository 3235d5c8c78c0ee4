"""Maps of one field of each member, from the GRIB of a run that may not be delivered: the report's picture."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import numpy as np
import numpy.typing as npt

from aifs_ensemble.common.areas import PRESETS
from aifs_ensemble.common.config import Config
from aifs_ensemble.common.errors import InputError
from aifs_ensemble.common.files import write_bytes
from aifs_ensemble.common.names import CONTROL, member_name
from aifs_ensemble.common.themes import THEMES
from aifs_ensemble.fields.grib_encoder import grib_parameter
from aifs_ensemble.fields.grib_index import read_fields
from aifs_ensemble.fields.grids import grid_coordinates
from aifs_ensemble.products.pictures.layout import layout
from aifs_ensemble.products.pictures.looks import value_look
from aifs_ensemble.products.pictures.projection import sampler
from aifs_ensemble.products.pictures.quantities import quantity_of
from aifs_ensemble.products.pictures.sheet import Drawn, Sheet, png_files
from aifs_ensemble.products.regular_grid import RegularGrid
from aifs_ensemble.products.wording import cycle_words, ensemble_words, lead_words, time_words, warnings

Field = npt.NDArray[np.float32]


def lead_path(config: Config, member: int, lead: int) -> Path:
    """Return where a lead's GRIB is: on scratch, else in the destination's folder; InputError when in neither."""
    here = config.scratch.lead(member, lead)
    if here.exists():
        return here
    if config.destination and not config.cloud_destination:
        there = Path(config.destination) / config.objects.lead(member, lead)
        if there.exists():
            return there
    raise InputError(f"{here}: no such file, nor in the destination {config.destination}")


def _request(variable: str) -> dict[str, str]:
    parameter = grib_parameter(variable)
    request = {"param": parameter.short_name, "levtype": parameter.levtype}
    if parameter.level is not None:
        request["levelist"] = str(parameter.level)
    return request


def read_field(config: Config, member: int, variable: str, lead: int) -> Field:
    """Return one field of one member, shape ``(value,)``; InputError when the lead does not hold it."""
    path = lead_path(config, member, lead)
    values = read_fields(path, **_request(variable))[0]
    points = grid_coordinates(config.model.grid).points
    if values.size != points:
        raise InputError(f"{path}: {values.size} points, expected the {points} of {config.model.grid}")
    return values


def _available(config: Config, members: Sequence[int], variable: str, lead: int) -> tuple[dict[int, Field], list[int]]:
    """Return the fields of the members that have them, and those that have none; InputError when none has."""
    shown: dict[int, Field] = {}
    missing = []
    for member in members:
        try:
            shown[member] = read_field(config, member, variable, lead)
        except InputError:
            missing.append(member)
    if not shown:
        raise InputError(f"{config.cycle}: no member has {variable} at {lead} h, nothing to show")
    return shown, missing


def write_member_fields(config: Config, folder: Path) -> None:
    """Write ``fields-{theme}.png``: a map for each member of ``report.field`` at the last lead, side by side.

    Members without the lead are left out and named; InputError when none has it.
    """
    variable, lead = config.report.field, config.leads[-1]
    shown, _ = _available(config, config.members, variable, lead)
    quantity, grid = quantity_of(variable), RegularGrid(config)
    labels = tuple("control" if member == CONTROL else str(member) for member in shown)
    place = layout(PRESETS["globe"], labels)
    said = f"Forecast of {cycle_words(config)}, {ensemble_words(config, list(shown))}, model {config.model.name}"
    warned = warnings(config, list(shown), untrained=config.model.untrained)
    sheet = Sheet(value_look(quantity), place, said, warned)
    sample = sampler(place.frame, grid.latitudes, grid.longitudes)
    maps = [
        Drawn(sample.sample(quantity.units.shown(grid.regrid(variable, values))), sample.outside)
        for values in shown.values()
    ]
    who = "each member" if len(shown) > 1 else member_name(next(iter(shown)))
    sums = quantity.accumulates and config.forecast.accumulate == "from_start"
    title = f"{quantity.style.title}{' since the start' if sums else ''}: {who}"
    under = f"{time_words(config.cycle_time + timedelta(hours=lead))}, {lead_words(lead)} after the start"
    about = {"Title": f"{title}. {under}", "Source": ". ".join([said, *warned])}
    colors = {theme.name: sheet.colors(theme) for theme in THEMES}
    folder.mkdir(parents=True, exist_ok=True)
    for theme, content in png_files(sheet.draw(title, under, maps), colors, about).items():
        write_bytes(folder / f"fields-{theme}.png", content)
