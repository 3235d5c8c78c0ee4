"""What a destination holds that nothing vouches for: found, shown, and removed when asked to."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from aifs_ensemble.common.config import Config
from aifs_ensemble.common.errors import WorkflowError
from aifs_ensemble.common.manifest import read_member_manifest
from aifs_ensemble.common.names import file_name, member_in, member_name, parse_member_name
from aifs_ensemble.common.storage import ObjectInfo, Storage
from aifs_ensemble.delivery.receipt import (
    coarse_files,
    coarse_objects,
    forget_delivery,
    member_objects,
    receipt_files,
    vouched_files,
)
from aifs_ensemble.delivery.scratch import lead_file_paths
from aifs_ensemble.delivery.standing import at_destination

LOG = logging.getLogger(__name__)
_LEADS = ("forecasts", "coarse")  # folders of what manifests and receipts vouch for


@dataclass(frozen=True)
class Orphan:
    """An object that may go, and why."""

    info: ObjectInfo
    reason: str


@dataclass(frozen=True)
class _Vouched:
    """The names that a member's manifest or receipt vouches for; `finished` says that it has a manifest."""

    names: frozenset[str]
    finished: bool


def find_orphans(config: Config, storage: Storage, older_than: timedelta) -> list[Orphan]:
    """Return objects of the cycle that nothing vouches for, of members that did nothing for `older_than`.

    Leads, coarse leads, blocks and indexes that neither manifest nor receipt of their member names, and restart states.
    A member that runs has objects that nothing names yet, some of them left by an attempt days ago: as long as anything
    about it is younger, all of it is left alone. So is a member whose manifest or receipt is damaged or another's: what
    they would vouch for is not known.
    """
    limit = datetime.now(UTC) - older_than
    kinds = (*_LEADS, "restarts", "status")
    folders = {name: list(storage.list(config.objects.folder(name))) for name in kinds}
    active = {
        member_in(info.key)
        for listed in folders.values()
        for info in listed
        if info.updated is not None and info.updated > limit
    }
    leads = [info for name in _LEADS for info in folders[name] if member_in(info.key)]
    restarts = [info for info in folders["restarts"] if member_in(info.key)]
    idle = sorted({member_in(info.key) or "" for info in [*leads, *restarts]} - active)
    with ThreadPoolExecutor(storage.settings.threads) as pool:
        found = zip(idle, pool.map(lambda name: _vouched(config, storage, name), idle), strict=True)
        vouched = {name: one for name, one in found if one is not None}
    return [*_stray_leads(leads, vouched), *_stray_restarts(restarts, vouched)]


def finished_run(config: Config, storage: Storage, members: Iterable[int]) -> list[Orphan]:
    """Return every object of finished members, what vouches for the others first."""
    keys = config.objects
    found = []
    for member in members:
        vouching = [storage.stat(key) for key in (keys.manifest(member), keys.receipt(member), keys.retention(member))]
        objects = member_objects(config, storage, member) | coarse_objects(config, storage, member)
        index = storage.stat(keys.member_index(member))
        own = [info for info in (*vouching, *objects.values(), index) if info is not None]
        found += [Orphan(info, f"of {member_name(member)}, asked for") for info in own]
    success = storage.stat(keys.success) if found else None
    return found if success is None else [Orphan(success, f"of {found[0].info.key}, asked for"), *found]


def remove(storage: Storage, orphans: Iterable[Orphan]) -> int:
    """Remove objects, each only in the generation that was looked at; return how many went.

    Manifests and receipts go before anything that they vouch for.
    """

    def go(orphan: Orphan) -> bool:
        return storage.delete(orphan.info.key, generation=orphan.info.generation)

    orphans = list(orphans)
    vouching = [orphan for orphan in orphans if not any(f"/{name}/" in orphan.info.key for name in _LEADS)]
    gone = sum(map(go, vouching))
    with ThreadPoolExecutor(storage.settings.threads) as pool:
        return gone + sum(pool.map(go, [orphan for orphan in orphans if orphan not in vouching]))


def remove_finished(config: Config, storage: Storage, members: Iterable[int], orphans: Iterable[Orphan]) -> int:
    """Remove what `finished_run` found, and what says on scratch that these members are delivered.

    A member whose local copies went after its delivery is unfinished now: else nothing would make it again.
    """
    for member in members:
        forget_delivery(config, member)
        (config.scratch.work(member) / "delivered.jsonl").unlink(missing_ok=True)
        if not _whole_here(config, member):
            config.scratch.manifest(member).unlink(missing_ok=True)
    return remove(storage, orphans)


def _whole_here(config: Config, member: int) -> bool:
    """Tell whether scratch has all that the member's manifest there names."""
    try:
        manifest = read_member_manifest(config.scratch.manifest(member))
    except WorkflowError:
        return False
    files = (file for record in manifest.leads for file in record.files)
    return all(lead_file_paths(config.scratch, member, file) for file in files)


def _vouched(config: Config, storage: Storage, name: str) -> _Vouched | None:
    """Return what is vouched for of a member, None when that cannot be known.

    A receipt alone counts too: Snakemake removes the manifests of a whole group when one of its members fails, and the
    next run takes the others back by their receipts.
    """
    member = parse_member_name(name)
    assert member is not None, name
    standing = at_destination(config, storage, member, objects={})
    manifest, receipt = standing.manifest, standing.receipt
    # what is missing of the objects does not matter here, and other settings do not
    problem = (standing.problems.get(0) or standing.reason) if manifest is None else standing.problems.get(0)
    vouching = (config.objects.manifest(member), config.objects.receipt(member))
    unread = [key for key, got in zip(vouching, (manifest, receipt), strict=True) if got is None and storage.stat(key)]
    if unread or (manifest and problem):  # without its receipt nobody knows in which layout a member is there
        LOG.warning("%s left alone: %s; verify --mend first", name, problem)
        return None
    files = receipt_files(receipt) if manifest is None else vouched_files(manifest, receipt)
    files = files + coarse_files(manifest.leads if manifest else receipt.leads if receipt else ())
    names = {file.name for file in files} | {file_name(config.objects.member_index(member))}
    return _Vouched(frozenset(names), manifest is not None)


def _stray_leads(listed: Iterable[ObjectInfo], vouched: Mapping[str, _Vouched]) -> Iterator[Orphan]:
    for info in listed:
        member = member_in(info.key) or ""
        if member in vouched and file_name(info.key) not in vouched[member].names:
            finished = vouched[member].finished
            reason = f"not named by the manifest of {member}" if finished else f"{member} has no manifest"
            yield Orphan(info, reason)


def _stray_restarts(restarts: Iterable[ObjectInfo], vouched: Mapping[str, _Vouched]) -> Iterator[Orphan]:
    for info in restarts:
        member = member_in(info.key) or ""
        if member in vouched:
            finished = vouched[member].finished
            yield Orphan(info, f"{member} is finished" if finished else f"{member} has not run since")
