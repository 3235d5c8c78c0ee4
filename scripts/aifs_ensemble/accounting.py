"""What a run really took and cost.

Money is rented machine time times the price of its list, split over members by the time each held the machine; what
nobody recorded (booting, pulling an image, the wait before a machine is given back) is taken from the assumptions of
config/machines.yaml. docs/accounting.md explains every figure.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from aifs_ensemble.config import Config
from aifs_ensemble.errors import InputError
from aifs_ensemble.estimates import CATEGORIES, crossing_price
from aifs_ensemble.intervals import Intervals, difference, length, union
from aifs_ensemble.machines import Machines, MachineType
from aifs_ensemble.manifest import MemberManifest
from aifs_ensemble.planning import default_profile
from aifs_ensemble.runrecords import Attempt, JobTime, Run
from aifs_ensemble.throughput import gpu_name

LOG = logging.getLogger(__name__)
# Where a machine's seconds went; they add up to the time from its first member's start to its last one's end.
USES = ("computing", "start_up", "wait_output", "between", "drain", "lost", "gap")
_GB = 1e9
_NAN = float("nan")


@dataclass(frozen=True)
class Rates:
    """What machines cost (USD an hour) and what is assumed of them (seconds), all 0 for this machine's own runs."""

    machine: str = "this machine"
    region: str = ""
    spot: bool = False
    gpu_hour: float = 0.0
    gpu_disk_hour: float = 0.0
    gpu_management_hour: float = 0.0
    gpu_start_seconds: float = 0.0
    gpu_pull_seconds: float = 0.0
    cpu_hour: float = 0.0
    cpu_disk_hour: float = 0.0
    cpu_management_hour: float = 0.0
    cpu_start_seconds: float = 0.0
    cpu_pull_seconds: float = 0.0
    writes_per_1000: float = 0.0
    egress_gb: float = 0.0


@dataclass(frozen=True)
class Stay:
    """A machine from its first member's start to its last one's end; `uses` by `USES`, `costs` by category."""

    machine: str
    began: float
    ended: float
    attempts: tuple[Attempt, ...]
    uses: Mapping[str, float]
    gpu_percent: float
    costs: Mapping[str, float]

    @property
    def seconds(self) -> float:
        return self.ended - self.began

    @property
    def usd(self) -> float:
        return sum(self.costs.values())


@dataclass(frozen=True)
class MemberAccount:
    """What one member took, made and cost."""

    manifest: MemberManifest
    attempts: tuple[Attempt, ...]
    usd: float

    @property
    def seconds(self) -> float:
        return sum(attempt.seconds for attempt in self.attempts)

    @property
    def interrupted(self) -> int:
        return sum(attempt.interrupted for attempt in self.attempts)

    @property
    def failed(self) -> int:
        return sum(attempt.outcome != "finished" and not attempt.interrupted for attempt in self.attempts)


@dataclass(frozen=True)
class Account:
    """The account of one run; the USD of `members`, of `costs` and of `stages` each add up to `usd`."""

    run: Run
    rates: Rates
    stays: tuple[Stay, ...]
    members: tuple[MemberAccount, ...]
    stages: Mapping[str, float]
    costs: Mapping[str, float]

    @property
    def usd(self) -> float:
        return sum(self.costs.values())

    @property
    def uses(self) -> dict[str, float]:
        """Seconds of all machines by `USES`."""
        return {name: sum(stay.uses[name] for stay in self.stays) for name in USES}

    @property
    def hours(self) -> float:
        """Hours from the first attempt's start to the last one's end."""
        return (max(stay.ended for stay in self.stays) - min(stay.began for stay in self.stays)) / 3600


def machine_uses(attempts: Sequence[Attempt]) -> dict[str, float]:
    """Return where the seconds of one machine's stay went, by `USES`; they add up to its length.

    A moment belongs to the stepping loop if any member is in it, else to a start-up, else to a drain, else to an
    attempt that was lost, else to nobody. The loop's moments are split as its members' seconds are; members on one
    card wait for one another, so their forward passes together count at most for the loop's time.
    """
    parts: dict[str, Intervals] = {"loop": [], "start_up": [], "drain": [], "lost": []}
    for attempt in attempts:
        if attempt.lost:
            parts["lost"].append((attempt.began, attempt.ended))
            continue
        first = attempt.began + attempt.phases["start_up"]
        last = attempt.ended - attempt.phases["drain"]
        parts["start_up"].append((attempt.began, first))
        parts["loop"].append((first, last))
        parts["drain"].append((last, attempt.ended))
    taken: Intervals = []
    seconds = {}
    for name, intervals in parts.items():
        free = difference(union(intervals), taken)
        seconds[name] = length(free)
        taken = union([*taken, *free])
    inside = {name: sum(a.phases[name] for a in attempts) for name in ("compute", "wait_output", "between")}
    waits = inside["wait_output"] + inside["between"]
    computing = min(inside["compute"], seconds["loop"]) if waits else seconds["loop"]
    idle = seconds["loop"] - computing
    span = max(a.ended for a in attempts) - min(a.began for a in attempts)
    found = {
        "computing": computing,
        "start_up": seconds["start_up"],
        "wait_output": idle * inside["wait_output"] / waits if waits else 0.0,
        "between": idle * inside["between"] / waits if waits else 0.0,
        "drain": seconds["drain"],
        "lost": seconds["lost"],
    }
    return {**found, "gap": max(span - sum(found.values()), 0.0)}


def group_stays(attempts: Sequence[Attempt], idle_seconds: float) -> list[list[Attempt]]:
    """Return attempts by machine stay: one that stood idle for longer than `idle_seconds` had been given back."""
    stays: list[list[Attempt]] = []
    current: dict[str, list[Attempt]] = {}
    for attempt in sorted(attempts, key=lambda attempt: attempt.began):
        mine = current.get(attempt.machine)
        if mine is None or attempt.began > max(other.ended for other in mine) + idle_seconds:
            mine = current[attempt.machine] = []
            stays.append(mine)
        mine.append(attempt)
    return stays


def _mean_gpu(metrics: pd.DataFrame, attempts: Sequence[Attempt]) -> float:
    """Return the mean sampled utilisation of a machine's card in percent; NaN without samples."""
    if metrics.empty:
        return _NAN
    mine = metrics[metrics["member"].isin([attempt.member for attempt in attempts])]
    began, ended = min(a.began for a in attempts), max(a.ended for a in attempts)
    mine = mine[(mine["time"] >= began) & (mine["time"] <= ended)]
    # members on one card sample the same card: a second counts once
    return float(mine.groupby(mine["time"].round())["gpu_util_percent"].mean().mean())


def find_rates(
    config: Config, machines: Machines, run: Run, *, profile: str | None = None, spot: bool | None = None
) -> Rates:
    """Return the prices of the machines that ran; none for profile ``local``.

    The machine type is what the manifests say (`machine.type`), else the configuration's.
    """
    profile = profile or default_profile(config)
    if profile == "local":
        return Rates()
    gpu = _gpu_machine(config, machines, run)
    cpu = machines.for_class("cpu", config)
    spot = bool(config["cloud"]["spot"]) if spot is None else spot
    region = str(config["cloud"]["regions"][0])
    assume = machines.assumptions
    gpu_price, cpu_price = gpu.price(region), cpu.price(region)
    coiled = profile.startswith("coiled")
    return Rates(
        machine=gpu.name,
        region=region,
        spot=spot,
        gpu_hour=gpu_price.spot if spot else gpu_price.on_demand,
        gpu_disk_hour=machines.disk_hour(gpu),
        gpu_management_hour=machines.coiled_hour(gpu) if coiled else 0.0,
        gpu_start_seconds=assume.vm_boot_seconds + assume.idle_tail_seconds,
        gpu_pull_seconds=assume.image_gb["gpu"] * 1000 / assume.image_pull_mb_s,
        cpu_hour=cpu_price.spot if spot else cpu_price.on_demand,
        cpu_disk_hour=machines.disk_hour(cpu),
        cpu_management_hour=machines.coiled_hour(cpu) if coiled else 0.0,
        cpu_start_seconds=assume.vm_boot_seconds,
        cpu_pull_seconds=assume.image_gb["cpu"] * 1000 / assume.image_pull_mb_s,
        writes_per_1000=machines.service("bucket_writes_per_1000"),
        egress_gb=crossing_price(machines, region, config["cloud"]["bucket_region"]),
    )


def _gpu_machine(config: Config, machines: Machines, run: Run) -> MachineType:
    named = sorted({str(m.machine.get("type", "")) for m in run.manifests} & set(machines.types))
    if len(named) > 1:
        raise InputError(
            f"{config.cycle}: members ran on {' and '.join(named)}, account for each with --config members=..."
        )
    gpu = machines.machine(named[0]) if named else machines.for_class("gpu", config)
    cards = {gpu_name(manifest.device, machines.gpu_specs) for manifest in run.manifests}
    if gpu.gpu is not None and cards != {gpu.gpu.name}:
        LOG.warning("account: members ran on %s, priced as %s", ", ".join(sorted(cards)), gpu.name)
    return gpu


def _stay(attempts: Sequence[Attempt], metrics: pd.DataFrame, rates: Rates) -> Stay:
    began, ended = min(a.began for a in attempts), max(a.ended for a in attempts)
    compute = (ended - began + rates.gpu_start_seconds) / 3600
    pull = rates.gpu_pull_seconds / 3600
    return Stay(
        machine=attempts[0].machine,
        began=began,
        ended=ended,
        attempts=tuple(attempts),
        uses=machine_uses(attempts),
        gpu_percent=_mean_gpu(metrics, attempts),
        costs={
            "gpu compute": compute * rates.gpu_hour,
            "image pulls": pull * rates.gpu_hour,
            "disks": (compute + pull) * rates.gpu_disk_hour,
            "management": (compute + pull) * rates.gpu_management_hour,
        },
    )


def _job_costs(job: JobTime, rates: Rates) -> dict[str, float]:
    compute = (job.seconds + rates.cpu_start_seconds) / 3600
    pull = rates.cpu_pull_seconds / 3600
    return {
        "cpu compute": compute * rates.cpu_hour,
        "image pulls": pull * rates.cpu_hour,
        "disks": (compute + pull) * rates.cpu_disk_hour,
        "management": (compute + pull) * rates.cpu_management_hour,
    }


def _delivery_costs(manifest: MemberManifest, rates: Rates) -> dict[str, float]:
    files = 2 * len(manifest.leads) + 4
    return {
        "network": manifest.bytes / _GB * rates.egress_gb,
        "storage operations": files / 1000 * rates.writes_per_1000,
    }


def account(
    config: Config, machines: Machines, run: Run, *, profile: str | None = None, spot: bool | None = None
) -> Account:
    """Return the account of a run; InputError when its manifests name no attempt."""
    rates = find_rates(config, machines, run, profile=profile, spot=spot)
    attempts = run.attempts()
    if not attempts:
        raise InputError(f"{config.cycle}: the manifests name no attempt, nothing can be accounted for")
    idle = config["cloud"]["idle_minutes"] * 60
    stays = [_stay(part, run.metrics, rates) for part in group_stays(attempts, idle)]
    numbers = [manifest.member for manifest in run.manifests]
    usd = dict.fromkeys(numbers, 0.0)
    costs = dict.fromkeys(CATEGORIES, 0.0)
    stages: dict[str, float] = {}

    def add(stage: str, parts: Mapping[str, float], shares: Mapping[int, float]) -> None:
        total = sum(parts.values())
        stages[stage] = stages.get(stage, 0.0) + total
        for name, value in parts.items():
            costs[name] += value
        for member, share in shares.items():
            usd[member] += share * total

    everyone = dict.fromkeys(numbers, 1 / len(numbers))
    for stay in stays:
        add("forecast_member", stay.costs, _shares(stay.attempts))
    for job in run.jobs:
        if job.rule != "forecast_member":
            add(job.rule, _job_costs(job, rates), {job.member: 1.0} if job.member in usd else everyone)
    for manifest in run.manifests:
        add("delivery", _delivery_costs(manifest, rates), {manifest.member: 1.0})
    members = tuple(
        MemberAccount(
            manifest,
            tuple(attempt for attempt in attempts if attempt.member == manifest.member),
            usd[manifest.member],
        )
        for manifest in run.manifests
    )
    return Account(run, rates, tuple(stays), members, stages, costs)


def _shares(attempts: Sequence[Attempt]) -> dict[int, float]:
    """Return each member's share of a machine's stay: the time it held it."""
    held: dict[int, float] = {}
    for attempt in attempts:
        held[attempt.member] = held.get(attempt.member, 0.0) + attempt.seconds
    total = sum(held.values())
    return {member: seconds / total if total else 1 / len(held) for member, seconds in held.items()}
