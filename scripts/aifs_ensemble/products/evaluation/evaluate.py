"""An ensemble against analyses: scores by variable, lead and area, with persistence and climatology beside them."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import numpy as np
import numpy.typing as npt
import xarray as xr

from aifs_ensemble.common.config import Config
from aifs_ensemble.common.errors import DownloadError, InputError
from aifs_ensemble.common.names import CONTROL
from aifs_ensemble.common.parameters import parameter_of
from aifs_ensemble.common.storage import Storage, open_destination
from aifs_ensemble.delivery.standing import Destination
from aifs_ensemble.products.evaluation import scores
from aifs_ensemble.products.evaluation.analyses import Analyses, NoAnalysisError
from aifs_ensemble.products.evaluation.due import evaluated_leads
from aifs_ensemble.products.evaluation.truth import climatology_at
from aifs_ensemble.products.evaluation.weeks import week_scores
from aifs_ensemble.products.parallel import readers
from aifs_ensemble.products.quantile_classes import ensemble_attributes
from aifs_ensemble.products.regular_fields import RegularFields
from aifs_ensemble.products.regular_grid import RegularGrid

LOG = logging.getLogger(__name__)
Field = npt.NDArray[np.float32]
Scores = dict[str, npt.NDArray[np.float64]]
_ABOUT = {
    "crps": "fair continuous ranked probability score (Ferro 2014)",
    "persistence_crps": "mean absolute error of the analysis at the start of the forecast",
    "climatology_crps": "fair continuous ranked probability score of the climatology's years",
    "rmse": "root of the mean squared error of the mean of the members",
    "persistence_rmse": "root of the mean squared error of the analysis at the start of the forecast",
    "climatology_rmse": "root of the mean squared error of the climatology's mean",
    "control_rmse": "root of the mean squared error of the control",
    "spread": "root of the mean variance of the members, times (m + 1) / m (Fortin et al. 2014)",
    "bias": "mean of the members less the analysis",
}
SCORES = tuple(_ABOUT)


@dataclass
class _Ensemble:
    """Members that are delivered, on the products' grid; the control stands beside the members that are perturbed."""

    config: Config
    fields: dict[int, RegularFields]

    @classmethod
    def of(cls, config: Config, storage: Storage, variables: Sequence[str]) -> _Ensemble:
        whole = [member for member, one in Destination(config, storage).standings().items() if one.whole]
        if len({*whole} - {CONTROL}) < 2:
            raise InputError(f"{config.cycle}: {len(whole)} members at {config.destination}, expected at least two")
        grid = RegularGrid(config)
        for variable in variables:
            grid.weights(variable)  # made once, before each member looks for them in the cache
        with ThreadPoolExecutor(readers(config)) as pool:
            found = pool.map(lambda member: RegularFields(config, member, variables, storage), whole)
        return cls(config, dict(zip(whole, found, strict=True)))

    @property
    def members(self) -> list[int]:
        return sorted({*self.fields} - {CONTROL})

    def read(self, lead: int, variables: Sequence[str]) -> tuple[dict[str, Field], dict[str, Field]]:
        """Return fields by variable: of perturbed members ``(member, row, column)``, and of a control."""
        with ThreadPoolExecutor(readers(self.config)) as pool:
            read = dict(
                zip(self.fields, pool.map(lambda one: one.read(lead, variables), self.fields.values()), strict=True)
            )
        perturbed = {name: np.stack([read[member][name] for member in self.members]) for name in variables}
        return perturbed, read.get(CONTROL, {})


@dataclass
class Missing:
    """Analyses that there are not, by variable and lead in hours."""

    reasons: dict[tuple[str, int], str] = field(default_factory=dict)
    failed: set[int] = field(default_factory=set)  # leads of which a download failed

    def error(self, config: Config, leads: Collection[int]) -> InputError | DownloadError:
        """Return what is raised where none of `leads` has an analysis: a failed download is no missing analysis."""
        kind = DownloadError if self.failed & {*leads} else InputError
        why = next((reason for (_, lead), reason in self.reasons.items() if lead in leads), "no lead is evaluated")
        which = f", {min(leads)} to {max(leads)} h" if leads else ""
        return kind(f"{config.cycle}: no analysis for any of {len(leads)} leads that are scored{which}: {why}")

    def lines(self) -> list[str]:
        """Return one line for each reason, with the leads that it stands for."""
        by_reason: dict[tuple[str, str], list[int]] = {}
        for (variable, lead), why in self.reasons.items():
            by_reason.setdefault((variable, why), []).append(lead)
        return [
            f"{name} at {', '.join(f'{lead} h' for lead in leads)}: {why}" for (name, why), leads in by_reason.items()
        ]


def evaluate(config: Config, analyses: Analyses | None = None) -> xr.Dataset:
    """Return the scores of an ensemble: ``(variable, lead, area)``, in the units of each variable, float64.

    Beside them ``rank_histogram (variable, lead, area, rank)``, shares of the area, and, where the configuration has
    a climatology of classes, ``rpss (week_variable, period, area)``. A lead without any analysis is left out; what has
    none is NaN, and the attribute ``without_analysis`` names it and says why. The control is no member of it.
    Raises InputError where no scored lead has an analysis, and for fewer than two members; DownloadError when no source
    of analyses can be reached, or no lead has one and downloads failed.
    """
    settings, grid = config.products.evaluation, RegularGrid(config)
    storage = open_destination(config)
    analyses = analyses or Analyses(config)
    names, missing = list(settings.variables), Missing()
    weights = _areas(config, grid)
    start = {name: _analysis(analyses, config.cycle_time, name, missing, 0) for name in names}
    truths: dict[int, dict[str, Field]] = {}
    for lead in evaluated_leads(config):
        time = config.cycle_time + timedelta(hours=lead)
        found = {name: _analysis(analyses, time, name, missing, lead) for name in names}
        truths[lead] = {name: values for name, values in found.items() if values is not None}
    leads = [lead for lead, found in truths.items() if found]
    for line in missing.lines():
        LOG.warning("no analysis of %s", line)
    if not leads:
        raise missing.error(config, truths)
    ensemble = _Ensemble.of(config, storage, names)
    shape = (len(names), len(leads), len(weights))
    result = {score: np.full(shape, np.nan) for score in SCORES}
    ranks = np.full((*shape, len(ensemble.members) + 1), np.nan)
    for place, lead in enumerate(leads):
        members, control = ensemble.read(lead, list(truths[lead]))
        time = config.cycle_time + timedelta(hours=lead)
        for name, truth in truths[lead].items():
            row = names.index(name)
            others = {"persistence": start[name], "climatology": climatology_at(config, time, name, grid)}
            for score, values in _scores(members[name], control.get(name), truth, others, weights).items():
                (ranks if score == "ranks" else result[score])[row, place] = values
    return _data_set(config, ensemble.members, leads, result, ranks, missing, week_scores(config, analyses, weights))


def _analysis(analyses: Analyses, time: datetime, name: str, missing: Missing, lead: int) -> Field | None:
    try:
        return analyses.read(time, name)
    except NoAnalysisError as error:
        missing.reasons[name, lead] = str(error)
        if error.failed:
            missing.failed.add(lead)
        return None


def _areas(config: Config, grid: RegularGrid) -> npt.NDArray[np.float64]:
    """Return the weights of all areas, ``(area, row, column)``."""
    found = []
    for name, bounds in config.products.evaluation.areas.items():
        north, west, south, east = bounds
        weights = scores.area_weights(grid.latitudes, grid.longitudes, (north, west, south, east))
        if not weights.any():
            raise InputError(f"config: products.evaluation.areas.{name}: no point of {grid.name} degrees lies there")
        found.append(weights)
    return np.stack(found)


def _scores(
    members: Field,
    control: Field | None,
    truth: Field,
    others: Mapping[str, Field | None],
    weights: npt.NDArray[np.float64],
) -> Scores:
    """Return scores of one field by name, ``(area,)``; ``ranks`` is ``(area, rank)``."""

    def mean(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return scores.area_mean(values, weights)

    found = {
        "crps": mean(scores.fair_crps(members, truth)),
        "rmse": np.sqrt(mean(scores.squared_error(members, truth))),
        "spread": np.sqrt(mean(np.where(np.isnan(truth), np.nan, scores.predicted_variance(members)))),
        "bias": mean(scores.error_of_mean(members, truth)),
        "ranks": np.stack([mean(share) for share in scores.rank_shares(members, truth)], axis=-1),
    }
    if control is not None:
        found["control_rmse"] = np.sqrt(mean(scores.squared_error(control[None], truth)))
    for name, values in others.items():
        if values is not None:
            fields = values if values.ndim == 3 else values[None]
            found[f"{name}_crps"] = mean(scores.fair_crps(fields, truth))
            found[f"{name}_rmse"] = np.sqrt(mean(scores.squared_error(fields, truth)))
    return found


def _data_set(
    config: Config,
    members: list[int],
    leads: list[int],
    result: Scores,
    ranks: npt.NDArray[np.float64],
    missing: Missing,
    weeks: xr.Dataset | None,
) -> xr.Dataset:
    settings, dims = config.products.evaluation, ("variable", "lead", "area")
    names = list(settings.variables)
    edges = np.array([settings.areas[name] for name in settings.areas], np.float64)
    data = xr.Dataset(
        {score: (dims, values, {"long_name": _ABOUT[score]}) for score, values in result.items()},
        {
            "variable": ("variable", np.array(names, object)),
            "units": ("variable", np.array([parameter_of(name).cf_units for name in names], object)),
            "lead": ("lead", np.array(leads, "i4"), {"standard_name": "forecast_period", "units": "hours"}),
            "area": ("area", np.array(list(settings.areas), object)),
            "area_bounds": (("area", "edge"), edges, {"long_name": "north, west, south, east", "units": "degrees"}),
            "rank": ("rank", np.arange(ranks.shape[-1], dtype="i4"), {"long_name": "members below the analysis"}),
        },
        ensemble_attributes(config, members, "AIFS ENS evaluation"),
    )
    data["rank_histogram"] = ((*dims, "rank"), ranks, {"units": "1", "long_name": "share of the area by rank"})
    source = settings.path if settings.source == "file" else "ECMWF open data, step 0 (CC BY 4.0)"
    data.attrs |= {"analysis": source, "weights": "cosine of latitude", "without_analysis": "\n".join(missing.lines())}
    return data if weeks is None else data.merge(weeks, combine_attrs="no_conflicts")
