"""The ensemble's manifest at the destination: which members it has, what they are, and whether it is short of any."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aifs_ensemble.common.config import Config
from aifs_ensemble.common.files import json_bytes, write_bytes
from aifs_ensemble.common.manifest import ENSEMBLE_SCHEMA, MemberManifest, ensemble_state
from aifs_ensemble.common.names import format_members
from aifs_ensemble.common.storage import open_destination
from aifs_ensemble.common.storage.base import MissingError, ObjectInfo, Storage, info_json
from aifs_ensemble.delivery.receipt import remote_json, remote_manifest, remote_receipt, vouched_files
from aifs_ensemble.forecast.settings import member_differences

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class EnsembleStatus:
    """An ensemble as it is at the destination.

    `state` is ``complete``, ``short`` (accepted with at least `min_members`) or ``failed``; `delivered` and
    `missing` are member numbers.
    """

    cycle: str
    destination: str
    state: str
    wanted: tuple[int, ...]
    delivered: tuple[int, ...]
    min_members: int
    bytes: int
    fields: int

    @property
    def missing(self) -> tuple[int, ...]:
        """Members wanted and not delivered."""
        return tuple(sorted(set(self.wanted) - set(self.delivered)))

    def __str__(self) -> str:
        text = f"{self.cycle}: {self.state}, {len(self.delivered)} of {len(self.wanted)} members"
        return f"{text}, missing {format_members(self.missing)}" if self.missing else text


def write_ensemble_manifest(config: Config, path: Path | None = None) -> EnsembleStatus:
    """Write ``{cycle}/manifest.json`` at the destination, and ``_SUCCESS`` unless too many members are missing.

    A member counts when its manifest is there and the listing has every object with the right size and, where
    the service keeps checksums, the right checksum (folders were read back when the member was delivered;
    `verify` reads them again). A failed ensemble loses its ``_SUCCESS``. With `path` the manifest is written
    there too. Raises StorageError when the destination does not answer.
    """
    storage = open_destination(config)
    listed = {info.key: info for info in storage.list(f"{config.cycle}/forecasts/")}

    def entry(member: int) -> dict[str, Any] | None:
        return _member_entry(config, storage, member, listed)

    with ThreadPoolExecutor(storage.settings.threads) as pool:
        entries = [item for item in pool.map(entry, config.members) if item is not None]
    status = EnsembleStatus(
        cycle=config.cycle,
        destination=storage.url,
        state=ensemble_state(len(entries), len(config.members), config.min_members),
        wanted=config.members,
        delivered=tuple(item["member"] for item in entries),
        min_members=config.min_members,
        bytes=sum(item["bytes"] for item in entries),
        fields=sum(item["fields"] for item in entries),
    )
    content = json_bytes(_content(config, status, entries))
    _leave(config, storage, status, content)
    if path is not None:
        write_bytes(path, content)
    LOG.log(logging.INFO if status.state == "complete" else logging.WARNING, "%s", status)
    return status


def _leave(config: Config, storage: Storage, status: EnsembleStatus, content: bytes) -> None:
    """Write manifest and ``_SUCCESS``, which never stands beside a manifest that it does not belong to."""
    keys = config.keys_
    success = f"{status}\n".encode()
    try:
        stands = storage.get_bytes(keys.success) == success
    except MissingError:
        stands = False
    if status.state == "failed" or not stands:
        storage.delete(keys.success)
    storage.put_bytes(content, keys.ensemble_manifest, overwrite=True)
    if status.state != "failed":
        storage.put_bytes(success, keys.success, overwrite=True)


def read_ensemble_manifest(config: Config, storage: Storage | None = None) -> Mapping[str, Any] | None:
    """Return the ensemble's manifest at the destination, or None."""
    storage = storage or open_destination(config)
    return remote_json(storage, config.keys_.ensemble_manifest)


def asked_for(config: Config) -> dict[str, Any]:
    """Return what the ensemble's manifest says of the configuration: another one needs another manifest."""
    return {
        "cycle": config.cycle,
        "model": config.model.name,
        "untrained": config.model.untrained,
        "grid": config.model.grid,
        "wanted": format_members(config.members),
        "min_members": config.min_members,
        "ensemble_size": config["ensemble_size"],
        "lead_hours": list(config.leads),
        "layout": config["delivery"]["layout"],
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


def _member_entry(
    config: Config, storage: Storage, member: int, listed: Mapping[str, ObjectInfo]
) -> dict[str, Any] | None:
    """Return a delivered member's entry, or None (and say why) when it does not count."""
    manifest = remote_manifest(config, storage, member)
    receipt = remote_receipt(config, storage, member)
    wrong = _why_not(config, manifest, receipt, listed)
    if wrong or manifest is None or receipt is None:
        LOG.warning("member %d does not count: %s", member, wrong)
        return None
    info = storage.stat(config.keys_.manifest(member))
    return {
        "member": member,
        "manifest": info_json(info) if info else None,
        "content_digest": manifest.content_digest,
        "bytes": sum(item["size"] for item in receipt["objects"]),
        "fields": manifest.fields,
        "leads": len(manifest.leads),
        "objects": [dict(item) for item in receipt["objects"]],
    }


def _why_not(
    config: Config,
    manifest: MemberManifest | None,
    receipt: Mapping[str, Any] | None,
    listed: Mapping[str, ObjectInfo],
) -> str | None:
    """Return why a member does not count, or None when it does."""
    if manifest is None:
        return "no sound manifest at the destination"
    if receipt is None or receipt["content_digest"] != manifest.content_digest:
        return "no receipt of the same content at the destination"
    absent = set(config.leads) - {record.lead for record in manifest.leads}
    if absent:
        return f"its manifest ends before {max(absent)} h"
    if other := member_differences(config, manifest):
        return f"it was made with {'; '.join(other)}"
    for file in vouched_files(manifest, receipt):
        info = listed.get(f"{config.cycle}/forecasts/{file.name}")
        if info is None or info.size != file.size or info.crc32c not in (None, file.crc32c):
            return f"{file.name} is missing or differs"
    return None
