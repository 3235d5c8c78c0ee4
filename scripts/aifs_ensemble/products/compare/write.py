"""The comparison of two models for one cycle: data, maps, tables and a page, made by one job."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from aifs_ensemble.common.config import Config
from aifs_ensemble.common.config.compared import compared_variables
from aifs_ensemble.common.files import write_bytes
from aifs_ensemble.common.names import format_members
from aifs_ensemble.common.storage import open_destination
from aifs_ensemble.products import netcdf
from aifs_ensemble.products.compare.data import comparison_file
from aifs_ensemble.products.compare.fields import Compared, Ensemble
from aifs_ensemble.products.compare.files import (
    DATA,
    PAGE,
    SCORES,
    TABLE,
    compared_leads,
    comparison_files,
    comparison_key,
    stamp_key,
)
from aifs_ensemble.products.compare.maps import PairMaps
from aifs_ensemble.products.compare.page import comparison_page
from aifs_ensemble.products.compare.stamp import PairStamp
from aifs_ensemble.products.compare.tables import DIFFERENCES, SIDE_BY_SIDE, Row, difference_row, scores_at
from aifs_ensemble.products.compare.tables import side_by_side as scores_of_both
from aifs_ensemble.products.csv_tables import csv_table
from aifs_ensemble.products.evaluation.scores import area_weights
from aifs_ensemble.products.pictures.catalogue import lead_series
from aifs_ensemble.products.regular_grid import RegularGrid
from aifs_ensemble.products.wording import cycle_words

LOG = logging.getLogger(__name__)


def write_comparison(config: Config, folder: Path, members: Sequence[Sequence[int]]) -> None:
    """Compare the two models of a cycle, write the files to `folder`, and leave the stamp at the destination.

    Parameters
    ----------
    config : that of a run of two models, of one cycle
    members : those of each model that are used

    Raises InputError for a member that is not delivered and for a table that has no scores, StorageError where the
    destination does not answer.
    """
    first, second = (one.of_cycle(config.cycle) for one in config.of_each_model)
    stamp = PairStamp.now((first, second), members)
    variables, leads = compared_variables(config.of_each_model), compared_leads(config)
    pictures = config.products.pictures.enabled
    drawn = [source for series in lead_series(first) for source in series.quantity.sources] if pictures else []
    sources = list(dict.fromkeys([*variables, *drawn]))
    pair = (Ensemble.of(first, members[0], sources), Ensemble.of(second, members[1], sources))
    scores = scores_of_both(scores_at(first), scores_at(second))
    folder.mkdir(parents=True, exist_ok=True)
    about = _about(pair)
    differences = _write_data(pair, folder / DATA, variables, leads, about)
    comments = [about["title"], about["source"], f"first: {first.model.name}", f"second: {second.model.name}"]
    write_bytes(folder / TABLE, csv_table(DIFFERENCES, differences, comments).encode())
    write_bytes(folder / SCORES, csv_table(SIDE_BY_SIDE, scores, comments).encode())
    if pictures:
        PairMaps(pair, folder).draw_all()
    write_bytes(folder / PAGE, comparison_page(pair, folder, differences, scores).encode())
    _deliver(config, folder, stamp)
    LOG.info("%s and %s: %d variables at %d leads", first.model.name, second.model.name, len(variables), len(leads))


def _about(pair: tuple[Ensemble, Ensemble]) -> dict[str, str]:
    """Return what the files say of themselves."""
    first, second = (one.config.model.name for one in pair)
    config = pair[0].config
    untrained = any(one.untrained for one in pair)
    about = netcdf.global_attributes(config, f"{second} less {first}, {cycle_words(config)}", untrained=untrained)
    about["source"] = "; ".join(
        f"{one.config.model.name}{', an untrained model: its values mean nothing' if one.untrained else ''}"
        for one in pair
    )
    for place, one in zip(("first", "second"), pair, strict=True):
        about[f"{place}_model"] = one.config.model.name
        about[f"{place}_members"] = format_members(one.numbers)
    return about


def _write_data(
    pair: tuple[Ensemble, Ensemble], path: Path, variables: Sequence[str], leads: Sequence[int], about: dict[str, str]
) -> list[Row]:
    """Write the NetCDF file, and return the rows of the table of differences: by variable, area and lead."""
    first, second = pair
    config, grid = first.config, RegularGrid(first.config)
    areas = {
        name: area_weights(grid.latitudes, grid.longitudes, (bounds[0], bounds[1], bounds[2], bounds[3]))
        for name, bounds in config.products.evaluation.areas.items()
    }
    rows: dict[tuple[str, str], list[Row]] = {(name, area): [] for name in variables for area in areas}
    with comparison_file((config, second.config), path, variables, leads, about) as file:
        for lead in leads:
            of_first, of_second = first.read(lead, variables), second.read(lead, variables)
            for name in variables:
                compared = Compared.of(of_first[name], of_second[name])
                file.put(name, lead, compared)
                for area, weights in areas.items():
                    rows[name, area].append(difference_row(config, name, area, lead, compared.over(weights)))
    return [row for found in rows.values() for row in found]


def _deliver(config: Config, folder: Path, stamp: PairStamp) -> None:
    """Leave the stamp at the destination, and from this machine the files in a bucket."""
    storage, cycle = open_destination(config), config.cycle
    if config.cloud_destination and folder.is_relative_to(config.scratch_root):
        for name in comparison_files(config):
            key = comparison_key(cycle, name)
            storage.put_file(folder / name, key, replacing=storage.stat(key))
        write_bytes(folder / "stamp.json", stamp.content())
    storage.put_bytes(stamp.content(), stamp_key(cycle), overwrite=True)
