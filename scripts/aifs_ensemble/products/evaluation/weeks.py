"""Skill of the probabilities of climatological classes, as AI Weather Quest scores it."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

import numpy as np
import numpy.typing as npt
import xarray as xr

from aifs_ensemble.common.config import Config
from aifs_ensemble.common.periods import weights_of_leads
from aifs_ensemble.common.storage import MissingError, Storage, open_destination
from aifs_ensemble.products.climatology import opened, read_climatology
from aifs_ensemble.products.climatology_names import climatology_path
from aifs_ensemble.products.evaluation import scores
from aifs_ensemble.products.evaluation.analyses import LAND, Analyses, NoAnalysisError
from aifs_ensemble.products.evaluation.truth import observed_week
from aifs_ensemble.products.regular_grid import RegularGrid

LOG = logging.getLogger(__name__)
Field = npt.NDArray[np.float32]
Scores = npt.NDArray[np.float64]
ON_LAND = ("2t", "tp")  # what AI Weather Quest scores on land alone


def skill_score(probabilities: Field, happened: Scores, weights: Scores) -> Scores:
    """Return the ranked probability skill score against equal probabilities, ``(area,)``.

    Probabilities are ``(class, row, column)``, `weights` ``(area, row, column)``. Forecast and climatology
    are averaged first, then divided. Source: ``work_out_RPSS`` of AI-WQ-package 3.33.
    """
    equal = np.full_like(happened, 1 / len(happened))
    ours, theirs = (
        scores.area_mean(scores.ranked_probability_score(one, happened), weights) for one in (probabilities, equal)
    )
    return 1 - ours / theirs


def week_scores(config: Config, analyses: Analyses, weights: npt.NDArray[np.float64]) -> xr.Dataset | None:
    """Return ``rpss (week_variable, period, area)`` of the weeks' probabilities; None where these are not made.

    What happened is the user's file, else, of a mean, that of all its analyses. Weeks of which these are not all there
    are NaN, and named in the attribute ``without_observation``. 2t and tp count on land, where a mask is known.
    """
    weekly, grid = config.products.weekly, RegularGrid(config)
    if not (config.periods and weekly.climatology):
        return None
    forecast = _probabilities(config)
    if forecast is None:
        return None
    land = _land(config, analyses)
    names, periods = list(weekly.variables), list(config.periods)
    result = np.full((len(names), len(periods), len(weights)), np.nan)
    absent = []
    for row, name in enumerate(names):
        item = weekly.variables[name]
        masked = weights * (land >= 0.5) if land is not None and item.variable in ON_LAND else weights
        for column, period in enumerate(periods):
            try:
                truth = _truth(config, analyses, name, period, grid)
            except NoAnalysisError as error:
                absent.append(f"{name} {period}: {error}")
                continue
            bounds = read_climatology(climatology_path(config, name, period), item, grid).bounds
            happened = scores.observed_class(truth, bounds)
            result[row, column] = skill_score(forecast[name][column], happened, masked)
    for line in absent:
        LOG.warning("no observation of %s", line)
    about = {"units": "1", "long_name": "ranked probability skill score against equal probabilities"}
    return xr.Dataset(
        {"rpss": (("week_variable", "period", "area"), result, about)},
        {
            "week_variable": ("week_variable", np.array(names, object)),
            "period": ("period", np.array(periods, object)),
            "period_start": ("period", np.array(list(config.periods.values()), "i4"), {"units": "hours"}),
        },
        {
            "without_observation": "\n".join(absent),
            "rpss_points": "2t and tp on land" if land is not None else "all points: no land-sea mask at hand",
        },
    )


def _probabilities(config: Config) -> Mapping[str, Field] | None:
    """Return the forecast's probabilities by weekly variable, ``(period, class, row, column)``."""
    storage: Storage = open_destination(config)
    key = config.objects.quintiles
    variables = config.products.weekly.variables
    with tempfile.TemporaryDirectory(prefix="evaluation-") as folder:
        path = Path(folder) / "probabilities.nc"
        try:
            storage.get_file(key, path)
        except MissingError:
            LOG.warning("%s: not there, no skill of weeks is computed", storage.address(key))
            return None
        data = opened(path, "probabilities")
    return {name: data[f"{item.variable}_quintiles"].to_numpy() for name, item in variables.items()}


def _land(config: Config, analyses: Analyses) -> Field | None:
    try:
        return analyses.read(config.cycle_time, LAND)
    except NoAnalysisError as error:
        LOG.warning("no land-sea mask: %s", error)
        return None


def _truth(config: Config, analyses: Analyses, name: str, period: str, grid: RegularGrid) -> Field:
    """Return what happened in a period; NoAnalysisError where it is not known."""
    observed = observed_week(config, name, period, grid)
    if observed is not None:
        return observed
    item, start = config.products.weekly.variables[name], config.periods[period]
    if item.statistic == "sum":
        raise NoAnalysisError("an amount, which no analysis holds; products.evaluation.observations has no file of it")
    hours = weights_of_leads("mean", start, config.products.weekly.hours, step=config.model.timestep_hours)
    total = np.zeros(grid.shape)
    for hour, weight in hours.items():
        total += weight * analyses.read(config.cycle_time + timedelta(hours=hour), item.variable).astype(np.float64)
    return total.astype(np.float32)
