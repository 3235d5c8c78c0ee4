"""What the rules of products read of delivered leads, counted from the configuration alone.

Planning, and nothing else, needs it before anything is there; so it imports no reader.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from aifs_ensemble.common.config import Config


@dataclass(frozen=True)
class RuleReads:
    """What the jobs of one rule read.

    Attributes
    ----------
    fields : native fields that one job reads
    of_member : whether there is a job for each member, or else one for the ensemble
    """

    fields: int
    of_member: bool


def product_reads(config: Config) -> Mapping[str, RuleReads]:
    """Return what each rule of the products that are on reads, by rule, in the order in which they run."""
    products, found = config.products, {}
    if products.members.enabled:
        found["product_member"] = RuleReads(len(config.leads) * len(products.members.variables), of_member=True)
    if config.periods:
        statistics = [item.statistic for item in products.weekly.variables.values()]
        fields = len(config.periods) * sum(_leads(config, statistic) for statistic in statistics)
        found["product_weekly_member"] = RuleReads(fields, of_member=True)
        found["product_weekly"] = RuleReads(0, of_member=False)
        if products.weekly.climatology:
            found["product_quintiles"] = RuleReads(0, of_member=False)
    return found


def _leads(config: Config, statistic: str) -> int:
    """Return the leads that make a statistic of a period: `products.weekly.weights_of_leads` names them."""
    if statistic == "sum" and config.forecast.accumulate == "from_start":
        return 2
    return config.products.weekly.hours // config.model.timestep_hours
