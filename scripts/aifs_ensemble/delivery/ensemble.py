"""The ensemble's manifest at the destination: which members it has, what they are, and whether it is short of any."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from aifs_ensemble.common.config import Config
from aifs_ensemble.common.errors import ConfigError, VerificationError
from aifs_ensemble.common.files import crc32c_bytes, json_bytes, write_bytes
from aifs_ensemble.common.manifest import ENSEMBLE_SCHEMA, OLD_ENSEMBLE_SCHEMA, ensemble_state
from aifs_ensemble.common.names import count_members, format_members, parse_members
from aifs_ensemble.common.records import Count, read_record, sealed
from aifs_ensemble.common.storage.base import MissingError, Storage, info_json
from aifs_ensemble.delivery.receipt import StoredObject
from aifs_ensemble.delivery.standing import ABSENT, OTHER_SETTINGS, Destination, Standing, grouped, on_scratch

LOG = logging.getLogger(__name__)
FAILED = "failed"


@dataclass(frozen=True)
class EnsembleStatus:
    """An ensemble as it is at the destination.

    `state` is ``complete``, ``short`` (accepted with at least `min_members`) or ``failed``; `delivered` and
    `missing` are member numbers. `reasons` says why members that are there do not count.
    """

    cycle: str
    destination: str
    state: str
    wanted: tuple[int, ...]
    delivered: tuple[int, ...]
    min_members: int
    bytes: int
    fields: int
    reasons: Mapping[int, str] = field(default_factory=dict)

    @property
    def missing(self) -> tuple[int, ...]:
        """Members wanted and not delivered."""
        return tuple(sorted(set(self.wanted) - set(self.delivered)))

    def __str__(self) -> str:
        return _in_words(self.cycle, self.state, self.wanted, self.delivered)

    def require(self) -> None:
        """Raise VerificationError, one line, for an ensemble that is `failed`."""
        if self.state == FAILED:
            why = f" ({grouped(self.reasons)})" if self.reasons else ""
            raise VerificationError(f"ensemble {self}{why}; expected at least {self.min_members} members")


def _in_words(cycle: str, state: str, wanted: Collection[int], delivered: Collection[int]) -> str:
    text = f"{cycle}: {state}, {count_members(wanted, delivered)}"
    missing = set(wanted) - set(delivered)
    return f"{text}, missing {format_members(missing)}" if missing else text


@dataclass(frozen=True)
class EnsembleEntry:
    """A member as the ensemble's manifest lists it; `manifest` is the object that vouches for it."""

    member: Count
    manifest: StoredObject | None
    content_digest: str
    bytes: Count
    fields: Count
    leads: Count
    objects: tuple[StoredObject, ...]


@dataclass(frozen=True)
class EnsembleManifest:
    """What ``manifest.json`` holds."""

    cycle: str
    model: str
    untrained: bool
    grid: str
    wanted: str
    min_members: Count
    ensemble_size: Count
    lead_hours: list[Count]
    layout: str
    state: Literal["complete", "short", "failed"]
    delivered: str
    missing: str
    bytes: Count
    fields: Count
    members: tuple[EnsembleEntry, ...]

    def __str__(self) -> str:
        return _in_words(self.cycle, self.state, parse_members(self.wanted), [one.member for one in self.members])

    def as_asked(self, config: Config) -> list[str]:
        """Return the keys in which it differs from what the configuration asks for."""
        return [name for name, want in asked_for(config).items() if getattr(self, name) != want]


def parse_ensemble_manifest(data: bytes, name: str, cycle: str) -> EnsembleManifest:
    """Return an ensemble's manifest from its bytes; VerificationError naming it when it is not a sound one."""
    found = read_record(EnsembleManifest, data, name, schema=ENSEMBLE_SCHEMA, unsealed=OLD_ENSEMBLE_SCHEMA)
    if found.cycle != cycle:
        raise VerificationError(f"{name}: of another cycle, expected {cycle}")
    try:
        parse_members(found.wanted)
    except ConfigError:
        raise VerificationError(f"{name}: wanted are no members") from None
    return found


def write_ensemble_manifest(config: Config, path: Path | None = None) -> EnsembleStatus:
    """Write ``{cycle}/manifest.json`` at the destination, and ``_SUCCESS`` unless too many members are missing.

    A member counts when its standing is whole: made as asked for, with every object listed at the right size and,
    where the service keeps checksums, the right checksum (a folder was read back when the member was delivered;
    `verify` reads it again). A failed ensemble loses its ``_SUCCESS``. A run of which nothing counts leaves a manifest
    that is true of another run as it is. With `path` the manifest is written there too. Raises StorageError when the
    destination does not answer.
    """
    destination = Destination(config)
    storage = destination.storage
    standings = destination.standings().values()
    for one in standings:
        if not one.whole:
            LOG.warning("member %d does not count: %s", one.member, one.text)
    with ThreadPoolExecutor(storage.settings.threads) as pool:
        entries = list(pool.map(partial(_member_entry, config, storage), (one for one in standings if one.whole)))
    status = EnsembleStatus(
        cycle=config.cycle,
        destination=storage.url,
        state=ensemble_state(len(entries), len(config.members), config.min_members),
        wanted=config.members,
        delivered=tuple(item["member"] for item in entries),
        min_members=config.min_members,
        bytes=sum(item["bytes"] for item in entries),
        fields=sum(item["fields"] for item in entries),
        reasons={one.member: one.text for one in standings if not one.whole and one.state != ABSENT},
    )
    if not entries and _belongs_to_another(destination, standings):
        LOG.warning("%s; the manifest there is another run's and stays", status)
        return status
    content = json_bytes(sealed(_content(config, status, entries)))
    _leave(config, storage, status, content)
    if path is not None:
        write_bytes(path, content)
    LOG.log(logging.INFO if status.state == "complete" else logging.WARNING, "%s", status)
    return status


def present_status(config: Config) -> EnsembleStatus:
    """Return the ensemble as it is now at the destination, or on scratch where none is named; nothing is written.

    Raises StorageError when the destination does not answer.
    """
    if config.destination:
        destination = Destination(config)
        where, standings = destination.storage.url, list(destination.standings().values())
    else:
        where, standings = str(config.scratch.base), [on_scratch(config, member) for member in config.members]
    made = {one.member: one.manifest for one in standings if one.whole and one.manifest is not None}
    return EnsembleStatus(
        cycle=config.cycle,
        destination=where,
        state=ensemble_state(len(made), len(config.members), config.min_members),
        wanted=config.members,
        delivered=tuple(made),
        min_members=config.min_members,
        bytes=sum(manifest.bytes for manifest in made.values()),
        fields=sum(manifest.fields for manifest in made.values()),
        reasons={one.member: one.text for one in standings if not one.whole and one.state != ABSENT},
    )


def _belongs_to_another(destination: Destination, standings: Collection[Standing]) -> bool:
    """Tell whether the manifest there is of other members or settings than are asked for, and true of them."""
    data = destination.content(destination.config.objects.ensemble_manifest)
    try:
        found = parse_ensemble_manifest(data or b"", "", destination.config.cycle)
    except VerificationError:
        return False
    others = any(one.state == OTHER_SETTINGS for one in standings)
    if not (others or found.as_asked(destination.config)):
        return False
    listed = destination.listed
    there = all(
        (info := listed.get(item.key)) and info.size == item.size and info.crc32c in (None, item.crc32c)
        for entry in found.members
        for item in (entry.manifest, *entry.objects)
        if item is not None
    )
    return bool(found.members) and there and not _untrue_entries(destination, found)


def needs_writing(destination: Destination) -> str | None:
    """Return why a run makes the ensemble's manifest anew, None when it is true and as asked for."""
    config = destination.config
    key = config.objects.ensemble_manifest
    data = destination.content(key)
    if data is None:
        return f"{key}: missing"
    if problems := ensemble_problems(destination):
        return problems[0]
    return asked_otherwise(config, data, key)


def asked_otherwise(config: Config, data: bytes, name: str) -> str | None:
    """Return why an ensemble's manifest, by its bytes alone, is not what a run is to leave; None when it is."""
    try:
        found = parse_ensemble_manifest(data, name, config.cycle)
    except VerificationError as error:
        return str(error)
    if other := found.as_asked(config):
        return f"other {', '.join(other)}"
    return f"the ensemble is {found.state}" if found.state == FAILED else None


def ensemble_problems(destination: Destination) -> list[str]:
    """Return what is untrue of ``manifest.json`` and ``_SUCCESS``: of themselves, and of the members' manifests.

    Nothing is said of a destination that has neither.
    """
    keys = destination.config.objects
    data, success = destination.content(keys.ensemble_manifest), destination.content(keys.success)
    if data is None:
        return [] if success is None else [f"{keys.ensemble_manifest}: missing beside _SUCCESS"]
    try:
        found = parse_ensemble_manifest(data, keys.ensemble_manifest, destination.config.cycle)
    except VerificationError as error:
        return [str(error)]
    problems = _untrue_entries(destination, found)
    told = None if found.state == FAILED else f"{found}\n".encode()
    if success != told:
        what = "missing" if success is None else "there" if told is None else "says something else"
        problems.append(f"{keys.success}: {what}, the manifest says {found.state}")
    return problems


def _untrue_entries(destination: Destination, found: EnsembleManifest) -> list[str]:
    """Return what differs between the members' manifests and what the ensemble's says of them."""
    keys = destination.config.objects
    problems = []
    for entry in found.members:
        key = keys.manifest(entry.member)
        told = entry.manifest
        data = destination.content(key)
        if told is None or told.key != key:
            problems.append(f"{keys.ensemble_manifest}: names no manifest of member {entry.member}")
        elif data is None:
            problems.append(f"{key}: missing, {keys.ensemble_manifest} names it")
        elif (told.size, told.crc32c) != (len(data), crc32c_bytes(data)):
            problems.append(f"{key}: other than {keys.ensemble_manifest} says")
    return problems


def _leave(config: Config, storage: Storage, status: EnsembleStatus, content: bytes) -> None:
    """Write manifest and ``_SUCCESS``, which never stands beside a manifest that it does not belong to."""
    keys = config.objects
    success = f"{status}\n".encode()
    try:
        stands = storage.get_bytes(keys.success) == success
    except MissingError:
        stands = False
    if status.state == FAILED or not stands:
        storage.delete(keys.success)
    storage.put_bytes(content, keys.ensemble_manifest, overwrite=True)
    if status.state != FAILED:
        storage.put_bytes(success, keys.success, overwrite=True)


def asked_for(config: Config) -> dict[str, Any]:
    """Return what the ensemble's manifest says of the configuration: another one needs another manifest."""
    return {
        "cycle": config.cycle,
        "model": config.model.name,
        "untrained": config.model.untrained,
        "grid": config.model.grid,
        "wanted": format_members(config.members),
        "min_members": config.min_members,
        "ensemble_size": config.ensemble_size,
        "lead_hours": list(config.leads),
        "layout": config.delivery.layout,
    }


def _content(config: Config, status: EnsembleStatus, entries: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "schema": ENSEMBLE_SCHEMA,
        **asked_for(config),
        "state": status.state,
        "delivered": format_members(status.delivered),
        "missing": format_members(status.missing),
        "bytes": status.bytes,
        "fields": status.fields,
        "members": entries,
    }


def _member_entry(config: Config, storage: Storage, standing: Standing) -> dict[str, Any]:
    """Return the entry of a member that counts."""
    manifest, receipt = standing.manifest, standing.receipt
    assert manifest is not None
    assert receipt is not None
    info = storage.stat(config.objects.manifest(standing.member))
    return {
        "member": standing.member,
        "manifest": info_json(info) if info else None,
        "content_digest": manifest.content_digest,
        "bytes": sum(item.size for item in receipt.objects),
        "fields": manifest.fields,
        "leads": len(manifest.leads),
        "objects": [asdict(item) for item in receipt.objects],
    }
