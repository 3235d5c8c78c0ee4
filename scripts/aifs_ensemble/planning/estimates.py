"""Time, money and room of one way to run: what is missing, on so many machines of one type.

docs/planning.md states the model; config/machines.yaml and config/throughput.json hold its figures.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from aifs_ensemble.common.acceleration import FLOAT8
from aifs_ensemble.delivery.scratch import MB, MemberSizes, reserve, room_needed
from aifs_ensemble.model.numerics import FLOAT8_CAPABILITY
from aifs_ensemble.planning.case import Case
from aifs_ensemble.planning.costs import GB, CpuStage, Rented, costs_by_category, cpu_stage, hourly
from aifs_ensemble.planning.grid_sizes import grid_points
from aifs_ensemble.planning.machines import Gpu, MachineType
from aifs_ensemble.planning.preemption import Life, Spread, busy_seconds, spread
from aifs_ensemble.planning.speeds import Speed


@dataclass(frozen=True)
class Estimate:
    """One way to run: machines, time and cost, on demand and on preemptible capacity.

    Each of `groups` jobs gets a machine of its own, `vms` of them at a time. `vm_hours` are billed, of all GPU machines
    together; in `busy_hours` of them a member is on the machine; `wall_hours` is from the start to the ensemble's
    manifest.
    """

    machine: str
    region: str
    groups: int
    vms: int
    members_per_vm: int
    at_once: int
    speed: Speed
    step_seconds: float
    vm_hours: float
    busy_hours: float
    gpu_hours: float
    wall_hours: float
    cpu_vm_hours: float
    costs: Mapping[str, float]
    spot_costs: Mapping[str, float]
    spot: Spread
    spot_range: tuple[float, float]
    scratch_peak_bytes: float
    scratch_bytes: float
    problem: str | None = None

    @property
    def usd(self) -> float:
        return sum(self.costs.values())

    @property
    def spot_usd(self) -> float:
        return sum(self.spot_costs.values())


def lives(case: Case, machine: MachineType) -> list[Life]:
    """Return the jobs on machines of one type: each a group of Snakemake's, the last shorter. Here it is one job."""
    assume = case.machines.assumptions
    steps = [member.steps for member in case.work.to_forecast]
    size = max(len(steps) if case.local else case.group, 1)
    speed, at_once = case.speed(machine), case.at_once(machine)
    pull = 0.0 if case.local else assume.image_gb["gpu"] * 1000 / assume.image_pull_mb_s
    start = 0.0 if case.local else assume.vm_boot_seconds + pull + assume.idle_tail_seconds
    restart = case.config.forecast.restart_hours // case.config.model.timestep_hours
    usual = Life(
        steps=(),
        at_once=max(at_once, 1),
        step_seconds=case.step_seconds(machine, at_once),
        overhead_seconds=speed.startup_seconds + speed.drain_seconds,
        machine_seconds=start + speed.cold_seconds,
        wait_seconds=0.0 if case.local else assume.vm_wait_seconds,
        restart_steps=restart if case.config.delivery.mirror_restarts else None,
    )
    return [replace(usual, steps=tuple(steps[i : i + size])) for i in range(0, len(steps), size)]


def estimate(case: Case, machine: MachineType, vms: int, *, draws: int = 200) -> Estimate:
    """Return time and cost of the work of `case` on `vms` machines of one type at a time.

    A group of members is a job, and a job's machine is given back when it ends: where there are more groups than
    machines, those that follow wait for machines of their own, which boot and pull again.
    """
    jobs, cpu, speed, at_once = lives(case, machine), cpu_stage(case), case.speed(machine), case.at_once(machine)
    size = max((len(job.steps) for job in jobs), default=0)
    together = max(1, min(vms, len(jobs)))
    usual = spread(jobs, 0.0, 1, (0.0, 0.0), machines=together)
    on_demand = Rented(usual.spot_hours, usual.spot_hours * case.price(machine).on_demand, len(jobs))
    spot, spot_costs, spot_range = _on_spot(case, machine, jobs, together, cpu, draws)
    peak, room = _scratch(case, machine, size, max(at_once, 1))
    longest = max((job.machine_seconds + busy_seconds(job) for job in jobs), default=0.0) / 3600
    found = Estimate(
        machine=machine.name,
        region="" if case.local else case.region,
        groups=len(jobs),
        vms=min(vms, len(jobs)),
        members_per_vm=size,
        at_once=at_once,
        speed=speed,
        step_seconds=case.step_seconds(machine, at_once),
        vm_hours=usual.spot_hours,
        busy_hours=sum(busy_seconds(job) + speed.cold_seconds for job in jobs) / 3600,
        gpu_hours=usual.spot_hours * (machine.gpu.count if machine.gpu else 0),
        wall_hours=usual.wall_hours + cpu.wall_hours,
        cpu_vm_hours=cpu.hours,
        costs=costs_by_category(case, machine, cpu, on_demand),
        spot_costs=spot_costs,
        spot=spot,
        spot_range=spot_range,
        scratch_peak_bytes=peak,
        scratch_bytes=room,
    )
    return replace(found, problem=_no_float8(case, machine) or _problem(case, machine, found, longest))


def _on_spot(
    case: Case, machine: MachineType, jobs: Sequence[Life], together: int, cpu: CpuStage, draws: int
) -> tuple[Spread, dict[str, float], tuple[float, float]]:
    """Return the whole run on preemptible machines: its spread, USD by category, and USD at few and many preemptions.

    Coiled runs a spot machine's task beside a small scheduler, which is always on demand.
    """
    attempts, chances = case.config.cloud.spot_attempts, case.machines.assumptions.preemptions_per_hour
    if attempts and case.profile == "googlebatch":
        attempts = sys.maxsize  # its plugin knows no attempts: all of a run's are preemptible
    scheduler = 0.0
    if case.profile.startswith("coiled"):
        small = case.machines.for_class("cpu", case.config)
        scheduler = case.price(small).on_demand + case.machines.coiled_hour(small)
    price, rates = case.price(machine), sum(hourly(case, machine).values())
    hour = (price.spot + rates + scheduler, price.on_demand + rates)
    spot = spread(jobs, chances["expected"], attempts, hour, machines=together, draws=draws)
    rented = Rented(
        spot.spot_hours + spot.on_demand_hours,
        spot.spot_hours * price.spot + spot.on_demand_hours * price.on_demand,
        len(jobs) + spot.preemptions,
    )
    schedulers = (spot.spot_hours + (cpu.hours if attempts else 0.0)) * scheduler
    costs = costs_by_category(case, machine, cpu, rented, cpu_spot=attempts > 0, schedulers=schedulers)
    around = sum(costs.values()) - spot.usd
    ends = [spread(jobs, chances[end], attempts, hour, draws=draws).usd + around for end in ("low", "high")]
    whole = replace(
        spot,
        wall_hours=spot.wall_hours + cpu.wall_hours,
        wall_hours_p90=spot.wall_hours_p90 + cpu.wall_hours,
        usd=spot.usd + around,
        usd_p10=spot.usd_p10 + around,
        usd_p90=spot.usd_p90 + around,
    )
    return whole, costs, (min(ends), max(ends))


def _scratch(case: Case, machine: MachineType, members: int, at_once: int) -> tuple[float, float]:
    """Return the peak of bytes on a machine's scratch, and the room there."""
    config, size = case.config, case.throughput.size(case.config.model.name)
    points = grid_points(config.model.grid)
    sizes = MemberSizes.of(config, points, size.bytes_per_value, size.restart_mb)
    share = len(config.leads) / len(config.steps)
    to_make = math.ceil(share * sum(work.steps for work in case.work.members))
    peak = room_needed(
        config, replace(sizes, lead=case.lead_bytes), members, at_once, rented=not case.local, to_make=to_make
    )
    room = machine.scratch_gb * GB - reserve(machine.scratch_gb * GB)
    budget = config.delivery.scratch_budget_mb
    return peak, min(room, budget * MB) if budget else room


def _no_float8(case: Case, machine: MachineType) -> str | None:
    """Return why a machine cannot multiply in float8, where that is asked for."""
    if case.config.forecast.precision != FLOAT8 or (machine.gpu and machine.gpu.capability >= FLOAT8_CAPABILITY):
        return None
    what = f"the {machine.gpu.name} does not multiply in float8" if machine.gpu else f"{machine.name} has no GPU"
    return f"forecast.precision: fp8, {what}, expected 16, bf16 or 32, or a card of Ada or Hopper (H100, H200, L4)"


def _problem(case: Case, machine: MachineType, found: Estimate, longest: float) -> str | None:
    """Return why a machine cannot do the work, or None; `longest` is the hours of the longest job."""
    size = case.throughput.size(case.config.model.name)
    if case.profile == "googlebatch" and machine.gpu is not None and machine.gpu.count > 1:
        return f"{machine.name} has {machine.gpu.count} cards, the googlebatch plugin asks for one"
    if found.at_once < 1 and machine.gpu is not None:
        if too_large := _too_large(case, found.speed, machine.gpu):
            return too_large
        return f"{size.host_mb:,.0f} MB of memory for a member, {machine.name} has {machine.memory_mb:,}"
    if found.scratch_peak_bytes > found.scratch_bytes:
        budget = case.config.delivery.scratch_budget_mb
        who = (
            "delivery.scratch_budget_mb leaves"
            if budget and budget * MB <= found.scratch_bytes
            else f"{machine.name} has"
        )
        return f"scratch peak {found.scratch_peak_bytes / GB:,.1f} GB, {who} {found.scratch_bytes / GB:,.1f} GB"
    if not case.local and longest > case.config.cloud.max_hours:
        return f"{longest:.1f} h on one machine, cloud.max_hours stops it after {case.config.cloud.max_hours:g} h"
    return None


def _too_large(case: Case, speed: Speed, card: Gpu) -> str:
    """Return that a member does not fit a card, and how many chunks would do; empty if it does."""
    forecast, model = case.config.forecast, case.config.model
    has = f"the {card.name} has {card.memory_mb:,} MB"
    if case.not_accelerated and speed.peak_gpu_mb > card.memory_mb:
        said = f"the model's own pass takes {speed.peak_gpu_mb:,.0f} MB with forecast.chunks: {forecast.chunks}, {has}"
        chunks = model.chunks_within(card.memory_mb)
        if chunks is None:
            return f"{said}; no number of chunks is known to make it fit"
        needed = math.ceil(model.own_pass_mb(chunks))
        return f"{said}; it fits with forecast.chunks: {chunks} and gpu_mem_mb: {needed}"
    wanted = forecast.gpu_mem_mb or speed.peak_gpu_mb
    if wanted <= card.memory_mb:
        return ""
    measured = f" ({speed.peak_gpu_mb:,.0f} measured)" if speed.peak_gpu_mb < wanted else ""
    return f"forecast.gpu_mem_mb: {wanted:,.0f} MB for a member{measured}, {has}"
