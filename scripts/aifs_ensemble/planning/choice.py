"""Other ways to do the work of a plan: every GPU machine with a price, ranked, and the one that a deadline chooses."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from aifs_ensemble.common.errors import PlanError
from aifs_ensemble.planning.case import Case
from aifs_ensemble.planning.estimates import Estimate, estimate
from aifs_ensemble.planning.plan import group_components

_VM_COUNTS = range(1, 9)


def ranked(case: Case) -> list[Estimate]:
    """Return the ways to run on every GPU machine with a price in the region, cheapest first; unfit ones last.

    Members are spread evenly over the machines, one group on each, whatever the profile's groups are. None where
    nothing is rented or no member is missing.
    """
    members = len(case.work.to_forecast)
    if case.local or not members:
        return []
    priced = {region for machine in case.machines.types.values() for region in machine.prices}
    groups = sorted({math.ceil(members / count) for count in _VM_COUNTS if count <= members}, reverse=True)
    ways = []
    for name in case.machines.names("gpu"):
        machine = case.machines.machine(name)
        if not machine.prices or (case.region not in machine.prices and case.region in priced):
            continue
        for group in groups:
            ways.append(estimate(replace(case, group=group), machine, math.ceil(members / group), draws=20))
    return sorted(ways, key=lambda way: (way.problem is not None, way.usd, way.wall_hours))


@dataclass(frozen=True)
class Pick:
    """A way to run that meets a deadline and a budget, and what chooses it: keys, and options of Snakemake."""

    way: Estimate
    spot: bool
    usd: float
    hours: float
    groups: Mapping[str, int]

    def settings(self) -> dict[str, dict[str, Any]]:
        """Return the keys of a configuration that choose it."""
        return {"cloud": {"gpu": self.way.machine, "vms": self.way.vms, "spot": self.spot}}

    def options(self) -> list[str]:
        """Return the options of Snakemake that put as many members on a machine; none where the profile does."""
        if not self.groups:
            return []
        return ["--group-components", *(f"{name}={count}" for name, count in self.groups.items())]


def _groups(case: Case, way: Estimate) -> dict[str, int]:
    """Return the groups of a way that are not those planned with; the command line's stand for all of the profile's."""
    if way.members_per_vm == min(case.group, len(case.work.to_forecast)):
        return {}
    return {**group_components(case.profile), "members": way.members_per_vm}


def choose(
    case: Case, ways: Sequence[Estimate], deadline_hours: float | None = None, budget_usd: float | None = None
) -> Pick:
    """Return the cheapest of the ranked ways that ends by the deadline and within the budget.

    Preemptible capacity counts with its 90th percentile of time and of cost. Raises PlanError naming the nearest
    way when none fits.
    """
    picks = []
    for way in ways:
        if way.problem is None:
            groups = _groups(case, way)
            picks.append(Pick(way, False, way.usd, way.wall_hours, groups))
            picks.append(Pick(way, True, way.spot.usd_p90, way.spot.wall_hours_p90, groups))
    if not picks:
        reason = "the local profile rents none" if case.local else "no machine type fits the work"
        problem = next((way.problem for way in ways if way.problem), None)
        raise PlanError(f"plan: nothing to choose from: {reason}" + (f": {problem}" if problem else ""))
    fits = [
        pick
        for pick in picks
        if (deadline_hours is None or pick.hours <= deadline_hours) and (budget_usd is None or pick.usd <= budget_usd)
    ]
    if fits:
        return min(fits, key=lambda pick: (pick.usd, pick.hours))
    fastest, cheapest = min(picks, key=lambda pick: pick.hours), min(picks, key=lambda pick: pick.usd)
    wanted = [
        f"{deadline_hours:g} h" if deadline_hours is not None else "",
        f"${budget_usd:g}" if budget_usd is not None else "",
    ]
    raise PlanError(
        f"plan: nothing meets {' and '.join(filter(None, wanted))}: "
        f"the fastest takes {fastest.hours:.1f} h for ${fastest.usd:.0f} ({fastest.way.vms} x {fastest.way.machine}), "
        f"the cheapest ${cheapest.usd:.0f} in {cheapest.hours:.1f} h ({cheapest.way.vms} x {cheapest.way.machine})"
    )
