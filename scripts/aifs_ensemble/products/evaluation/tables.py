"""Scores as files: a table that every program reads, a data set, and figures."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import numpy as np
import xarray as xr

from aifs_ensemble.common import themes
from aifs_ensemble.common.config import Config
from aifs_ensemble.common.files import write_bytes
from aifs_ensemble.products.csv_tables import csv_number, csv_table
from aifs_ensemble.products.evaluation import figures
from aifs_ensemble.products.evaluation.due import DATA, KINDS, TABLE, figure_name
from aifs_ensemble.products.evaluation.evaluate import SCORES, evaluate
from aifs_ensemble.products.netcdf import write_netcdf

COLUMNS = ("variable", "units", "area", "lead_hours", "period", "valid_time", *SCORES, "rpss")


def write_evaluation(config: Config, folder: Path) -> xr.Dataset:
    """Evaluate an ensemble, write the files to `folder` and return the scores.

    Raises InputError where no analysis exists, before anything is written.
    """
    data = evaluate(config)
    folder.mkdir(parents=True, exist_ok=True)
    write_bytes(folder / TABLE, table(config, data).encode())
    themes.save({figure_name(name): figures.drawing(data, name) for name in _names(data)}, folder, KINDS)
    write_netcdf(data, folder / DATA)
    return data


def _names(data: xr.Dataset) -> list[str]:
    return [str(name) for name in data["variable"].to_numpy()]


def table(config: Config, data: xr.Dataset) -> str:
    """Return the scores as CSV, a row for each variable, area and lead, then one for each week's skill."""
    about = [data.attrs[key] for key in ("title", "source", "ensemble", "analysis")]
    for key in ("without_analysis", "without_observation"):
        about += [f"{key}: {line}" for line in data.attrs.get(key, "").splitlines()]
    return csv_table(COLUMNS, _rows(config, data), about)


def _rows(config: Config, data: xr.Dataset) -> Iterator[dict[str, object]]:
    for name in _names(data):
        for area in data["area"].to_numpy():
            for lead in data["lead"].to_numpy():
                one = data.sel(variable=name, area=area, lead=lead)
                found = {score: csv_number(one[score].item()) for score in SCORES}
                if found["crps"]:
                    valid = config.cycle_time + timedelta(hours=int(lead))
                    units = str(one["units"].item())
                    yield (
                        {"variable": name, "units": units, "area": area, "lead_hours": int(lead)}
                        | {"valid_time": f"{valid:%Y-%m-%dT%H:%MZ}"}
                        | found
                    )
    if "rpss" in data:
        for place in np.ndindex(data["rpss"].shape):
            skill = data["rpss"][place]
            if np.isfinite(skill):
                named = {"variable": skill["week_variable"].item(), "area": skill["area"].item()}
                yield {**named, "period": skill["period"].item(), "rpss": csv_number(skill.item()), "units": "1"}
