"""Maps of one field of each member, of a run that may not be delivered: the report's pictures."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import numpy as np
import numpy.typing as npt

from aifs_ensemble.common.areas import Area
from aifs_ensemble.common.config import Config
from aifs_ensemble.common.errors import InputError
from aifs_ensemble.common.names import CONTROL, member_name
from aifs_ensemble.common.storage import MissingError, Storage, open_destination
from aifs_ensemble.common.themes import THEMES
from aifs_ensemble.fields.grib_encoder import grib_parameter
from aifs_ensemble.fields.grib_index import read_fields
from aifs_ensemble.fields.grids import grid_coordinates
from aifs_ensemble.products.delivered_fields import DeliveredFields
from aifs_ensemble.products.indexed_fields import IndexedFields
from aifs_ensemble.products.parallel import readers
from aifs_ensemble.products.pictures.catalogue import areas_of
from aifs_ensemble.products.pictures.layout import layout
from aifs_ensemble.products.pictures.looks import value_look
from aifs_ensemble.products.pictures.projection import sampler
from aifs_ensemble.products.pictures.quantities import quantity_of
from aifs_ensemble.products.pictures.sheet import Drawn, Sheet, png_files
from aifs_ensemble.products.regular_grid import RegularGrid
from aifs_ensemble.products.wording import cycle_words, ensemble_words, lead_words, time_words, warnings

Field = npt.NDArray[np.float32]


def _request(variable: str, lead: int) -> dict[str, str]:
    parameter = grib_parameter(variable)
    request = {"param": parameter.short_name, "levtype": parameter.levtype, "step": str(lead)}
    if parameter.level is not None:
        request["levelist"] = str(parameter.level)
    return request


def read_field(config: Config, member: int, variable: str, lead: int, storage: Storage | None) -> Field:
    """Return one field of one member, shape ``(value,)``: of scratch, else of the destination, delivered or not.

    Raises InputError when it is in neither, StorageError when the destination does not answer.
    """
    points = grid_coordinates(config.model.grid).points
    path = config.scratch.lead(member, lead)
    if path.exists():
        values = read_fields(path, **_request(variable, lead))[0]
        if values.size != points:
            raise InputError(f"{path}: {values.size} points, expected the {points} of {config.model.grid}")
        return values
    if storage is None:
        raise InputError(f"{path}: no such file, and no destination is named")
    try:
        return DeliveredFields(config, member, storage).read(lead, [variable])[variable]
    except InputError:
        pass  # not whole, or not as asked for: this lead may be there all the same
    try:
        return IndexedFields(storage, points).read(config.objects.lead(member, lead), lead, [variable])[variable]
    except MissingError as error:
        raise InputError(str(error)) from None


def _available(config: Config, variable: str, lead: int) -> dict[int, Field]:
    """Return the fields of the members that have them; InputError when none has."""
    storage = open_destination(config) if config.destination else None

    def read(member: int) -> Field | None:
        try:
            return read_field(config, member, variable, lead, storage)
        except InputError:
            return None

    with ThreadPoolExecutor(readers(config)) as pool:
        fields = zip(config.members, pool.map(read, config.members), strict=True)
        shown = {member: field for member, field in fields if field is not None}
    if not shown:
        raise InputError(f"{config.cycle}: no member has {variable} at {lead} h, nothing to show")
    return shown


def member_maps(config: Config) -> Iterator[tuple[Area, dict[str, bytes]]]:
    """Yield for each configured area a picture by theme: a map of each member of ``report.field`` at the last lead.

    Members without the lead are left out and named; InputError when none has it.
    """
    variable, lead = config.report_field, config.leads[-1]
    if config.area:
        raise InputError(f"{config.cycle}: leads hold a part of the globe (forecast.output.area), no maps of members")
    quantity, grid = quantity_of(variable), RegularGrid(config)
    fields = {
        member: quantity.units.shown(grid.regrid(variable, values))
        for member, values in _available(config, variable, lead).items()
    }
    members = list(fields)
    said = f"Forecast of {cycle_words(config)}, {ensemble_words(config, members)}, model {config.model.name}"
    warned = warnings(config, members, untrained=config.model.untrained)
    who = "each member" if len(members) > 1 else member_name(members[0])
    sums = quantity.accumulates and config.forecast.accumulate == "from_start"
    title = f"{quantity.style.title}{' since the start' if sums else ''}: {who}"
    under = f"{time_words(config.cycle_time + timedelta(hours=lead))}, {lead_words(lead)} after the start"
    about = {"Title": f"{title}. {under}", "Source": ". ".join([said, *warned])}
    labels = tuple("control" if member == CONTROL else str(member) for member in members)
    for area in areas_of(config):
        place = layout(area, labels)
        sheet = Sheet(value_look(quantity), place, said, warned)
        sample = sampler(place.frame, grid.latitudes, grid.longitudes)
        maps = [Drawn(sample.sample(values), sample.outside) for values in fields.values()]
        colors = {theme.name: sheet.colors(theme) for theme in THEMES}
        yield area, png_files(sheet.draw(title, under, maps), colors, about)
