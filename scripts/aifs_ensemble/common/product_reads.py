"""What the rules of products read of delivered leads, counted from the configuration alone.

Planning, and nothing else, needs it before anything is there; so it imports no reader.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from aifs_ensemble.common.config import Config
from aifs_ensemble.common.parameters import parameter_of
from aifs_ensemble.common.wind_speed import sources, wind_speed

METEOGRAM = ("tcc", "tp", "10si", "2t", "msl")  # what a meteogram shows, from top to bottom


@dataclass(frozen=True)
class RuleReads:
    """What a job of one rule reads.

    Attributes
    ----------
    jobs : of the rule, when all members are made; rules called as this one and ``_h...`` count with it
    of_member : whether there is a job for each member
    fields : of the model's grid that a job reads
    regular : fields on the grid of the products that a job reads: of a coarse lead, where it has them
    """

    jobs: int
    of_member: bool
    fields: float = 0
    regular: float = 0


def product_reads(config: Config) -> Mapping[str, RuleReads]:
    """Return what each rule of the products that are on reads, by rule, in the order in which they run.

    A wind speed counts as its two components, an amount over hours as two leads.
    """
    products, found = config.products, {}
    members, leads = len(config.members), len(config.leads)
    if products.members.enabled:
        fields = leads * len(products.members.variables)
        found["product_member"] = RuleReads(members, of_member=True, regular=fields)
    if config.periods:
        statistics = [item.statistic for item in products.weekly.variables.values()]
        fields = len(config.periods) * sum(_leads(config, statistic) for statistic in statistics)
        found["product_weekly_member"] = RuleReads(members, of_member=True, regular=fields)
        found["product_weekly"] = RuleReads(1, of_member=False)
        if products.weekly.climatology:
            found["product_quintiles"] = RuleReads(1, of_member=False)
        if products.weekly.model_climatology:
            found["product_model_quintiles"] = RuleReads(1, of_member=False)
    if products.statistics.enabled:
        jobs = math.ceil(config.lead_hours / products.statistics.hours_a_job)
        fields = members * leads * _parts(products.statistics.variables)
        found["product_statistics"] = RuleReads(jobs, of_member=False, regular=fields / jobs)
    if products.cube.enabled:
        fields = members * leads * len(products.cube.regular)
        found["product_cube"] = RuleReads(1, of_member=False, regular=fields)
    if products.pictures.enabled:
        pictures = products.pictures
        maps = members * max(config.lead_hours // pictures.step_hours, 1) * _parts(pictures.variables)
        places = members * leads * _parts(METEOGRAM) if pictures.places else 0
        found["product_pictures"] = RuleReads(1, of_member=False, fields=places, regular=maps)
    if products.page.enabled:
        found["product_page"] = RuleReads(1, of_member=False)
    return found


def _parts(variables: Iterable[str]) -> int:
    """Return the fields that a lead gives for some variables of products."""
    return sum(len(sources(name)) if wind_speed(name) else 1 + parameter_of(name).accumulates for name in variables)


def _leads(config: Config, statistic: str) -> int:
    """Return the leads that make a statistic of a period: `products.weekly.weights_of_leads` names them."""
    if statistic == "sum" and config.forecast.accumulate == "from_start":
        return 2
    return config.products.weekly.hours // config.model.timestep_hours
