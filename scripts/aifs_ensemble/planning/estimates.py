"""Time, money and room of one way to run: what is missing, on so many machines of one type.

docs/planning.md states the model; config/machines.yaml and config/throughput.json hold its figures.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from aifs_ensemble.common.config import Config
from aifs_ensemble.common.errors import CloudError
from aifs_ensemble.common.models import fetched_by_coordinator
from aifs_ensemble.delivery.scratch import MB, MemberSizes, reserve, room_needed
from aifs_ensemble.planning.machines import HourPrice, Machines, MachineType
from aifs_ensemble.planning.outstanding import Outstanding
from aifs_ensemble.planning.preemption import Life, Spread, busy_seconds, spread
from aifs_ensemble.planning.regions import continent, near, usable_regions
from aifs_ensemble.planning.throughput import Speed, Throughput

CATEGORIES = (
    "gpu compute",
    "cpu compute",
    "disks",
    "image pulls",
    "network",
    "storage operations",
    "management",
)
# Points of the grids in the model catalogue; others are asked of ecCodes, which takes longer to import than a plan.
_POINTS = {"N32": 6114, "N48": 13280, "N80": 35718, "N128": 88838, "N320": 542080}
GB = 1e9
_MANIFEST_SECONDS = 5.0


def grid_points(name: str) -> int:
    """Return the number of points of a grid."""
    if name in _POINTS:
        return _POINTS[name]
    from aifs_ensemble.fields.grids import grid_coordinates

    return grid_coordinates(name).points


@dataclass(frozen=True)
class Case:
    """What every estimate of one plan shares: the work, the sizes, the profile and the prices.

    `group` is how many members Snakemake puts on a machine, if there are as many.
    """

    config: Config
    machines: Machines
    throughput: Throughput
    work: Outstanding
    profile: str
    bucket_region: str | None
    lead_bytes: float
    initial_seconds: float
    group: int = 1

    @property
    def local(self) -> bool:
        return self.profile == "local"

    @property
    def checkpoint_here(self) -> bool:
        """Whether the coordinator fetches the checkpoint, on no rented machine."""
        return fetched_by_coordinator(self.config.model, self.profile)

    @cached_property
    def region(self) -> str:
        """The region that a run tries first; the first one listed where it would refuse them all."""
        listed = self.config["cloud"]["regions"]
        try:
            return usable_regions(listed, self.bucket_region, self.config["delivery"]["allow_cross_region"])[0]
        except CloudError:
            return str(listed[0])

    @cached_property
    def fields(self) -> int:
        """Fields of one lead."""
        return len(self.config.model.outputs)

    @property
    def delivered_bytes(self) -> float:
        """Bytes still to deliver."""
        return len(self.work.to_deliver) * len(self.config.leads) * self.lead_bytes

    @property
    def written_bytes(self) -> float:
        """Bytes still to write to scratch."""
        return self.work.steps * self.lead_bytes

    def price(self, machine: MachineType) -> HourPrice:
        """Return a machine's price; without one in the region, another region's, as a finding says."""
        if self.local:
            return HourPrice(0.0, 0.0, "")
        return machine.prices.get(self.region) or next(iter(machine.prices.values()))

    def speed(self, machine: MachineType) -> Speed:
        """Return the speed of the configuration's model on a machine's card."""
        return self.throughput.for_config(self.config, machine.gpu)

    def at_once(self, machine: MachineType) -> int:
        """Return how many members fit a machine's card, memory and processors at once; 0 when not one does.

        Encoders are the threads that Snakemake counts; a rule that asks for more than there are gets what there is.
        """
        size = self.throughput.size(self.config.model.name)
        by_memory = int(machine.memory_mb // max(size.host_mb, 1))
        by_processors = max(1, machine.vcpus // self.config["forecast"]["encoders"])
        if machine.gpu is None:
            return max(1, min(by_memory, by_processors))
        wanted = self.config["forecast"]["gpu_mem_mb"] or self.speed(machine).peak_gpu_mb or machine.gpu.memory_mb
        return min(int(machine.gpu.memory_mb // wanted) * machine.gpu.count, by_memory, by_processors)

    def step_seconds(self, machine: MachineType, at_once: int) -> float:
        """Return the seconds between two steps of a machine: its card's, or its encoders' where these take longer."""
        size = self.throughput.size(self.config.model.name)
        cores = min(self.config["forecast"]["encoders"] * max(at_once, 1), max(machine.vcpus - 1, 1))
        encoding = self.fields * size.encode_core_seconds_per_field / cores
        cards = machine.gpu.count if machine.gpu else 1
        return max(self.speed(machine).step_seconds / cards, encoding)


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


def _chunks(case: Case) -> list[tuple[int, ...]]:
    """Return the members of each job as their steps: a group of Snakemake's, the last shorter; all of them here."""
    steps = [member.steps for member in case.work.to_forecast]
    size = len(steps) if case.local else case.group
    return [tuple(steps[i : i + size]) for i in range(0, len(steps), max(size, 1))]


def estimate(case: Case, machine: MachineType, vms: int, *, draws: int = 200) -> Estimate:
    """Return time and cost of the work of `case` on `vms` machines of one type at a time.

    A group of members is a job, and a job's machine is given back when it ends: where there are more groups than
    machines, those that follow wait for machines of their own, which boot and pull again.
    """
    assume = case.machines.assumptions
    at_once = case.at_once(machine)
    chunks = _chunks(case)
    size = max((len(chunk) for chunk in chunks), default=0)
    speed = case.speed(machine)
    step_seconds = case.step_seconds(machine, at_once)
    pull = 0.0 if case.local else assume.image_gb["gpu"] * 1000 / assume.image_pull_mb_s
    start = 0.0 if case.local else assume.vm_boot_seconds + pull + assume.idle_tail_seconds
    restart = case.config["forecast"]["restart_hours"] // case.config.model.timestep_hours
    lives = [
        Life(
            steps=chunk,
            at_once=max(at_once, 1),
            step_seconds=step_seconds,
            overhead_seconds=speed.startup_seconds + speed.drain_seconds,
            machine_seconds=start + speed.cold_seconds,
            wait_seconds=0.0 if case.local else assume.vm_wait_seconds,
            restart_steps=restart if case.config["delivery"]["mirror_restarts"] else None,
        )
        for chunk in chunks
    ]
    together = max(1, min(vms, len(lives)))
    price = case.price(machine)
    rates = _hourly(case, machine)
    attempts = case.config["cloud"]["spot_attempts"]
    if attempts and case.profile == "googlebatch":
        attempts = sys.maxsize  # its plugin knows no attempts: all of a run's are preemptible
    usual = spread(lives, 0.0, 1, (0.0, 0.0), machines=together)
    chances = assume.preemptions_per_hour
    # Coiled runs a spot machine's task beside a small scheduler, which is always on demand
    helper = 0.0
    if case.profile.startswith("coiled"):
        small = case.machines.for_class("cpu", case.config)
        helper = case.price(small).on_demand + case.machines.coiled_hour(small)
    hour = (price.spot + sum(rates.values()) + helper, price.on_demand + sum(rates.values()))
    spot = spread(lives, chances["expected"], attempts, hour, machines=together, draws=draws)
    cpu = _cpu_stage(case)
    costs = _costs(case, rates, cpu, Rented(usual.spot_hours, usual.spot_hours * price.on_demand, len(lives)))
    spot_rented = Rented(
        spot.spot_hours + spot.on_demand_hours,
        spot.spot_hours * price.spot + spot.on_demand_hours * price.on_demand,
        len(lives) + spot.preemptions,
    )
    schedulers = (spot.spot_hours + (cpu.hours if attempts else 0.0)) * helper
    spot_costs = _costs(case, rates, cpu, spot_rented, cpu_spot=attempts > 0, schedulers=schedulers)
    around = sum(spot_costs.values()) - spot.usd
    ends = [spread(lives, chances[end], attempts, hour, draws=draws).usd + around for end in ("low", "high")]
    peak, room = _scratch(case, machine, size, max(at_once, 1))
    result = Estimate(
        machine=machine.name,
        region="" if case.local else case.region,
        groups=len(lives),
        vms=min(vms, len(lives)),
        members_per_vm=size,
        at_once=at_once,
        speed=speed,
        step_seconds=step_seconds,
        vm_hours=usual.spot_hours,
        busy_hours=sum(busy_seconds(life) + speed.cold_seconds for life in lives) / 3600,
        gpu_hours=usual.spot_hours * (machine.gpu.count if machine.gpu else 0),
        wall_hours=usual.wall_hours + cpu.wall_hours,
        cpu_vm_hours=cpu.hours,
        costs=costs,
        spot_costs=spot_costs,
        spot=replace(
            spot,
            wall_hours=spot.wall_hours + cpu.wall_hours,
            wall_hours_p90=spot.wall_hours_p90 + cpu.wall_hours,
            usd=spot.usd + around,
            usd_p10=spot.usd_p10 + around,
            usd_p90=spot.usd_p90 + around,
        ),
        spot_range=(min(ends), max(ends)),
        scratch_peak_bytes=peak,
        scratch_bytes=room,
    )
    longest = max((life.machine_seconds + busy_seconds(life) for life in lives), default=0.0) / 3600
    return replace(result, problem=_problem(case, machine, result, longest))


def _hourly(case: Case, machine: MachineType) -> dict[str, float]:
    """Return what a machine's hour costs beside the machine, USD by category."""
    if case.local:
        return {"disks": 0.0, "management": 0.0}
    coiled = case.machines.coiled_hour(machine) if case.profile.startswith("coiled") else 0.0
    return {"disks": case.machines.disk_hour(machine, case.profile), "management": coiled}


@dataclass(frozen=True)
class Rented:
    """GPU machines rented: hours, what the machines themselves cost, and how many were started."""

    hours: float
    usd: float
    starts: float


@dataclass(frozen=True)
class CpuStage:
    """CPU machines: hours, the hours that their stages add to the run, and how many are started."""

    hours: float
    wall_hours: float
    starts: int


def _cpu_stage(case: Case) -> CpuStage:
    """Return what the CPU stages take: initial states on one machine, other jobs on one each, as in the profiles."""
    assume = case.machines.assumptions
    start = 0.0 if case.local else assume.vm_boot_seconds + assume.image_gb["cpu"] * 1000 / assume.image_pull_mb_s
    wait = 0.0 if case.local else assume.vm_wait_seconds
    cores = (os.cpu_count() or 1) if case.local else case.machines.for_class("cpu", case.config).vcpus
    states = math.ceil(sum(work.initial for work in case.work.members) / cores) + case.work.shared_initial
    synced = 0 if case.config["delivery"]["streaming"] else len(case.work.to_deliver)
    sync_seconds = len(case.config.leads) * case.lead_bytes / 1e6 / assume.sync_mb_s
    # (machines, seconds of each, one after the other on each); stages follow one another
    stages = [
        (int(case.work.checkpoint and not case.checkpoint_here), case.initial_seconds, 1),
        (min(states, 1), case.initial_seconds, states),
        (synced, sync_seconds, math.ceil(synced / cores) if case.local else 1),
    ]
    # on no machine of their own
    here = _MANIFEST_SECONDS * int(case.work.ensemble_manifest)
    here += case.initial_seconds * int(case.work.checkpoint and case.checkpoint_here)
    return CpuStage(
        hours=sum(machines * (start + seconds * (1 if case.local else jobs)) for machines, seconds, jobs in stages)
        / 3600,
        wall_hours=(here + sum(wait + start + jobs * seconds for machines, seconds, jobs in stages if machines)) / 3600,
        starts=sum(machines for machines, _, _ in stages),
    )


def _costs(
    case: Case,
    rates: Mapping[str, float],
    cpu: CpuStage,
    gpu: Rented,
    *,
    cpu_spot: bool = False,
    schedulers: float = 0.0,
) -> dict[str, float]:
    """Return USD by category; `schedulers` is what those beside spot machines cost."""
    if case.local:
        return dict.fromkeys(CATEGORIES, 0.0)
    assume, config = case.machines.assumptions, case.config
    cpu_machine = case.machines.for_class("cpu", config)
    price = case.price(cpu_machine)
    cpu_price = price.spot if cpu_spot else price.on_demand
    cpu_rates = _hourly(case, cpu_machine)
    mean_price = gpu.usd / gpu.hours if gpu.hours else 0.0
    pull_hours = {kind: gb * 1000 / assume.image_pull_mb_s / 3600 for kind, gb in assume.image_gb.items()}
    gpu_pulls = min(gpu.starts * pull_hours["gpu"], gpu.hours)
    cpu_pulls = min(cpu.starts * pull_hours["cpu"], cpu.hours)
    return {
        "gpu compute": gpu.usd - gpu_pulls * mean_price,
        "cpu compute": (cpu.hours - cpu_pulls) * cpu_price,
        "disks": gpu.hours * rates["disks"] + cpu.hours * cpu_rates["disks"],
        "image pulls": gpu_pulls * mean_price + cpu_pulls * cpu_price,
        "network": case.delivered_bytes / GB * crossing_price(case.machines, case.region, case.bucket_region),
        "storage operations": _writes(case) / 1000 * case.machines.service("bucket_writes_per_1000"),
        "management": gpu.hours * rates["management"] + cpu.hours * cpu_rates["management"] + schedulers,
    }


def _writes(case: Case) -> float:
    """Return the objects written to the bucket: GRIB, index, restart states, and a few a member."""
    config = case.config
    files = float(len(case.work.to_deliver) * (2 * len(config.leads) + 4))
    if config["delivery"]["mirror_restarts"]:
        files += case.work.steps * config.model.timestep_hours / config["forecast"]["restart_hours"]
    return files


def crossing_price(machines: Machines, region: str, bucket_region: str | None) -> float:
    """Return USD for a GB from machines in `region` to the bucket: nothing where it is near or unknown."""
    if bucket_region is None or near(bucket_region, region):
        return 0.0
    same = continent(bucket_region) == continent(region)
    return machines.service("egress_same_continent_gb" if same else "egress_other_continent_gb")


def _scratch(case: Case, machine: MachineType, members: int, at_once: int) -> tuple[float, float]:
    """Return the peak of bytes on a machine's scratch, and the room there."""
    config, size = case.config, case.throughput.size(case.config.model.name)
    points = grid_points(config.model.grid)
    sizes = MemberSizes.of(config.model, points, size.bytes_per_value, size.restart_mb)
    to_make = sum(work.steps for work in case.work.members)
    peak = room_needed(
        config, replace(sizes, lead=case.lead_bytes), members, at_once, rented=not case.local, to_make=to_make
    )
    room = machine.scratch_gb * GB - reserve(machine.scratch_gb * GB)
    budget = config["delivery"]["scratch_budget_mb"]
    return peak, min(room, budget * MB) if budget else room


def _problem(case: Case, machine: MachineType, found: Estimate, longest: float) -> str | None:
    """Return why a machine cannot do the work, or None; `longest` is the hours of the longest job."""
    size = case.throughput.size(case.config.model.name)
    if case.profile == "googlebatch" and machine.gpu is not None and machine.gpu.count > 1:
        return f"{machine.name} has {machine.gpu.count} cards, the googlebatch plugin asks for one"
    if found.at_once < 1 and machine.gpu is not None:
        wanted = case.config["forecast"]["gpu_mem_mb"] or found.speed.peak_gpu_mb
        if wanted > machine.gpu.memory_mb:
            measured = f" ({found.speed.peak_gpu_mb:,.0f} measured)" if found.speed.peak_gpu_mb < wanted else ""
            return (
                f"forecast.gpu_mem_mb: {wanted:,.0f} MB for a member{measured}, "
                f"the {machine.gpu.name} has {machine.gpu.memory_mb:,} MB"
            )
        return f"{size.host_mb:,.0f} MB of memory for a member, {machine.name} has {machine.memory_mb:,}"
    if found.scratch_peak_bytes > found.scratch_bytes:
        budget = case.config["delivery"]["scratch_budget_mb"]
        who = (
            "delivery.scratch_budget_mb leaves"
            if budget and budget * MB <= found.scratch_bytes
            else f"{machine.name} has"
        )
        return f"scratch peak {found.scratch_peak_bytes / GB:,.1f} GB, {who} {found.scratch_bytes / GB:,.1f} GB"
    if not case.local and longest > case.config["cloud"]["max_hours"]:
        return f"{longest:.1f} h on one machine, cloud.max_hours stops it after {case.config['cloud']['max_hours']:g} h"
    return None


def member_price(config: Config, machines: Machines, machine: MachineType, speed: Speed, *, spot: bool) -> float:
    """Return USD of a member on a machine that others keep busy: its steps on the card, machine and disks."""
    price = machine.price(str(config["cloud"]["regions"][0]))
    hour = (price.spot if spot else price.on_demand) + machines.disk_hour(machine)
    cards = machine.gpu.count if machine.gpu else 1
    return len(config.leads) * speed.step_seconds / cards / 3600 * hour
