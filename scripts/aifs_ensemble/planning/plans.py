"""The plans of a run: one, or with several models one each and what they come to together."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TextIO

from aifs_ensemble.common.config import Config
from aifs_ensemble.common.cycles import name_cycles
from aifs_ensemble.common.manifest import MemberManifest
from aifs_ensemble.common.text import duration, fold, money, size, terminal_width
from aifs_ensemble.common.units import split_unit
from aifs_ensemble.planning.choice import ranked
from aifs_ensemble.planning.machines import Machines, machines_of
from aifs_ensemble.planning.outstanding import Outstanding, together
from aifs_ensemble.planning.plan import Plan, plan, plan_case
from aifs_ensemble.planning.plan_text import full_lines, plan_dict, summary_lines
from aifs_ensemble.planning.throughput import past_manifests


def runs_of_models(config: Config) -> dict[str, Sequence[MemberManifest]]:
    """Return the manifests of past members that correct the speeds of each model."""
    return {one.model.name: past_manifests(one.scratch_root) for one in config.of_each_model}


def plans_of_run(
    config: Config,
    machines: Machines,
    works: Mapping[str, Outstanding],
    *,
    runs: Mapping[str, Sequence[MemberManifest]] | None = None,
    at_once: int | None = None,
    **given: Any,
) -> list[Plan]:
    """Return the plan of each model of a run, given what is missing of each unit (`common.units`).

    `runs` are those of `runs_of_models`, `at_once` is as of `plan.plan`, and the other arguments as of
    `plan.plan_case`.
    """
    runs = runs_of_models(config) if runs is None else runs
    found = []
    for one in config.of_each_model:
        own = {split_unit(unit)[1]: work for unit, work in works.items() if split_unit(unit)[0] == one.model_folder}
        case = plan_case(one, machines, work=together(own), runs=runs[one.model.name], **given)
        found.append(plan(case, at_once=at_once))
    return found


@dataclass(frozen=True)
class Totals:
    """What the models of a run cost together, in USD: on demand, on spot machines, and the bucket's a month."""

    usd: float
    spot_usd: float
    storage_usd_month: float

    @classmethod
    def of(cls, plans: Sequence[Plan]) -> Totals:
        """Return the totals of plans; one without a job costs nothing but what it has in the bucket."""
        ways = [one.chosen for one in plans if one.jobs]
        usd, spot_usd = sum(way.usd for way in ways), sum(way.spot_usd for way in ways)
        return cls(usd, spot_usd, sum(one.storage_usd_month for one in plans))


def print_plan(config: Config, file: TextIO = sys.stdout) -> None:
    """Print the plans of a configuration; PlanError, after printing all of them, when one is refused."""
    plans = [plan(plan_case(one, machines_of(one))) for one in config.of_each_model]
    print("\n".join(full_text(plans, width=terminal_width(file))), file=file)
    for one in plans:
        one.check()


def full_text(plans: Sequence[Plan], rows: int = 12, width: int | None = None) -> Iterator[str]:
    """Yield `plan_text.full_lines` of a plan; of several, what they come to and then each below its model's name."""
    if len(plans) > 1:
        for line in total_lines(plans):
            yield from fold(line, width)
    for one in plans:
        if len(plans) > 1:
            yield from ("", f"{one.case.config.model.name}:")
        yield from full_lines(one, ranked(one.case), rows, width)


def plans_dict(plans: Sequence[Plan]) -> dict[str, Any]:
    """Return the plans of several models, and what they come to, as JSON-compatible values."""
    each = {one.case.config.model.name: plan_dict(one, ranked(one.case)) for one in plans}
    totals = Totals.of(plans)
    return {"models": each, "usd": totals.usd, "spot_usd": totals.spot_usd}


def run_lines(plans: Sequence[Plan], *, compared: int = 0) -> list[str]:
    """Return the plans in a few lines, for a dry-run: of several models the total, then each model's below its name.

    `compared` is how many comparisons are made.
    """
    if len(plans) == 1:
        return summary_lines(plans[0])
    lines = list(total_lines(plans, compared=compared))
    for one in plans:
        lines.append(f"{one.case.config.model.name}:")
        lines += [f"  {line}" for line in summary_lines(one)]
    return lines


def total_lines(plans: Sequence[Plan], *, compared: int = 0) -> Iterator[str]:
    """Yield what the models of a run come to together."""
    cases = [one.case for one in plans]
    names = " and ".join(case.config.model.name for case in cases)
    config = cases[0].config
    todo = sum(len(case.work.to_forecast) for case in cases)
    members = sum(len(case.config.members) * len(case.config.cycles) for case in cases)
    deliver = sum(len(case.work.to_deliver) for case in cases)
    head = f"plan: {names}, {name_cycles(config.cycles)}: "
    if todo or deliver:
        yield (
            f"{head}{todo} of {members} members to forecast, {sum(case.work.steps for case in cases)} steps, "
            f"{deliver} members to deliver, {size(sum(case.delivered_bytes for case in cases))}"
        )
    else:
        yield f"{head}no member to forecast or deliver"
    jobs = sum(job.count for one in plans for job in one.jobs)
    if jobs or compared:
        yield f"jobs: {jobs + compared}" + (f", {compared} of them to compare the models" if compared else "")
    hours = [one.chosen.wall_hours for one in plans if one.case.work.to_forecast]
    if len(hours) > 1:
        both, each = duration(3600 * max(hours)), duration(3600 * sum(hours))
        yield f"time: {both} beside each other, {each} one after the other"
    if not cases[0].local and any(one.jobs for one in plans):
        totals = Totals.of(plans)
        yield (
            f"cost: {money(totals.usd)} on demand, {money(totals.spot_usd)} spot; "
            f"storage {money(totals.storage_usd_month)} a month"
        )
