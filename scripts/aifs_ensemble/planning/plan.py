"""What a run will take and cost, before it runs: only what is still missing, on the machines chosen and on others.

Light enough for a dry-run: no pandas, no torch, no cloud library is imported, and nothing asks the network unless the
destination is looked at. docs/planning.md states the model and its assumptions.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from pathlib import Path
from statistics import median
from typing import Any

import yaml

from aifs_ensemble.common.config import Config
from aifs_ensemble.common.errors import PlanError
from aifs_ensemble.common.manifest import MemberManifest
from aifs_ensemble.planning.estimates import GB, Case, Estimate, crossing_price, estimate, grid_points, member_price
from aifs_ensemble.planning.machines import Gpu, Machines, MachineType
from aifs_ensemble.planning.outstanding import Outstanding, everything, outstanding
from aifs_ensemble.planning.regions import mismatches
from aifs_ensemble.planning.throughput import Throughput, gpu_name, load_throughput, past_manifests, with_runs

SCHEMA = "aifs-ensemble/plan/1"
PROFILES = ("local", "coiled-gpu", "googlebatch")
_PROFILE_FILES = Path(__file__).parents[3] / "profiles"
_VM_COUNTS = (1, 2, 3, 4, 5, 6, 7, 8)


@dataclass(frozen=True)
class Finding:
    """Something to know before the run; a plan with an ``error`` is refused."""

    level: str
    text: str


@dataclass(frozen=True)
class Job:
    """How often a rule runs and on which class of machine."""

    rule: str
    machine_class: str
    count: int


@dataclass(frozen=True)
class Plan:
    """A plan: the work, the way chosen, the ways not chosen, and what to know about it."""

    case: Case
    jobs: tuple[Job, ...]
    chosen: Estimate
    alternatives: tuple[Estimate, ...]
    findings: tuple[Finding, ...]
    price_notes: tuple[str, ...]
    storage_gb: float
    storage_usd_month: float
    registry_usd_month: float
    spot_chosen: bool = field(default=False)

    def check(self, *, other_way: bool = False) -> None:
        """Raise PlanError with the first reason to refuse; `other_way`: one that holds for other machines, too."""
        for finding in self.findings:
            if finding.level == "error" and not (other_way and finding.text == self.chosen.problem):
                raise PlanError(f"plan: {finding.text}")

    def summary_lines(self) -> list[str]:
        """Return the plan in a few lines, for a dry-run."""
        from aifs_ensemble.planning.plan_text import summary_lines

        return summary_lines(self)

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as JSON-compatible values."""
        from aifs_ensemble.planning.plan_text import plan_dict

        return plan_dict(self)


def _own_gpu(machines: Machines) -> Gpu | None:
    """Return the card of the machine that this runs on, as NVML tells; its speed is known if the table has it."""
    try:
        import pynvml

        pynvml.nvmlInit()
        count = pynvml.nvmlDeviceGetCount()
        handle = pynvml.nvmlDeviceGetHandleByIndex(0)
        device = str(pynvml.nvmlDeviceGetName(handle))
        memory = int(pynvml.nvmlDeviceGetMemoryInfo(handle).total / 2**20)
    except Exception:  # no library, no driver, no card: all mean a processor
        return None
    name = gpu_name(device, machines.gpu_specs)
    spec = machines.gpu_specs.get(name)
    tflops, bandwidth = (spec.tflops, spec.bandwidth_gb_s) if spec else (100.0, 500.0)
    return Gpu(name, count, memory, "", tflops, bandwidth)


def this_machine(config: Config, machines: Machines) -> MachineType:
    """Return the machine that this runs on, as a machine type without a price."""
    folder = Path(config["scratch"]).absolute()
    while not folder.exists():
        folder = folder.parent
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**20
    return MachineType(
        name="this machine",
        machine_class="cpu",
        vcpus=os.cpu_count() or 1,
        memory_mb=int(memory),
        scratch_gb=shutil.disk_usage(folder).free / GB,
        scratch_kind="local disk",
        gpu=None if config["forecast"]["device"] == "cpu" else _own_gpu(machines),
        prices={},
    )


def default_profile(config: Config) -> str:
    """Return the profile that a configuration is for: a cloud one when it asks for a GPU, and not for a folder."""
    folder = bool(config["destination"]) and not config.cloud_destination  # rented machines share no files
    return "coiled-gpu" if config["forecast"]["device"] == "cuda" and not folder else "local"


def group_components(profile: str) -> dict[str, int]:
    """Return how many jobs of each group a profile's file puts on a machine."""
    file = _PROFILE_FILES / profile / "config.yaml"
    content = yaml.safe_load(file.read_text()) if file.exists() else {}
    return {name: int(count) for name, count in (content.get("group-components") or {}).items()}


def members_group(profile: str) -> int:
    """Return how many members a profile's file puts on a machine."""
    return group_components(profile).get("members", 1)


def plan(
    config: Config,
    machines: Machines,
    *,
    profile: str | None = None,
    destination: bool | None = None,
    bucket_region: str | None = None,
    group: int | None = None,
    work: Outstanding | None = None,
    throughput: Throughput | None = None,
    runs: Sequence[MemberManifest] | None = None,
    alternatives: bool = True,
    today: date | None = None,
) -> Plan:
    """Return the plan of what is missing of an ensemble.

    Parameters
    ----------
    profile : ``local``, ``coiled-gpu`` or ``googlebatch``; by default what the configuration is for
    destination : whether to look at the destination; by default only at a folder
    bucket_region : over ``cloud.bucket_region``, to check it against the machines' region
    group : members that Snakemake puts on a machine; by default as the profile's file says
    work, throughput, runs : what is missing, the table of speeds, manifests of past members that correct it;
        read from scratch and config/ by default
    """
    profile = profile or default_profile(config)
    if profile not in PROFILES:
        raise PlanError(f"plan: profile {profile!r}, expected one of {', '.join(PROFILES)}")
    work = work if work is not None else outstanding(config, destination=destination)
    runs = past_manifests(config.scratch.root) if runs is None else runs
    table = throughput or load_throughput(machines.gpu_specs)
    table = with_runs(table, runs, machines.gpu_specs)
    case = Case(
        config=config,
        machines=machines,
        throughput=table,
        work=work,
        profile=profile,
        bucket_region=bucket_region or config["cloud"]["bucket_region"],
        lead_bytes=_lead_bytes(config, table, runs),
        initial_seconds=_initial_seconds(config, machines),
        group=members_group(profile) if group is None else group,
    )
    machine = this_machine(config, machines) if case.local else machines.for_class("gpu", config)
    chosen = estimate(case, machine, config["cloud"]["vms"])
    others = tuple(ranked(case)) if alternatives and not case.local and work.to_forecast else ()
    today = today or datetime.now(UTC).date()
    used = [] if case.local else [machine, machines.for_class("cpu", config)]
    notes = machines.price_notes(used, case.region, today) if used else []
    total_gb = case.delivered_bytes / GB
    return Plan(
        case=case,
        jobs=_jobs(case),
        chosen=chosen,
        alternatives=others,
        findings=tuple(_findings(case, machine, chosen, notes)),
        price_notes=tuple(notes),
        storage_gb=total_gb,
        storage_usd_month=0.0 if case.local else total_gb * machines.service("bucket_gb_month"),
        registry_usd_month=0.0
        if case.local
        else sum(machines.assumptions.image_gb.values()) * machines.service("registry_gb_month"),
        spot_chosen=bool(config["cloud"]["spot"]) and not case.local,
    )


def _lead_bytes(config: Config, table: Throughput, runs: Sequence[MemberManifest]) -> float:
    """Return the size of one lead: the median of past members of this model, else from the table."""
    sizes = [m.bytes / len(m.leads) for m in runs if m.model == config.model.name and m.leads]
    if sizes:
        return median(sizes)
    return len(config.model.outputs) * grid_points(config.model.grid) * table.size(config.model.name).bytes_per_value


def _initial_seconds(config: Config, machines: Machines) -> float:
    """Return the seconds of a member's initial state; toy grids take a few seconds whatever is assumed of real ones."""
    share = grid_points(config.model.grid) / grid_points("N320")
    return max(3.0, machines.assumptions.initial_member_seconds * share)


def _jobs(case: Case) -> tuple[Job, ...]:
    work = case.work
    fetched = "local" if case.checkpoint_here else "cpu"
    counts = [
        ("checkpoint_prepare", "gpu" if case.config.model.built else fetched, int(work.checkpoint)),
        ("initial_cycle", "cpu", int(work.shared_initial)),
        ("initial_member", "cpu", sum(member.initial for member in work.members)),
        ("initial_members", "cpu", int(any(member.initial for member in work.members))),
        ("forecast_member", "gpu", len(work.to_forecast)),
        ("sync_member", "cpu", 0 if case.config["delivery"]["streaming"] else len(work.to_deliver)),
        ("ensemble_manifest", "local", int(work.ensemble_manifest)),
    ]
    return tuple(Job(rule, "local" if case.local else kind, count) for rule, kind, count in counts if count)


def _findings(case: Case, machine: MachineType, chosen: Estimate, notes: Sequence[str]) -> list[Finding]:
    """Return what speaks against the plan, what to know, and how sure it is."""
    config, found = case.config, []
    if case.work.refusal:
        found.append(Finding("error", case.work.refusal))
    if chosen.problem and case.work.to_forecast:
        found.append(Finding("error", chosen.problem))
    settings = config["forecast"]
    if machine.gpu is not None and settings["gpu_mem_mb"] and settings["gpu_mem_mb"] < chosen.speed.peak_gpu_mb:
        found.append(
            Finding(
                "warning",
                f"forecast.gpu_mem_mb: {settings['gpu_mem_mb']:,}, a member took {chosen.speed.peak_gpu_mb:,.0f} MB "
                f"on {chosen.speed.gpu} (precision {chosen.speed.precision}, compile {chosen.speed.compile})",
            )
        )
    if not case.local:
        found += _region_findings(case)
    if chosen.speed.status == "estimated" and case.work.to_forecast:
        found.append(Finding("note", f"{chosen.step_seconds:.3f} s a step is {chosen.speed.source}"))
    old = [note for note in notes if "OLD" in note]
    if old:
        found.append(Finding("note", f"old prices: {'; '.join(old)}; put today's over them with cloud.prices"))
    return found


def _region_findings(case: Case) -> list[Finding]:
    config = case.config
    level = "warning" if config["delivery"]["allow_cross_region"] else "error"
    found = []
    for kind in ("gpu", "cpu"):
        machine = case.machines.for_class(kind, config)
        if case.region not in machine.prices:
            other = next(iter(machine.prices), None)
            if other is None:
                raise PlanError(f"plan: no price of {machine.name} in machines.yaml, add one with cloud.prices")
            found.append(Finding("warning", f"no price of {machine.name} in {case.region}: priced as in {other}"))
    if config["destination"] is None:
        found.append(Finding("warning", "destination is not set: this plans, a run would refuse"))
    if not config["delivery"]["streaming"]:
        found.append(Finding("warning", "delivery.streaming: false: this plans, a run on rented machines would refuse"))
    for mismatch in mismatches(config, case.bucket_region, int(case.delivered_bytes), case.machines):
        if case.bucket_region is None and mismatch.region != case.region:
            # a run asks the bucket, and leaves regions away from it out
            hint = "; cloud.bucket_region says whether a run takes that region"
            found.append(Finding("warning", f"cloud.regions: {mismatch}{hint}"))
        else:
            found.append(Finding(level, f"cloud.regions: {mismatch}"))
    return found


def _regions(case: Case) -> set[str]:
    """Return the regions in which any machine has a price."""
    return {region for machine in case.machines.types.values() for region in machine.prices}


def ranked(case: Case, vm_counts: Sequence[int] = _VM_COUNTS, draws: int = 20) -> list[Estimate]:
    """Return the ways to run on every GPU machine with a price in the region, cheapest first; unfit ones last.

    Members are spread evenly over the machines, one group on each, whatever the profile's groups are.
    """
    members = len(case.work.to_forecast)
    groups = sorted({math.ceil(members / count) for count in vm_counts if count <= members}, reverse=True)
    ways = []
    for name in case.machines.names("gpu"):
        machine = case.machines.machine(name)
        if not machine.prices or (case.region not in machine.prices and case.region in _regions(case)):
            continue
        for group in groups:
            ways.append(estimate(replace(case, group=group), machine, math.ceil(members / group), draws=draws))
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


def choose(found: Plan, deadline_hours: float | None = None, budget_usd: float | None = None) -> Pick:
    """Return the cheapest way that ends by the deadline and within the budget.

    Preemptible capacity counts with its 90th percentile of time and of cost. Raises PlanError naming the nearest
    way when none fits.
    """
    picks = []
    for way in found.alternatives:
        if way.problem is None:
            groups = _groups(found.case, way)
            picks.append(Pick(way, False, way.usd, way.wall_hours, groups))
            picks.append(Pick(way, True, way.spot.usd_p90, way.spot.wall_hours_p90, groups))
    if not picks:
        reason = "the local profile rents none" if found.case.local else "no machine type fits the work"
        problem = next((way.problem for way in found.alternatives if way.problem), None)
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


__all__ = [
    "Case",
    "Estimate",
    "Finding",
    "Job",
    "Pick",
    "Plan",
    "choose",
    "crossing_price",
    "estimate",
    "everything",
    "member_price",
    "plan",
    "ranked",
]
