"""Retention: what the rules of ``keep`` let go of old cycles at the destination, shown first and removed when told to.

A cycle is touched only when its own manifest says that it is complete and everything which that names is there, or was
removed before. Of each member a record is left before its leads go, so that a removal which was killed goes on with the
next, and nobody takes the member for damaged. Manifests, receipts, records and status stay for ever.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial

from aifs_ensemble.common.config import Config
from aifs_ensemble.common.config.sections import KeepRule
from aifs_ensemble.common.errors import VerificationError
from aifs_ensemble.common.manifest import parse_member_manifest
from aifs_ensemble.common.names import Keys, file_name, member_in, parse_cycle, parse_member_name, unit_name
from aifs_ensemble.common.storage import MissingError, ObjectInfo, Storage
from aifs_ensemble.delivery.ensemble import EnsembleManifest, parse_ensemble_manifest
from aifs_ensemble.delivery.removed import COARSE, LEADS, Removal, RemovalRecord, parse_removals, removal_bytes

LOG = logging.getLogger(__name__)
RESTARTS, INITIAL, PRODUCTS = "restarts", "initial", "products"
YOUNG = timedelta(hours=24)
_DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_MEMBER_INDEX = ".index.gz"  # tells of leads and of coarse leads, and goes with the last of them


@dataclass(frozen=True)
class CycleRemoval:
    """What one rule lets go of a cycle: `what`, by the rule of which name, and the objects that are still there."""

    what: str
    rule: str
    objects: tuple[ObjectInfo, ...]

    @property
    def bytes(self) -> int:
        """Size of the objects."""
        return sum(info.size for info in self.objects)


@dataclass(frozen=True)
class CyclePlan:
    """What goes of one cycle, and what it holds.

    Attributes
    ----------
    since : from when on its age counts: its own time, or that of its manifest where this is later
    bytes : of everything that is there of it
    removals : what the rules let go
    left : why nothing is removed although the rules would, empty where it is
    model : that of several whose cycle it is, else empty
    """

    cycle: str
    since: datetime
    bytes: int
    removals: tuple[CycleRemoval, ...] = ()
    left: str = ""
    listed: Mapping[str, ObjectInfo] = field(default_factory=dict, repr=False)
    model: str = ""

    @property
    def unit(self) -> str:
        """What messages call it: the cycle, with several models that of one of them."""
        return unit_name(self.model, self.cycle)

    @property
    def goes(self) -> int:
        """Bytes that a removal would free."""
        return 0 if self.left else sum(removal.bytes for removal in self.removals)


def plan_retention(
    config: Config,
    storage: Storage,
    cycles: Iterable[str],
    *,
    named: bool = False,
    now: datetime | None = None,
    young: timedelta = YOUNG,
) -> list[CyclePlan]:
    """Return what the rules of ``keep`` let go of cycles at the destination; nothing is removed.

    Parameters
    ----------
    named : the user has named the cycles, which then need not be complete
    now : UTC
    young : a cycle of which any lead, restart state or status is younger is left, whatever its manifest says: a run may
        be at work on it
    """
    plan = partial(_plan, config, storage, named=named, now=now or datetime.now(UTC), young=young)
    with ThreadPoolExecutor(storage.settings.threads) as pool:
        return list(pool.map(plan, cycles))


def apply_retention(config: Config, storage: Storage, plans: Iterable[CyclePlan], now: datetime | None = None) -> int:
    """Remove what plans let go, each object only in the generation that was looked at; return how many went.

    Raises VerificationError, before anything of a cycle goes, for a member's manifest that is damaged.
    """
    on = (now or datetime.now(UTC)).isoformat(timespec="seconds")
    gone = 0
    with ThreadPoolExecutor(storage.settings.threads) as pool:
        for plan in plans:
            if plan.left:
                continue
            records = list(_records(config, storage, plan, on))
            list(pool.map(lambda item: storage.put_bytes(item[1], item[0], overwrite=True), records))
            found = [info for removal in plan.removals for info in removal.objects]
            gone += sum(pool.map(lambda info: storage.delete(info.key, generation=info.generation), found))
    return gone


def _plan(config: Config, storage: Storage, cycle: str, *, named: bool, now: datetime, young: timedelta) -> CyclePlan:
    listed = {info.key: info for info in storage.list(f"{cycle}/")}
    keys = Keys(cycle)
    manifest = listed.get(keys.ensemble_manifest)
    written = [info.updated for info in ([manifest] if manifest else listed.values()) if info.updated]
    since = max([parse_cycle(cycle), *written])
    removals = tuple(_removals(config.keep, cycle, now - since, listed))
    size = sum(info.size for info in listed.values())
    left = ""
    if removals:
        of_runs = tuple(keys.folder(part) for part in ("forecasts", "coarse", "restarts", "status"))
        if any(info.updated and now - info.updated < young for key, info in listed.items() if key.startswith(of_runs)):
            left = f"something of it is younger than {young.total_seconds() / 3600:g} h"
        elif not named:
            left = _incomplete(storage, keys, listed)
    return CyclePlan(cycle, since, size, removals, left, listed, config.model_folder)


def _removals(
    rules: Mapping[str, KeepRule], cycle: str, age: timedelta, listed: Mapping[str, ObjectInfo]
) -> Iterator[CycleRemoval]:
    """Yield what rules let go of a cycle of an age, the first rule of each kind."""
    by_kind: dict[str, list[ObjectInfo]] = {}
    for key, info in listed.items():
        by_kind.setdefault(_kind(key), []).append(info)
    indexes = [info for info in by_kind.get(LEADS, ()) if info.key.endswith(_MEMBER_INDEX)]
    if indexes:
        by_kind[LEADS] = [info for info in by_kind[LEADS] if not info.key.endswith(_MEMBER_INDEX)]
    goes = {kind: rule for kind in by_kind if (rule := _rule(rules, kind, cycle, age))}
    if indexes and LEADS in goes and not by_kind.get(COARSE):
        by_kind[LEADS] += indexes
    elif indexes and COARSE in goes and (LEADS in goes or not by_kind[LEADS]):
        by_kind[COARSE] = by_kind.get(COARSE, []) + indexes
    for kind in (LEADS, COARSE, RESTARTS, INITIAL, PRODUCTS):
        if kind in goes and by_kind[kind]:
            yield CycleRemoval(kind, goes[kind], tuple(by_kind[kind]))


def _rule(rules: Mapping[str, KeepRule], kind: str, cycle: str, age: timedelta) -> str | None:
    """Return the name of the first rule by which something of a cycle goes, None where it stays."""
    day = _DAYS[parse_cycle(cycle).weekday()]
    for name, rule in rules.items():
        if kind in rule.what and day not in rule.except_weekdays and age > timedelta(days=rule.days):
            return name
    return None


def _kind(key: str) -> str:
    """Return what an object of a cycle is, empty for what stays."""
    _, part, *rest = key.split("/")
    if part == "initial":  # the records beside the states are small, and say what these were
        return INITIAL if key.endswith(".safetensors") else ""
    if part in ("products", "index.html") or (rest and part.endswith("deg_nc")):
        return PRODUCTS
    return {"forecasts": LEADS, "coarse": COARSE, "restarts": RESTARTS}.get(part, "")


def _incomplete(storage: Storage, keys: Keys, listed: Mapping[str, ObjectInfo]) -> str:
    """Return why a cycle does not count as complete, empty when it does."""
    if keys.ensemble_manifest not in listed:
        return "no manifest.json: no run has finished it"
    try:
        name = storage.address(keys.ensemble_manifest)
        found = parse_ensemble_manifest(storage.get_bytes(keys.ensemble_manifest), name, keys.cycle)
    except (VerificationError, MissingError) as error:
        return str(error)
    if found.state != "complete":
        return f"{found.state}: missing {found.missing}"
    lost = [key for key in _missing(found, listed) if not _on_record(storage, keys, key, listed)]
    more = f" and {len(lost) - 1} more" if len(lost) > 1 else ""
    return f"damaged: {file_name(lost[0])} is missing{more}" if lost else ""


def _missing(found: EnsembleManifest, listed: Mapping[str, ObjectInfo]) -> list[str]:
    """Return the objects that an ensemble's manifest names and a listing lacks, of each member the first."""
    lost = []
    for entry in found.members:
        objects = [*entry.objects, *([entry.manifest] if entry.manifest else [])]
        lost += [item.key for item in objects if item.key not in listed][:1]
    return lost


def _on_record(storage: Storage, keys: Keys, key: str, listed: Mapping[str, ObjectInfo]) -> bool:
    """Tell whether a lead is missing because an earlier removal, perhaps one that was killed, took it."""
    member = parse_member_name(member_in(key) or "")
    if member is None or not key.startswith(keys.folder("forecasts")) or keys.retention(member) not in listed:
        return False
    record = _read_record(storage, keys, member)
    return record is not None and LEADS in record.removed


def _read_record(storage: Storage, keys: Keys, member: int) -> RemovalRecord | None:
    key = keys.retention(member)
    try:
        return parse_removals(storage.get_bytes(key), storage.address(key), cycle=keys.cycle, member=member)
    except MissingError:
        return None
    except VerificationError as error:
        LOG.warning("%s, counts as missing", error)
        return None


def _records(config: Config, storage: Storage, plan: CyclePlan, on: str) -> Iterator[tuple[str, bytes]]:
    """Yield the record of each member that loses leads, coarse or whole, under its key.

    What an earlier removal of the same content began keeps its date. A member without a manifest gets none: nothing
    vouches for it.
    """
    keys = Keys(plan.cycle)
    taken = {removal.what: removal for removal in plan.removals if removal.what in (LEADS, COARSE)}
    names = {member_in(info.key) or "" for removal in taken.values() for info in removal.objects}
    members = sorted(member for name in names if (member := parse_member_name(name)) is not None)
    wanted = [member for member in members if keys.manifest(member) in plan.listed]

    def record(member: int) -> tuple[str, bytes]:
        key = keys.manifest(member)
        data = storage.get_bytes(key)
        manifest = parse_member_manifest(data, storage.address(key), cycle=plan.cycle, member=member)
        before = _read_record(storage, keys, member) if keys.retention(member) in plan.listed else None
        kept = before.removed if before and before.content_digest == manifest.content_digest else {}
        new = {what: Removal(on, removal.rule) for what, removal in taken.items()}
        found = RemovalRecord(plan.cycle, member, manifest.content_digest, {**new, **kept})
        return keys.retention(member), removal_bytes(found)

    with ThreadPoolExecutor(config.delivery.threads) as pool:
        yield from pool.map(record, wanted)
