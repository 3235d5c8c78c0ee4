"""A plan as lines, tables and JSON."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from aifs_ensemble.common.names import format_members
from aifs_ensemble.common.text import money, size, table

if TYPE_CHECKING:
    from aifs_ensemble.planning.estimates import Estimate
    from aifs_ensemble.planning.plan import Plan


def duration(hours: float) -> str:
    """Return hours as people say them: ``45 s``, ``12 min``, ``1 h 05 min``, ``3 d 4 h``."""
    seconds = round(hours * 3600)
    if seconds < 60:
        return f"{seconds} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{minutes // 1440} d {minutes % 1440 // 60} h"


def summary_lines(plan: Plan) -> list[str]:
    """Return the plan in a few lines."""
    case, way = plan.case, plan.chosen
    config, work = case.config, case.work
    todo = work.to_forecast
    lines = []
    if not todo and not work.to_deliver:
        lines.append(f"plan: {config.cycle}: all {len(config.members)} members are there, nothing to compute")
    else:
        which = f" ({format_members(member.member for member in todo)})" if todo else ""
        lines.append(
            f"plan: {config.cycle}: {len(todo)} of {len(config.members)} members to forecast{which}, "
            f"{work.steps} steps, {len(work.to_deliver)} members to deliver, {size(case.delivered_bytes)}"
        )
    by_class: dict[str, int] = {}
    for job in plan.jobs:
        by_class[job.machine_class] = by_class.get(job.machine_class, 0) + job.count
    if by_class:
        lines.append("jobs: " + ", ".join(f"{count} {name}" for name, count in by_class.items()))
    if todo:
        lines.append(
            f"machines: {_machines(way)}, {_at_once(way)} at once; {way.step_seconds:.3g} s a step ({way.speed.status})"
        )
        hours = f", {way.gpu_hours:.1f} GPU hours" if way.gpu_hours else ""
        lines.append(
            f"time: {duration(way.wall_hours)}{hours}; scratch peak {size(way.scratch_peak_bytes)} "
            f"of {size(way.scratch_bytes)}"
        )
    if not case.local:
        low, high = way.spot_range
        lines.append(
            f"cost: {money(way.usd)} on demand, {money(way.spot_usd)} spot "
            f"({money(low)} to {money(high)} by preemptions); storage {money(plan.storage_usd_month)} a month"
        )
    lines += [f"{finding.level}: {finding.text}" for finding in plan.findings]
    return lines


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


def full_lines(plan: Plan, rows: int = 12) -> list[str]:
    """Return the whole plan as tables a person reads."""
    return list(_full(plan, rows))


def _full(plan: Plan, rows: int) -> Iterator[str]:
    way, case = plan.chosen, plan.case
    yield from (line for line in summary_lines(plan) if not line.startswith(("jobs:", "error:", "warning:", "note:")))
    if plan.jobs:
        yield ""
        yield from table([(job.rule, job.machine_class, job.count) for job in plan.jobs], ("rule", "machine", "jobs"))
    if not case.local and case.work.members:
        yield ""
        yield from table(_cost_rows(way), ("USD", "on demand", "spot"))
        yield (
            f"spot: {way.spot.preemptions:.1f} preemptions expected, {duration(way.spot.wall_hours)}, "
            f"9 in 10 runs end within {duration(way.spot.wall_hours_p90)} and cost less than {money(way.spot.usd_p90)}"
        )
        yield (
            f"each month: {money(plan.storage_usd_month)} for {size(plan.storage_gb * 1e9)} in the bucket, "
            f"{money(plan.registry_usd_month)} for images"
        )
    if plan.alternatives:
        yield ""
        yield from alternative_lines(plan, rows)
    for finding in plan.findings:
        yield f"{finding.level}: {finding.text}"
    if plan.price_notes:
        yield f"prices from: {'; '.join(plan.price_notes)}"


def _cost_rows(way: Estimate) -> list[tuple[str, str, str]]:
    rows = [
        (name, money(usd), money(way.spot_costs[name]))
        for name, usd in way.costs.items()
        if usd > 0.005 or way.spot_costs[name] > 0.005
    ]
    return [*rows, ("total", money(way.usd), money(way.spot_usd))]


def alternative_lines(plan: Plan, rows: int) -> list[str]:
    """Return the ranked ways, cheapest member first, and the fastest of all."""
    members = max(len(plan.case.work.to_forecast), 1)
    fit = [way for way in plan.alternatives if way.problem is None]
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
                duration(way.wall_hours),
                duration(way.spot.wall_hours),
                way.speed.status,
            )
            for way in shown
        ],
        ("machine", "VMs", "each", "at once", "a member", "spot", "total", "time", "spot time", "speed"),
    )
    unfit = {
        way.machine: way.problem
        for way in plan.alternatives
        if way.problem and way.machine not in {w.machine for w in fit}
    }
    if fit:
        fast = min(fit, key=lambda way: (way.wall_hours, way.usd))
        lines.append(f"fastest: {fast.vms} x {fast.machine}, {duration(fast.wall_hours)}, {money(fast.usd)}")
    return lines + [f"{name} does not fit: {problem}" for name, problem in unfit.items()]


def _way_dict(way: Estimate) -> dict[str, Any]:
    content = asdict(way)
    content |= {"usd": way.usd, "spot_usd": way.spot_usd}
    return content


def plan_dict(plan: Plan) -> dict[str, Any]:
    """Return the plan as JSON-compatible values."""
    case, config = plan.case, plan.case.config
    return {
        "schema": "aifs-ensemble/plan/1",
        "cycle": config.cycle,
        "model": config.model.name,
        "profile": case.profile,
        "looked_at": list(case.work.looked_at),
        "members": len(config.members),
        "members_to_forecast": [work.member for work in case.work.to_forecast],
        "members_to_deliver": list(case.work.to_deliver),
        "steps": case.work.steps,
        "fields_per_lead": case.fields,
        "bytes_written": case.written_bytes,
        "bytes_delivered": case.delivered_bytes,
        "jobs": [asdict(job) for job in plan.jobs],
        "chosen": _way_dict(plan.chosen),
        "alternatives": [_way_dict(way) for way in plan.alternatives],
        "storage_usd_month": plan.storage_usd_month,
        "registry_usd_month": plan.registry_usd_month,
        "findings": [asdict(finding) for finding in plan.findings],
        "prices": list(plan.price_notes),
    }
