"""The ensemble's manifest at the destination: which members it has, what they are, and whether it is short of any."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from aifs_ensemble.common.config import Config
from aifs_ensemble.common.files import json_bytes, write_bytes
from aifs_ensemble.common.manifest import ENSEMBLE_SCHEMA, ensemble_state
from aifs_ensemble.common.names import count_members, format_members
from aifs_ensemble.common.storage.base import MissingError, Storage, info_json
from aifs_ensemble.delivery.standing import Destination, Standing

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
        text = f"{self.cycle}: {self.state}, {count_members(self.wanted, self.delivered)}"
        return f"{text}, missing {format_members(self.missing)}" if self.missing else text


def write_ensemble_manifest(config: Config, path: Path | None = None) -> EnsembleStatus:
    """Write ``{cycle}/manifest.json`` at the destination, and ``_SUCCESS`` unless too many members are missing.

    A member counts when its standing is whole: made as asked for, with every object listed at the right size and,
    where the service keeps checksums, the right checksum (a folder was read back when the member was delivered;
    `verify` reads it again). A failed ensemble loses its ``_SUCCESS``. With `path` the manifest is written
    there too. Raises StorageError when the destination does not answer.
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
    )
    content = json_bytes(_content(config, status, entries))
    _leave(config, storage, status, content)
    if path is not None:
        write_bytes(path, content)
    LOG.log(logging.INFO if status.state == "complete" else logging.WARNING, "%s", status)
    return status


def _leave(config: Config, storage: Storage, status: EnsembleStatus, content: bytes) -> None:
    """Write manifest and ``_SUCCESS``, which never stands beside a manifest that it does not belong to."""
    keys = config.objects
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
        "bytes": sum(item["size"] for item in receipt["objects"]),
        "fields": manifest.fields,
        "leads": len(manifest.leads),
        "objects": [dict(item) for item in receipt["objects"]],
    }
