"""What a run really took and cost.

Money is rented machine time times the price of that machine where it stood, split over members by the time each held
it. What a machine did not say of itself is the configuration's; what nobody records (booting, pulling an image, the
wait before a machine is given back) is assumed in config/machines.yaml. docs/accounting.md explains every figure.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import pandas as pd

from aifs_ensemble.common.config import Config
from aifs_ensemble.common.errors import InputError
from aifs_ensemble.common.manifest import MemberManifest
from aifs_ensemble.common.models import fetched_by_coordinator
from aifs_ensemble.planning.cards import gpu_name
from aifs_ensemble.planning.costs import CATEGORIES
from aifs_ensemble.planning.intervals import Intervals, difference, length, union
from aifs_ensemble.planning.machines import Machines
from aifs_ensemble.planning.plan import default_profile
from aifs_ensemble.planning.pricing import Pricing, Rates
from aifs_ensemble.planning.runs import Attempt, JobTime, RunRecord

LOG = logging.getLogger(__name__)
# Where a machine's seconds went; they add up to the time from its first member's start to its last one's end.
USES = ("computing", "start_up", "wait_output", "between", "drain", "lost", "gap")
FORECAST = "forecast_member"
NOT_CPU_RULES = (FORECAST, "ensemble_manifest")  # the coordinator writes the latter
INITIAL_RULES = ("initial_cycle", "initial_member", "initial_members")  # on one machine, as the profiles group them
PRODUCT_RULES = "product_"  # what their names begin with; on one machine, too
_GB = 1e9
_NAN = float("nan")


@dataclass(frozen=True)
class Stay:
    """A machine from its first member's start to its last one's end; `uses` by `USES`, `costs` by category."""

    machine: str
    rates: Rates
    began: float
    ended: float
    attempts: tuple[Attempt, ...]
    uses: Mapping[str, float]
    gpu_percent: float
    costs: Mapping[str, float]
    card_watts: float = float("nan")
    cards: int = 1

    @property
    def seconds(self) -> float:
        return self.ended - self.began

    @property
    def card_kwh(self) -> float:
        """Energy of the machine's cards in kWh, by the mean of the watts sampled; NaN without samples."""
        return self.card_watts * self.cards * self.seconds / 3.6e6

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

    run: RunRecord
    stays: tuple[Stay, ...]
    members: tuple[MemberAccount, ...]
    stages: Mapping[str, float]
    costs: Mapping[str, float]
    cpu_rates: Rates

    @property
    def usd(self) -> float:
        return sum(self.costs.values())

    @property
    def assumptions(self) -> list[str]:
        """What this account took from the configuration, because nobody recorded it, in lines."""
        lines = []
        for what, number in Counter(what for stay in self.stays for what in stay.rates.assumed).items():
            lines.append(f"{what}: {number} of {len(self.stays)} stays")
        if self.cpu_rates.hour and any(job.rule not in NOT_CPU_RULES for job in self.run.jobs):
            lines.append(f"CPU jobs record no machine: priced as {self.cpu_rates.label}")
        return lines

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
    """Return attempts by machine stay: one that stood idle for longer than `idle_seconds` had been given back.

    Machines of one name that say different things of themselves are different machines.
    """
    stays: list[list[Attempt]] = []
    current: dict[tuple[str, str, str, bool | None], list[Attempt]] = {}
    for attempt in sorted(attempts, key=lambda attempt: attempt.began):
        machine = (attempt.machine, attempt.type, attempt.region, attempt.spot)
        mine = current.get(machine)
        if mine is None or attempt.began > max(other.ended for other in mine) + idle_seconds:
            mine = current[machine] = []
            stays.append(mine)
        mine.append(attempt)
    return stays


def _mean_of_card(metrics: pd.DataFrame, attempts: Sequence[Attempt], column: str) -> float:
    """Return the mean of what was sampled of a machine's card; NaN without samples."""
    if metrics.empty or column not in metrics:
        return _NAN
    mine = metrics[metrics["member"].isin([attempt.member for attempt in attempts])]
    began, ended = min(a.began for a in attempts), max(a.ended for a in attempts)
    mine = mine[(mine["time"] >= began) & (mine["time"] <= ended)]
    # members on one card sample the same card: a second counts once
    return float(mine.groupby(mine["time"].round())[column].mean().mean())


def _check_cards(stays: Sequence[Stay], run: RunRecord, machines: Machines) -> None:
    """Warn when manifests name another card than those of the machines that are charged."""
    types = {stay.rates.machine for stay in stays} & set(machines.types)
    priced = {gpu.name for name in types if (gpu := machines.machine(name).gpu) is not None}
    cards = {gpu_name(manifest.device, machines.gpu_specs) for manifest in run.manifests}
    if priced and not cards <= priced:
        LOG.warning("account: members ran on %s, priced as %s", ", ".join(sorted(cards)), ", ".join(sorted(types)))


def _stay(attempts: Sequence[Attempt], metrics: pd.DataFrame, rates: Rates, machines: Machines) -> Stay:
    gpu = machines.types[rates.machine].gpu if rates.machine in machines.types else None
    cards = gpu.count if gpu else 1
    began, ended = min(a.began for a in attempts), max(a.ended for a in attempts)
    return Stay(
        machine=attempts[0].machine,
        rates=rates,
        began=began,
        ended=ended,
        attempts=tuple(attempts),
        uses=machine_uses(attempts),
        gpu_percent=_mean_of_card(metrics, attempts, "gpu_util_percent"),
        card_watts=_mean_of_card(metrics, attempts, "gpu_watts"),
        cards=cards,
        costs=_machine_costs(ended - began, rates, "gpu compute"),
    )


def _machine_costs(seconds: float, rates: Rates, category: str) -> dict[str, float]:
    """Return what so many seconds of work on a machine cost, with its start and its image, USD by category."""
    compute = (seconds + rates.start_seconds) / 3600
    pull = rates.pull_seconds / 3600
    return {
        category: compute * rates.hour,
        "image pulls": pull * rates.hour,
        "disks": (compute + pull) * rates.disk_hour,
        "management": (compute + pull) * rates.management_hour,
    }


def _machine_of(rule: str) -> str:
    """Return which machine the jobs of a rule share, empty for a machine a job."""
    return "initial" if rule in INITIAL_RULES else "products" if rule.startswith(PRODUCT_RULES) else ""


def _cpu_costs(jobs: Sequence[JobTime], rates: Rates, cores: int) -> Iterator[tuple[JobTime, dict[str, float]]]:
    """Yield jobs and what they cost; initial states are made on one machine, as many at once as it has cores.

    Products are made on another.
    """
    sharing = Counter(_machine_of(job.rule) for job in jobs)
    at_once = min(cores, sum(job.rule == "initial_member" for job in jobs))
    for job in jobs:
        share = 1 / sharing[_machine_of(job.rule)] if _machine_of(job.rule) else 1.0
        started = replace(rates, start_seconds=rates.start_seconds * share, pull_seconds=rates.pull_seconds * share)
        seconds = job.seconds / at_once if job.rule == "initial_member" else job.seconds
        yield job, _machine_costs(seconds, started, "cpu compute")


def _delivery_costs(manifest: MemberManifest, machines: Machines, egress_gb: float) -> dict[str, float]:
    files = manifest.files + 4
    return {
        "network": manifest.bytes / _GB * egress_gb,
        "storage operations": files / 1000 * machines.service("bucket_writes_per_1000"),
    }


def account(
    config: Config, machines: Machines, run: RunRecord, *, profile: str | None = None, spot: bool | None = None
) -> Account:
    """Return the account of a run; InputError when its manifests name no attempt.

    `spot` stands for attempts that did not record whether their machine was preemptible.
    """
    attempts = run.attempts()
    if not attempts:
        raise InputError(f"{config.cycle}: the manifests name no attempt, nothing can be accounted for")
    pricing = Pricing(config, machines, profile or default_profile(config), spot)
    idle = config.cloud.idle_minutes * 60
    stays = [_stay(part, run.metrics, pricing.forecast(part[0]), machines) for part in group_stays(attempts, idle)]
    if not pricing.free:
        _check_cards(stays, run, machines)
    ledger = _Ledger([manifest.member for manifest in run.manifests])
    for stay in stays:
        ledger.add(FORECAST, stay.costs, _shares(stay.attempts))
    cpu_rates = pricing.cpu()
    cores = machines.for_class("cpu", config).vcpus
    here = {*NOT_CPU_RULES, *(["checkpoint_prepare"] if fetched_by_coordinator(config.model, pricing.profile) else [])}
    for job, parts in _cpu_costs([job for job in run.jobs if job.rule not in here], cpu_rates, cores):
        ledger.add(job.rule, parts, {job.member: 1.0})
    if not pricing.free:
        regions = _last_regions(stays)
        for manifest in run.manifests:
            egress_gb = pricing.egress_gb(regions.get(manifest.member, pricing.region))
            ledger.add("delivery", _delivery_costs(manifest, machines, egress_gb), {manifest.member: 1.0})
    members = tuple(
        MemberAccount(
            manifest,
            tuple(attempt for attempt in attempts if attempt.member == manifest.member),
            ledger.members[manifest.member],
        )
        for manifest in run.manifests
    )
    return Account(run, tuple(stays), members, ledger.stages, ledger.costs, cpu_rates)


class _Ledger:
    """USD by member, by stage and by category; whatever is added is added to all three."""

    def __init__(self, members: Sequence[int]):
        self.members = dict.fromkeys(members, 0.0)
        self.stages: dict[str, float] = {}
        self.costs = dict.fromkeys(CATEGORIES, 0.0)

    def add(self, stage: str, parts: Mapping[str, float], shares: Mapping[int, float]) -> None:
        """Add costs by category, `shares` of them to members; what none of those ran for is shared by all alike."""
        total = sum(parts.values())
        self.stages[stage] = self.stages.get(stage, 0.0) + total
        for name, value in parts.items():
            self.costs[name] += value
        if not shares.keys() <= self.members.keys():
            shares = dict.fromkeys(self.members, 1 / len(self.members))
        for member, share in shares.items():
            self.members[member] += share * total


def _last_regions(stays: Sequence[Stay]) -> dict[int, str]:
    """Return the region of each member's last machine, which stands for those that delivered it."""
    placed = [(attempt.began, attempt.member, stay.rates.region) for stay in stays for attempt in stay.attempts]
    return {member: region for _, member, region in sorted(placed)}


def _shares(attempts: Sequence[Attempt]) -> dict[int, float]:
    """Return each member's share of a machine's stay: the time it held it."""
    held: dict[int, float] = {}
    for attempt in attempts:
        held[attempt.member] = held.get(attempt.member, 0.0) + attempt.seconds
    total = sum(held.values())
    return {member: seconds / total if total else 1 / len(held) for member, seconds in held.items()}
