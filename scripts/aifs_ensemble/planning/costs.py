"""What machines cost, USD by category: GPU and CPU machines, disks, network, fees."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass

from aifs_ensemble.common.config import Config
from aifs_ensemble.planning.case import Case
from aifs_ensemble.planning.machines import Machines, MachineType
from aifs_ensemble.planning.regions import continent, near
from aifs_ensemble.planning.speeds import Speed

CATEGORIES = ("gpu compute", "cpu compute", "disks", "image pulls", "network", "storage operations", "management")
GB = 1e9
_MANIFEST_SECONDS = 5.0


def hourly(case: Case, machine: MachineType) -> dict[str, float]:
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


def cpu_stage(case: Case) -> CpuStage:
    """Return what the CPU stages take: initial states on one machine, other jobs on one each, as in the profiles."""
    assume = case.machines.assumptions
    start = 0.0 if case.local else assume.vm_boot_seconds + assume.image_gb["cpu"] * 1000 / assume.image_pull_mb_s
    wait = 0.0 if case.local else assume.vm_wait_seconds
    cores = (os.cpu_count() or 1) if case.local else case.machines.for_class("cpu", case.config).vcpus
    states = [
        math.ceil(sum(work.initial for work in cycle.members) / cores) + cycle.shared_initial
        for cycle in case.work.by_cycle
    ]
    # each cycle has a rented machine of its own for its states, and one for its products
    starting = min(sum(map(bool, states)), 1) if case.local else sum(map(bool, states))
    producing = sum(any(rule.startswith("product_") for rule in cycle.products) for cycle in case.work.by_cycle)
    producing = int(bool(case.products.jobs)) * (1 if case.local else max(producing, 1))
    synced = 0 if case.config.delivery.streaming else len(case.work.to_deliver)
    sync_seconds = len(case.config.leads) * case.lead_bytes / 1e6 / assume.sync_mb_s
    # (machines, seconds of each, one after the other on each); stages follow one another
    stages = [
        (int(case.work.checkpoint and not case.checkpoint_here), case.initial_seconds, 1.0),
        (starting, case.initial_seconds, sum(states) / max(starting, 1)),
        (synced, sync_seconds, math.ceil(synced / cores) if case.local else 1.0),
        (producing, product_seconds(case, cores) / max(producing, 1), 1.0),
    ]
    rounds = [1, math.ceil(starting / case.config.cloud.vms), 1, math.ceil(producing / case.config.cloud.vms)]
    # on no machine of their own
    here = _MANIFEST_SECONDS * int(case.work.ensemble_manifest)
    here += case.initial_seconds * int(case.work.checkpoint and case.checkpoint_here)
    return CpuStage(
        hours=sum(machines * (start + seconds * (1 if case.local else jobs)) for machines, seconds, jobs in stages)
        / 3600,
        wall_hours=(
            here
            + sum(
                turns * (wait + start + jobs * seconds)
                for turns, (machines, seconds, jobs) in zip(rounds, stages, strict=True)
                if machines
            )
        )
        / 3600,
        starts=sum(machines for machines, _, _ in stages),
    )


def product_seconds(case: Case, processors: int) -> float:
    """Return the seconds of the products' stage on a machine: two of a rented one's processors are one core."""
    return case.products.cpu_seconds / max(processors if case.local else processors / 2, 1)


def product_usd(case: Case) -> float:
    """Return what the products' stage costs on demand, its machine's start included, USD."""
    if case.local or not case.products.jobs:
        return 0.0
    assume, machine = case.machines.assumptions, case.machines.for_class("cpu", case.config)
    start = assume.vm_boot_seconds + assume.image_gb["cpu"] * 1000 / assume.image_pull_mb_s
    hours = (start + product_seconds(case, machine.vcpus)) / 3600
    return hours * (case.price(machine).on_demand + sum(hourly(case, machine).values()))


def costs_by_category(
    case: Case, machine: MachineType, cpu: CpuStage, gpu: Rented, *, cpu_spot: bool = False, schedulers: float = 0.0
) -> dict[str, float]:
    """Return USD by category; `schedulers` is what those beside spot machines cost."""
    if case.local:
        return dict.fromkeys(CATEGORIES, 0.0)
    assume, config = case.machines.assumptions, case.config
    cpu_machine = case.machines.for_class("cpu", config)
    price = case.price(cpu_machine)
    cpu_price = price.spot if cpu_spot else price.on_demand
    rates, cpu_rates = hourly(case, machine), hourly(case, cpu_machine)
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
    if config.delivery.mirror_restarts:
        files += case.work.steps * config.model.timestep_hours / config.forecast.restart_hours
    return files


def crossing_price(machines: Machines, region: str, bucket_region: str | None) -> float:
    """Return USD for a GB from machines in `region` to the bucket: nothing where it is near or unknown."""
    if bucket_region is None or near(bucket_region, region):
        return 0.0
    same = continent(bucket_region) == continent(region)
    return machines.service("egress_same_continent_gb" if same else "egress_other_continent_gb")


def member_price(config: Config, machines: Machines, machine: MachineType, speed: Speed, *, spot: bool) -> float:
    """Return USD of a member on a machine that others keep busy: its steps on the card, machine and disks."""
    price = machine.price(config.cloud.regions[0])
    hour = (price.spot if spot else price.on_demand) + machines.disk_hour(machine)
    cards = machine.gpu.count if machine.gpu else 1
    return len(config.steps) * speed.step_seconds / cards / 3600 * hour
