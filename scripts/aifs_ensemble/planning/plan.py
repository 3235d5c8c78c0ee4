"""What a run will take and cost, before it runs: only what is still missing, on the machines chosen.

Light enough for a dry-run: no pandas, no torch, no cloud library is imported, and nothing asks the network unless the
destination is looked at. docs/planning.md states the model and its assumptions.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from pathlib import Path
from statistics import median

import yaml

from aifs_ensemble.common.acceleration import FLOAT8
from aifs_ensemble.common.config import Config
from aifs_ensemble.common.errors import PlanError
from aifs_ensemble.common.gpu import cards
from aifs_ensemble.common.manifest import MemberManifest
from aifs_ensemble.delivery.scratch import coarse_values, kept_share
from aifs_ensemble.forecast.settings import area_of
from aifs_ensemble.model.numerics import Numerics
from aifs_ensemble.planning.cards import own_card
from aifs_ensemble.planning.case import Case
from aifs_ensemble.planning.costs import GB
from aifs_ensemble.planning.estimates import Estimate, estimate
from aifs_ensemble.planning.grid_sizes import grid_points
from aifs_ensemble.planning.machines import Gpu, Machines, MachineType
from aifs_ensemble.planning.outstanding import Outstanding, outstanding_of_run
from aifs_ensemble.planning.own_pass import unmixed, why_own_pass, without_acceleration
from aifs_ensemble.planning.regions import mismatches
from aifs_ensemble.planning.throughput import Throughput, load_throughput, past_manifests, with_runs

PROFILES = ("local", "coiled-gpu", "googlebatch")
# the compute capability from which cards multiply bfloat16: Ampere
_BFLOAT16 = (8, 0)
_PROFILE_FILES = Path(__file__).parents[3] / "profiles"


@dataclass(frozen=True)
class Finding:
    """Something to know before the run; a plan with an ``error`` is refused.

    `of_machine` marks what is wrong with the configured machine alone: another one may do.
    """

    level: str
    text: str
    of_machine: bool = False


@dataclass(frozen=True)
class JobCount:
    """How often a rule runs and on which class of machine."""

    rule: str
    machine_class: str
    count: int


@dataclass(frozen=True)
class Plan:
    """A plan: the work, how the configured machines do it, and what to know about it."""

    case: Case
    jobs: tuple[JobCount, ...]
    chosen: Estimate
    findings: tuple[Finding, ...]
    price_notes: tuple[str, ...]

    @property
    def storage_usd_month(self) -> float:
        """What the delivered bytes cost in the bucket, USD a month."""
        return 0.0 if self.case.local else self.case.machines.bucket_month(self.case.delivered_bytes)

    @property
    def registry_usd_month(self) -> float:
        """What the images cost in their registry, USD a month."""
        machines = self.case.machines
        images = sum(machines.assumptions.image_gb.values())
        return 0.0 if self.case.local else images * machines.service("registry_gb_month")

    def check(self, *, other_machine: bool = False) -> None:
        """Raise PlanError with the first reason to refuse; with `other_machine`, one that holds for others, too."""
        for finding in self.findings:
            if finding.level == "error" and not (other_machine and finding.of_machine):
                raise PlanError(f"plan: {finding.text}")


def _own_gpu(machines: Machines) -> Gpu | None:
    """Return the cards of the machine that this runs on."""
    if not (found := cards()):
        return None
    first = found[0]
    return own_card(first.name, len(found), int(first.memory_total / 2**20), first.bandwidth_gb_s, machines.gpu_specs)


def this_machine(config: Config, machines: Machines) -> MachineType:
    """Return the machine that this runs on, as a machine type without a price."""
    folder = config.scratch_root.absolute()
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
        gpu=None if config.forecast.device == "cpu" else _own_gpu(machines),
        prices={},
    )


def default_profile(config: Config) -> str:
    """Return the profile that a configuration is for: a cloud one when it asks for a GPU, and not for a folder."""
    folder = bool(config.destination) and not config.cloud_destination  # rented machines share no files
    return "coiled-gpu" if config.forecast.device == "cuda" and not folder else "local"


def group_components(profile: str) -> dict[str, int]:
    """Return how many jobs of each group a profile's file puts on a machine."""
    file = _PROFILE_FILES / profile / "config.yaml"
    content = yaml.safe_load(file.read_text()) if file.exists() else {}
    return {name: int(count) for name, count in (content.get("group-components") or {}).items()}


def members_group(profile: str) -> int:
    """Return how many members a profile's file puts on a machine."""
    return group_components(profile).get("members", 1)


def plan_case(
    config: Config,
    machines: Machines,
    *,
    profile: str | None = None,
    bucket_region: str | None = None,
    group: int | None = None,
    work: Outstanding | None = None,
    throughput: Throughput | None = None,
    runs: Sequence[MemberManifest] | None = None,
) -> Case:
    """Return what a plan is made of: what is missing of an ensemble, its sizes, speeds and prices.

    Parameters
    ----------
    profile : ``local``, ``coiled-gpu`` or ``googlebatch``; by default what the configuration is for
    bucket_region : over ``cloud.bucket_region``, to check it against the machines' region
    group : members that Snakemake puts on a machine; by default as the profile's file says
    work, throughput, runs : what is missing, the table of speeds, manifests of past members that correct it;
        read from scratch and config/ by default
    """
    profile = profile or default_profile(config)
    if profile not in PROFILES:
        raise PlanError(f"plan: profile {profile!r}, expected one of {', '.join(PROFILES)}")
    runs = past_manifests(config.scratch_root) if runs is None else runs
    own = why_own_pass(config, runs)
    table = throughput or load_throughput(machines.gpu_specs)
    table = without_acceleration(table, config.model, config.forecast.chunks) if own else table
    table = with_runs(table, unmixed(runs, own=bool(own)), machines.gpu_specs)
    return Case(
        config=config,
        machines=machines,
        throughput=table,
        work=outstanding_of_run(config) if work is None else work,
        profile=profile,
        bucket_region=bucket_region or config.cloud.bucket_region,
        lead_bytes=_lead_bytes(
            config, table, runs, config.lead_fields, kept_share(config, _bytes_per_value(config, table))
        ),
        whole_lead_bytes=_lead_bytes(config, table, runs, len(config.model.delivered)),
        initial_seconds=_initial_seconds(config, machines),
        group=members_group(profile) if group is None else group,
        not_accelerated=own,
    )


def plan(case: Case, today: date | None = None, *, at_once: int | None = None) -> Plan:
    """Return the plan of a case on the machines that its configuration names; `today` tells old prices.

    `at_once` is what ``snakemake -j`` says, in place of the machine's processors or of ``cloud.vms``.
    """
    config, machines = case.config, case.machines
    machine = this_machine(config, machines) if case.local else machines.for_class("gpu", config)
    if case.local and at_once:
        machine = replace(machine, vcpus=min(machine.vcpus, at_once))
    chosen = estimate(case, machine, config.cloud.vms if case.local else at_once or config.cloud.vms)
    used = [] if case.local else [machine, machines.for_class("cpu", config)]
    notes = machines.price_notes(used, case.region, today or datetime.now(UTC).date()) if used else []
    return Plan(case, _jobs(case), chosen, tuple(_findings(case, machine, chosen, notes)), tuple(notes))


def _lead_bytes(
    config: Config, table: Throughput, runs: Sequence[MemberManifest], fields: float, share: float = 1.0
) -> float:
    """Return the size of a lead of some fields, with its coarse file: by past members of this model, else the table.

    `share` is what it has of the bytes of a field of the globe.
    """
    model = config.model
    values = fields * grid_points(model.grid)
    sizes = [
        sum(file.size for record in one.leads for file in record.files) * fields / one.fields
        for one in runs
        if one.model == model.name and one.fields and area_of(one) is None
    ]
    lead = median(sizes) if sizes else values * _bytes_per_value(config, table)
    return lead * (share + coarse_values(config) / values)


def _bytes_per_value(config: Config, table: Throughput) -> float:
    return table.size(config.model.name).bytes_per_value


def _initial_seconds(config: Config, machines: Machines) -> float:
    """Return the seconds of a member's initial state; toy grids take a few seconds whatever is assumed of real ones."""
    share = grid_points(config.model.grid) / grid_points("N320")
    return max(3.0, machines.assumptions.initial_member_seconds * share)


def _jobs(case: Case) -> tuple[JobCount, ...]:
    work = case.work
    fetched = "local" if case.checkpoint_here else "cpu"
    counts = [
        ("checkpoint_prepare", "gpu" if case.config.model.built else fetched, int(work.checkpoint)),
        ("initial_cycle", "cpu", int(work.shared_initial)),
        ("initial_member", "cpu", sum(member.initial for member in work.members)),
        ("initial_members", "cpu", sum(any(member.initial for member in one.members) for one in work.by_cycle)),
        ("forecast_member", "gpu", len(work.to_forecast)),
        ("sync_member", "cpu", 0 if case.config.delivery.streaming else len(work.to_deliver)),
        ("ensemble_manifest", "local", int(work.ensemble_manifest)),
        *((rule, "cpu", count) for rule, count in case.products.jobs.items()),
    ]
    return tuple(JobCount(rule, "local" if case.local else kind, count) for rule, kind, count in counts if count)


def _findings(case: Case, machine: MachineType, chosen: Estimate, notes: Sequence[str]) -> list[Finding]:
    """Return what speaks against the plan, what to know, and how sure it is."""
    config, found = case.config, []
    if case.work.refusal:
        found.append(Finding("error", case.work.refusal))
    if chosen.problem and case.work.to_forecast:
        found.append(Finding("error", chosen.problem, of_machine=True))
    settings = config.forecast
    if machine.gpu is not None and case.not_accelerated and case.work.to_forecast:
        level = "note" if not settings.accelerate else "warning"
        if settings.precision == FLOAT8:
            found.append(Finding("error", Numerics.of(config).refusal(case.not_accelerated)))
        else:
            found.append(Finding(level, f"accelerated: no, because {case.not_accelerated}"))
    if machine.gpu is not None and settings.gpu_mem_mb and settings.gpu_mem_mb < chosen.speed.peak_gpu_mb:
        found.append(
            Finding(
                "warning",
                f"forecast.gpu_mem_mb: {settings.gpu_mem_mb:,}, a member took {chosen.speed.peak_gpu_mb:,.0f} MB "
                f"on {chosen.speed.gpu} (precision {chosen.speed.precision}, compile {chosen.speed.compile})",
            )
        )
    if machine.gpu is not None and settings.precision == "bf16" and machine.gpu.capability < _BFLOAT16:
        has = ".".join(map(str, machine.gpu.capability))
        found.append(
            Finding(
                "warning",
                f"forecast.precision: bf16, the {machine.gpu.name} has compute capability {has} and no products "
                "of bfloat16, expected 16",
            )
        )
    if not case.local:
        found += _region_findings(case)
    if chosen.speed.status == "estimated" and case.work.to_forecast:
        speed = chosen.speed
        found.append(Finding("note", f"{speed.gpu}: not measured, {chosen.step_seconds:.3f} s a step {speed.source}"))
    old = [note for note in notes if "OLD" in note]
    if old:
        found.append(Finding("note", f"old prices: {'; '.join(old)}; put today's over them with cloud.prices"))
    return found


def _region_findings(case: Case) -> list[Finding]:
    config = case.config
    level = "warning" if config.delivery.allow_cross_region else "error"
    found = []
    for kind in ("gpu", "cpu"):
        machine = case.machines.for_class(kind, config)
        if case.region not in machine.prices:
            other = next(iter(machine.prices), None)
            if other is None:
                raise PlanError(f"plan: no price of {machine.name} in machines.yaml, add one with cloud.prices")
            found.append(Finding("warning", f"no price of {machine.name} in {case.region}: priced as in {other}"))
    if config.destination is None:
        found.append(Finding("warning", "destination is not set: this plans, a run would refuse"))
    if not config.delivery.streaming:
        found.append(Finding("warning", "delivery.streaming: false: this plans, a run on rented machines would refuse"))
    for mismatch in mismatches(config, case.bucket_region, int(case.delivered_bytes), case.machines):
        if case.bucket_region is None and mismatch.region != case.region:
            # a run asks the bucket, and leaves regions away from it out
            hint = "; cloud.bucket_region says whether a run takes that region"
            found.append(Finding("warning", f"cloud.regions: {mismatch}{hint}"))
        else:
            found.append(Finding(level, f"cloud.regions: {mismatch}"))
    return found
