"""What a destination holds that nothing vouches for: found, shown, and removed when asked to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from aifs_ensemble.config import Config
from aifs_ensemble.delivery_core import member_objects, remote_manifest, remote_receipt
from aifs_ensemble.layouts import wants_leads
from aifs_ensemble.names import file_name, member_name
from aifs_ensemble.storage import ObjectInfo, Storage


@dataclass(frozen=True)
class Orphan:
    """An object that may go, and why."""

    info: ObjectInfo
    reason: str


def find_orphans(config: Config, storage: Storage, older_than: timedelta) -> list[Orphan]:
    """Return objects of the cycle that no manifest names, left alone for `older_than`.

    Leads, blocks and indexes of members without a manifest (a running member has none yet: hence the age) or
    not named by it, and restart states of finished members or of members that do not run any more.
    """
    limit = datetime.now(UTC) - older_than
    listed = [info for info in storage.list(f"{config.cycle}/forecasts/") if _old(info, limit)]
    restarts = [info for info in storage.list(f"{config.cycle}/restarts/") if _old(info, limit)]
    names = {_member_of(info.key) for info in [*listed, *restarts]}
    named: dict[str, set[str] | None] = {}
    for name in sorted(name for name in names if name):
        named[name] = _named(config, storage, int(name.removeprefix("member")))
    return [*_stray_leads(listed, named), *_stray_restarts(restarts, named)]


def finished_run(config: Config, storage: Storage, members: Iterable[int]) -> list[Orphan]:
    """Return every object of finished members, the manifest first, so that nothing is vouched for that goes."""
    found = []
    for member in members:
        keys = config.keys_
        for key in (keys.success, keys.manifest(member), keys.receipt(member)):
            info = storage.stat(key)
            if info is not None:
                found.append(Orphan(info, f"of {member_name(member)}, asked for"))
        found += [
            Orphan(info, f"of {member_name(member)}, asked for")
            for info in member_objects(config, storage, member).values()
        ]
    return list({orphan.info.key: orphan for orphan in found}.values())


def remove(storage: Storage, orphans: Iterable[Orphan]) -> int:
    """Remove objects, each only in the generation that was looked at; return how many went."""
    return sum(storage.delete(orphan.info.key, generation=orphan.info.generation) for orphan in orphans)


def _named(config: Config, storage: Storage, member: int) -> set[str] | None:
    """Return the names of the objects that a member's manifest and receipt vouch for, None without a manifest."""
    manifest = remote_manifest(config, storage, member)
    if manifest is None:
        return None
    names = {file_name(item["key"]) for item in (remote_receipt(config, storage, member) or {}).get("objects", ())}
    if wants_leads(config) or not names:
        names |= {file.name for record in manifest.leads for file in (record.grib, record.index)}
    return names


def _stray_leads(listed: Iterable[ObjectInfo], named: dict[str, set[str] | None]) -> Iterator[Orphan]:
    for info in listed:
        member = _member_of(info.key)
        names = named.get(member or "")
        if member is None:
            continue  # not ours to judge
        if names is None:
            yield Orphan(info, f"{member} has no manifest")
        elif file_name(info.key) not in names:
            yield Orphan(info, f"not named by the manifest of {member}")


def _stray_restarts(restarts: Iterable[ObjectInfo], named: dict[str, set[str] | None]) -> Iterator[Orphan]:
    for info in restarts:
        member = _member_of(info.key)
        if member is not None:
            finished = named.get(member) is not None
            yield Orphan(info, f"{member} is finished" if finished else f"{member} has not run since")


def _member_of(key: str) -> str | None:
    """Return the part of a key that names a member."""
    for piece in key.replace("/", "_").split("_"):
        if piece.startswith("member") and piece.removeprefix("member").isdigit():
            return piece
    return None


def _old(info: ObjectInfo, limit: datetime) -> bool:
    return info.updated is None or info.updated <= limit
