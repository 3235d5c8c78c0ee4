"""A plan as lines, tables and JSON."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

from aifs_ensemble.common.config import Config
from aifs_ensemble.common.cycles import name_cycles
from aifs_ensemble.common.names import count_members, format_members
from aifs_ensemble.common.text import duration, fold, money, size, table
from aifs_ensemble.planning.case import Case
from aifs_ensemble.planning.costs import product_seconds, product_usd
from aifs_ensemble.planning.estimates import Estimate
from aifs_ensemble.planning.outstanding import Outstanding
from aifs_ensemble.planning.plan import Plan
from aifs_ensemble.planning.preemption import Spread


def summary_lines(plan: Plan) -> list[str]:
    """Return the plan in a few lines, for a dry-run."""
    by_class: dict[str, int] = {}
    for job in plan.jobs:
        by_class[job.machine_class] = by_class.get(job.machine_class, 0) + job.count
    jobs = ["jobs: " + ", ".join(f"{count} {name}" for name, count in by_class.items())] if by_class else []
    return [*_work_lines(plan.case), *jobs, *_way_lines(plan), *_finding_lines(plan)]


def _work_lines(case: Case) -> list[str]:
    """Return what is to be computed: a line, and of several cycles one for each that has something to do."""
    config = case.config
    if not case.work.cycles:
        return [f"plan: {config.cycle}: {_work_of(case, config, case.work)}"]
    todo, members = len(case.work.to_forecast), len(config.members) * len(config.cycles)
    name = f"{len(config.cycles)} cycles, {config.cycles[0]} to {config.cycles[-1]}"
    works = {cycle: _work_of(case, config.of_cycle(cycle), work) for cycle, work in case.work.cycles.items()}
    idle = [cycle for cycle, work in case.work.cycles.items() if not work.to_forecast and not work.to_deliver]
    if len(idle) == len(works):
        return [f"plan: {name}: {works[idle[0]]}"]
    total = (
        f"plan: {name}: {todo} of {members} members to forecast, {case.work.steps} steps, "
        f"{len(case.work.to_deliver)} members to deliver, {size(case.delivered_bytes)}"
    )
    lines = [f"  {cycle}: {text}" for cycle, text in works.items() if cycle not in idle]
    return [total, *lines, *([f"  {name_cycles(idle)}: {works[idle[0]]}"] if idle else [])]


def _work_of(case: Case, config: Config, work: Outstanding) -> str:
    """Return what is to be computed of a cycle."""
    todo = work.to_forecast
    if not todo and not work.to_deliver and work.of_run:
        return "no member to forecast or deliver in this run"
    if not todo and not work.to_deliver:
        one = len(config.members) == 1
        all_of = f"{'' if one else 'all '}{count_members(config.members)} {'is' if one else 'are'}"
        return f"{all_of} there, nothing to compute"
    which = f" ({format_members(member.member for member in todo)})" if todo else ""
    return (
        f"{count_members(config.members, (m.member for m in todo))} to forecast{which}, "
        f"{work.steps} steps, {len(work.to_deliver)} members to deliver, {size(case.bytes_of(work))}"
    )


def _way_lines(plan: Plan) -> Iterator[str]:
    """Yield machines and time where a member is missing, and cost where machines are rented."""
    case, way = plan.case, plan.chosen
    if case.work.to_forecast:
        yield (
            f"machines: {_machines(way)}, {_at_once(way)} at once; {way.step_seconds:.3g} s a step ({way.speed.status})"
        )
        hours = f", {way.gpu_hours:.1f} GPU hours" if way.gpu_hours else ""
        yield (
            f"time: {duration(3600 * way.wall_hours)}{hours}; scratch peak {size(way.scratch_peak_bytes)} "
            f"of {size(way.scratch_bytes)}"
        )
    if case.saved_bytes > 1 or case.config.daily:
        yield _output_line(case)
    if case.products.jobs:
        yield _products_line(case)
    if not case.local and plan.jobs:
        low, high = way.spot_range
        yield (
            f"cost: {money(way.usd)} on demand, {money(way.spot_usd)} spot "
            f"({money(low)} to {money(high)} by preemptions); storage {money(plan.storage_usd_month)} a month"
        )


def _output_line(case: Case) -> str:
    """Return what is delivered of what the model makes, and what is saved by it, or added."""
    config = case.config
    change = abs(case.saved_bytes)
    saves = f"{'saves' if case.saved_bytes >= 0 else 'adds'} {size(change)}"
    if not case.local:
        saves += f" and {money(case.machines.bucket_month(change))} a month"
    more = f" and {len(config.daily)} daily statistics" if config.daily else ""
    steps = config.lead_hours // config.model.timestep_hours
    return (
        f"output: {len(config.output_variables)} of {len(config.model.delivered)} fields at {len(config.leads)} of "
        f"{steps} leads{more}{', of a part of the globe' if config.area else ''}, which {saves}"
    )


def _products_line(case: Case) -> str:
    """Return what the products take; their cost is within that of the run."""
    stage, machine = case.products, case.machines.for_class("cpu", case.config)
    processors = (os.cpu_count() or 1) if case.local else machine.vcpus
    where = "" if case.local else f" on {machine.name}, {money(product_usd(case))} of the cost"
    return (
        f"products: {sum(stage.jobs.values())} jobs, {stage.fields:,} fields ({size(stage.bytes)}) by byte range; "
        f"{duration(product_seconds(case, processors))}{where}"
    )


def _finding_lines(plan: Plan) -> list[str]:
    return [f"{finding.level}: {finding.text}" for finding in plan.findings]


def _at_once(way: Estimate) -> int:
    """Return how many members of a group run at once."""
    return min(way.at_once, way.members_per_vm)


def _machines(way: Estimate) -> str:
    """Return which members run where: groups that follow one another are told apart from machines."""
    where = f"{way.vms} x {way.machine}" + (f" in {way.region}" if way.region else "")
    if way.groups == way.vms:
        return f"{where}, {way.members_per_vm} members each"
    size = "1 member" if way.members_per_vm == 1 else f"{way.members_per_vm} members"
    return f"{way.groups} groups of {size} on {where} (a fresh one each)"


def full_lines(plan: Plan, ways: Sequence[Estimate], rows: int = 12, width: int | None = None) -> Iterator[str]:
    """Yield the whole plan as tables a person reads, and `rows` of the other ways (`choice.ranked`).

    Lines fit a terminal of `width` columns, if there is one.
    """
    way, case = plan.chosen, plan.case

    def folded(lines: Iterable[str]) -> Iterator[str]:
        for line in lines:
            yield from fold(line, width)

    yield from folded(_work_lines(case))
    yield from folded(_way_lines(plan))
    if plan.jobs:
        yield ""
        yield from table(
            [(job.rule, job.machine_class, job.count) for job in plan.jobs], ("rule", "machine", "jobs"), width=width
        )
    if not case.local and case.work.members:
        yield ""
        yield from table(_cost_rows(way), ("USD", "on demand", "spot"), width=width)
        month = (
            f"each month: {money(plan.storage_usd_month)} for {size(case.delivered_bytes)} in the bucket, "
            f"{money(plan.registry_usd_month)} for images"
        )
        yield from folded([_spot_line(way.spot), month])
    if ways:
        yield ""
        found, below = _ways_table(plan, ways, rows, width)
        yield from found
        yield from folded(below)
    yield from folded(_finding_lines(plan))
    if plan.price_notes:
        yield from fold(f"prices from: {'; '.join(plan.price_notes)}", width)


def _spot_line(spot: Spread) -> str:
    """Return the means of a run on preemptible machines, and what 9 in 10 runs need at most."""
    below = spot.usd_p90 < spot.usd and money(spot.usd_p90) != money(spot.usd)
    seldom = "; few runs are preempted, and those raise the mean" if below else ""
    return (
        f"spot: on average {spot.preemptions:.2g} preemptions, {duration(3600 * spot.wall_hours)}, {money(spot.usd)}; "
        f"9 in 10 runs end within {duration(3600 * spot.wall_hours_p90)}, and 9 in 10 cost at most "
        f"{money(spot.usd_p90)}{seldom}"
    )


def _cost_rows(way: Estimate) -> list[tuple[str, str, str]]:
    rows = [
        (name, money(usd), money(way.spot_costs[name]))
        for name, usd in way.costs.items()
        if usd > 0.005 or way.spot_costs[name] > 0.005
    ]
    return [*rows, ("total", money(way.usd), money(way.spot_usd))]


def _ways_table(plan: Plan, ways: Sequence[Estimate], rows: int, width: int | None) -> tuple[list[str], list[str]]:
    """Return the ranked ways, cheapest member first, as a table; below it the fastest, and what does not fit."""
    members = max(len(plan.case.work.to_forecast), 1)
    fit = [way for way in ways if way.problem is None]
    shown = [way for way in fit if way.vms in (1, 2, 4, 8) or way.vms == plan.chosen.vms][:rows]
    lines = table(
        [
            (
                way.machine,
                way.vms,
                way.members_per_vm,
                _at_once(way),
                money(way.usd / members),
                money(way.spot_usd / members),
                money(way.usd),
                duration(3600 * way.wall_hours),
                duration(3600 * way.spot.wall_hours),
                way.speed.status,
            )
            for way in shown
        ],
        ("machine", "VMs", "each", "at once", "a member", "spot", "total", "time", "spot time", "speed"),
        width=width,
        short={"a member": "member"},
        least=("spot time", "at once", "speed"),
    )
    below = []
    unfit = {way.machine: way.problem for way in ways if way.problem and way.machine not in {w.machine for w in fit}}
    if fit:
        fast = min(fit, key=lambda way: (way.wall_hours, way.usd))
        below.append(f"fastest: {fast.vms} x {fast.machine}, {duration(3600 * fast.wall_hours)}, {money(fast.usd)}")
    return lines, below + [f"{name} does not fit: {problem}" for name, problem in unfit.items()]


def _way_dict(way: Estimate) -> dict[str, Any]:
    content = asdict(way)
    content |= {"usd": way.usd, "spot_usd": way.spot_usd}
    return content


def _missing(work: Outstanding) -> dict[str, Any]:
    """Return the members that are missing; of several cycles, by cycle."""
    if work.cycles:
        return {"by_cycle": {cycle: _missing(one) | {"steps": one.steps} for cycle, one in work.cycles.items()}}
    return {
        "members_to_forecast": [one.member for one in work.to_forecast],
        "members_to_deliver": list(work.to_deliver),
    }


def plan_dict(plan: Plan, ways: Sequence[Estimate] = ()) -> dict[str, Any]:
    """Return the plan and the other ways as JSON-compatible values."""
    case, config = plan.case, plan.case.config
    return {
        "schema": "aifs-ensemble/plan/1",
        **({"cycles": list(config.cycles)} if case.work.cycles else {"cycle": config.cycle}),
        "model": config.model.name,
        "profile": case.profile,
        "looked_at": list(case.work.looked_at),
        "members": len(config.members),
        **_missing(case.work),
        "steps": case.work.steps,
        "fields_per_lead": case.fields,
        "bytes_written": case.written_bytes,
        "bytes_delivered": case.delivered_bytes,
        "bytes_saved": case.saved_bytes,
        "saved_usd_month": 0.0 if case.local else case.machines.bucket_month(case.saved_bytes),
        "jobs": [asdict(job) for job in plan.jobs],
        "products": asdict(case.products) | {"usd": product_usd(case)},
        "chosen": _way_dict(plan.chosen),
        "alternatives": [_way_dict(way) for way in ways],
        "storage_usd_month": plan.storage_usd_month,
        "registry_usd_month": plan.registry_usd_month,
        "findings": [{"level": finding.level, "text": finding.text} for finding in plan.findings],
        "prices": list(plan.price_notes),
    }
