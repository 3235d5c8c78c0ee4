"""What of an ensemble is still missing: read from scratch, and from the destination where it is looked at."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from aifs_ensemble.common.config import Config
from aifs_ensemble.common.manifest import MemberManifest
from aifs_ensemble.common.names import checkpoint_file, file_name, parse_restart_file
from aifs_ensemble.delivery.ensemble import needs_writing
from aifs_ensemble.delivery.standing import (
    DAMAGED,
    OTHER_SETTINGS,
    Destination,
    Standing,
    noted_here,
    on_scratch,
    refusal,
)
from aifs_ensemble.planning.product_stage import jobs_of_products

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class MemberWork:
    """What one member still needs: forecast steps (0: computed), delivery, initial state."""

    member: int
    steps: int
    deliver: bool
    initial: bool


@dataclass(frozen=True)
class Outstanding:
    """What is missing. `looked_at` says where that was read, `refusal` why a run would not start on it.

    `of_run` says that it is what one run would do, which may be less (`of_jobs`). `products` counts jobs by rule. What
    is missing of several cycles has each of them in `cycles`, and counts `shared_initial` and `ensemble_manifest`.
    """

    members: tuple[MemberWork, ...]
    shared_initial: int
    checkpoint: bool
    ensemble_manifest: int
    looked_at: tuple[str, ...]
    manifests: tuple[MemberManifest, ...] = ()
    refusal: str | None = None
    of_run: bool = False
    products: Mapping[str, int] = field(default_factory=dict)
    cycles: Mapping[str, Outstanding] = field(default_factory=dict)

    @property
    def by_cycle(self) -> tuple[Outstanding, ...]:
        """What is missing of each cycle."""
        return tuple(self.cycles.values()) or (self,)

    @property
    def to_forecast(self) -> tuple[MemberWork, ...]:
        """Members whose forecast is not whole."""
        return tuple(work for work in self.members if work.steps)

    @property
    def to_deliver(self) -> tuple[int, ...]:
        """Members that are not delivered."""
        return tuple(work.member for work in self.members if work.deliver)

    @property
    def steps(self) -> int:
        """Forecast steps still to compute, over all members."""
        return sum(work.steps for work in self.members)


def together(works: Mapping[str, Outstanding]) -> Outstanding:
    """Return what is missing of all cycles of a run, given what is of each; of one cycle, that itself."""
    each = tuple(works.values())
    if len(each) == 1:
        return each[0]
    products = Counter[str]()
    for work in each:
        products.update(work.products)
    refusals = [f"{cycle}: {work.refusal}" for cycle, work in works.items() if work.refusal]
    return Outstanding(
        members=tuple(member for work in each for member in work.members),
        shared_initial=sum(work.shared_initial for work in each),
        checkpoint=any(work.checkpoint for work in each),
        ensemble_manifest=sum(work.ensemble_manifest for work in each),
        looked_at=tuple(dict.fromkeys(place for work in each for place in work.looked_at)),
        manifests=tuple(manifest for work in each for manifest in work.manifests),
        refusal="; ".join(refusals) or None,
        of_run=all(work.of_run for work in each),
        products=products,
        cycles=works,
    )


def outstanding_of_run(config: Config, *, destination: bool | None = None) -> Outstanding:
    """Return what is missing of all cycles of a configuration, as `outstanding` finds it."""
    return together({one.cycle: outstanding(one, destination=destination) for one in config.of_each_cycle})


def everything(config: Config) -> Outstanding:
    """Return the work of an ensemble of which nothing exists yet."""
    steps = len(config.steps)
    members = tuple(MemberWork(member, steps, deliver=True, initial=True) for member in config.members)
    products = jobs_of_products(config, len(members))
    return Outstanding(members, True, config.checkpoint is None, True, (), products=products)


def of_jobs(config: Config, work: Outstanding, jobs: Mapping[str, Collection[int]]) -> Outstanding:
    """Return the part of `work` that a run does whose `jobs` are known: members by rule, none for one of all members.

    A member whose forecast runs although nothing of it is missing, because it was forced, is computed whole. One that
    is delivered is not delivered again where a job only notes it.
    """
    forecast, initial = jobs.get("forecast_member", ()), jobs.get("initial_member", ())
    deliver = forecast if config.delivery.streaming else jobs.get("sync_member", ())
    members = tuple(
        MemberWork(
            each.member,
            steps=(each.steps or len(config.steps)) if each.member in forecast else 0,
            deliver=each.member in deliver and (each.deliver or each.member in forecast),
            initial=each.member in initial,
        )
        for each in work.members
    )
    return replace(
        work,
        members=members,
        shared_initial="initial_cycle" in jobs,
        checkpoint="checkpoint_prepare" in jobs,
        ensemble_manifest="ensemble_manifest" in jobs,
        of_run=True,
        products={rule: len(members) or 1 for rule, members in jobs.items()},
    )


def outstanding(config: Config, *, destination: bool | Destination | None = None) -> Outstanding:
    """Return what is missing on scratch and at the destination, by the standing of every member there.

    A folder destination is always looked at, a bucket only when `destination` is true (it needs credentials and
    a request) or is what was seen of it; else this machine's own notes of its deliveries count. Raises StorageError
    when a destination that was asked for does not answer.
    """
    scratch = config.scratch
    if isinstance(destination, Destination):
        there: Destination | None = destination
    else:
        look = destination if destination is not None else not config.cloud_destination
        there = Destination(config) if look and config.destination else None
    delivered = there.standings() if there else {member: noted_here(config, member) for member in config.members}
    computed = {member: on_scratch(config, member) for member in config.members}
    remote_restarts = _restarts_at(there) if there else {}
    for standing in (*computed.values(), *delivered.values()):
        if standing.state == DAMAGED:
            LOG.warning("plan: %s, counted as missing", standing.reason)
    members = tuple(
        _work(config, computed[member], delivered[member], remote_restarts.get(member, 0)) for member in config.members
    )
    shared = any(work.initial for work in members) and not (scratch.root / config.objects.initial_cycle).exists()
    built = scratch.root / checkpoint_file(config.model.name)
    has_manifest = there is not None and needs_writing(there) is None
    refused = {member: one.reason for member, one in delivered.items() if one.state == OTHER_SETTINGS}
    return Outstanding(
        members,
        shared_initial=shared,
        checkpoint=config.checkpoint is None and any(work.steps for work in members) and not built.exists(),
        ensemble_manifest=any(work.deliver or work.steps for work in members) or not has_manifest,
        looked_at=(str(scratch.base), str(config.destination)) if there else (str(scratch.base),),
        manifests=tuple(one.manifest for one in computed.values() if one.done and one.manifest),
        refusal=refusal(refused) if refused else None,
        products=jobs_of_products(config, sum(work.deliver for work in members)),
    )


def _work(config: Config, computed: Standing, delivered: Standing, remote_restart: int) -> MemberWork:
    """Return what a member still needs, by its standing on scratch and at the destination."""
    scratch, member = config.scratch, computed.member
    if delivered.state == OTHER_SETTINGS:  # nothing of it serves
        return MemberWork(member, len(config.steps), deliver=True, initial=not scratch.initial(member).exists())
    done = computed.done or delivered.whole
    own = 0 if computed.state == OTHER_SETTINGS else _newest_restart(scratch.work(member) / "restarts")
    lost = delivered.problems
    if lost and min(lost) > 0 and not own:
        # delivered, and some of its leads are gone since: from the newest restart state before them to the last of them
        left = [
            lead for lead in config.steps if (remote_restart if remote_restart < min(lost) else 0) < lead <= max(lost)
        ]
    else:
        left = [lead for lead in config.steps if lead > max(own, remote_restart)]
    return MemberWork(
        member,
        steps=0 if done else max(len(left), 1),
        deliver=not delivered.done,
        initial=not done and not scratch.initial(member).exists(),
    )


def _newest_restart(folder: Path) -> int:
    return max((parse_restart_file(path.name) or 0 for path in folder.glob("*.safetensors")), default=0)


def _restarts_at(destination: Destination) -> dict[int, int]:
    """Return the lead of each member's newest restart state at the destination."""
    config = destination.config
    restarts: dict[int, int] = {}
    member_of = {config.objects.restarts(member): member for member in config.members}
    for key in destination.listed:
        name = file_name(key)
        lead, member = parse_restart_file(name), member_of.get(key.removesuffix(name))
        if lead is not None and member is not None:
            restarts[member] = max(restarts.get(member, 0), lead)
    return restarts
