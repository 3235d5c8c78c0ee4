"""What a destination says of a member: its objects, its manifest, its receipt, and what these vouch for."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from aifs_ensemble.common.config import Config
from aifs_ensemble.common.errors import VerificationError
from aifs_ensemble.common.manifest import FileRecord, MemberManifest, parse_member_manifest
from aifs_ensemble.common.names import file_name
from aifs_ensemble.common.storage import MissingError, ObjectInfo, Storage

LOG = logging.getLogger(__name__)

RECEIPT_SCHEMA = "aifs-ensemble/receipt/1"
T = TypeVar("T")


def member_objects(config: Config, storage: Storage, member: int) -> dict[str, ObjectInfo]:
    """Return what the destination has among a member's leads, blocks and indexes, by key."""
    return {info.key: info for info in storage.list(lead_prefix(config, member))}


def lead_prefix(config: Config, member: int) -> str:
    """Return what the keys of a member's leads, blocks and indexes begin with."""
    return config.objects.lead(member, 0).rpartition("_")[0] + "_"


def remote_json(storage: Storage, key: str) -> Mapping[str, Any] | None:
    """Return the JSON object under `key`, None when there is none or it is damaged (which is logged)."""
    return _remote(storage, key, _json_object)


def _remote(storage: Storage, key: str, parse: Callable[[bytes, str], T]) -> T | None:
    try:
        return parse(storage.get_bytes(key), storage.address(key))
    except MissingError:
        return None
    except VerificationError as error:
        LOG.warning("%s, counts as missing", error)
        return None


def parse_manifest(data: bytes, name: str) -> MemberManifest:
    """Return a member's manifest from its bytes; VerificationError naming `name` when it is not a sound one."""
    return parse_member_manifest(_json_object(data, name), name)


def parse_receipt(data: bytes | None) -> Mapping[str, Any] | None:
    """Return a receipt from its bytes, None when they are not one."""
    try:
        content = _json_object(data or b"", "receipt")
        receipt_files(content)
    except (VerificationError, KeyError, TypeError):
        return None
    known = content.get("schema") == RECEIPT_SCHEMA and {"content_digest", "layout", "objects"} <= set(content)
    return content if known else None


def _json_object(data: bytes, name: str) -> Mapping[str, Any]:
    try:
        content = json.loads(data)
    except ValueError:
        content = None
    if not isinstance(content, Mapping):
        raise VerificationError(f"{name}: not JSON")
    return content


def remote_manifest(config: Config, storage: Storage, member: int) -> MemberManifest | None:
    """Return the member's manifest at the destination, None when there is none or it is damaged (which is logged)."""
    return _remote(storage, config.objects.manifest(member), parse_manifest)


def remote_receipt(config: Config, storage: Storage, member: int) -> Mapping[str, Any] | None:
    """Return the member's receipt at the destination, None when there is none or it is damaged (which is logged)."""
    key = config.objects.receipt(member)
    try:
        receipt = parse_receipt(storage.get_bytes(key))
    except MissingError:
        return None
    if receipt is None or "leads" not in receipt:
        LOG.warning("%s: not a receipt, counts as missing", storage.address(key))
        return None
    return receipt


def vouched_files(manifest: MemberManifest, receipt: Mapping[str, Any] | None) -> list[FileRecord]:
    """Return the files that must be at the destination for a manifest and its receipt to be true.

    The receipt says in which layout the member was delivered, whatever the configuration asks for today.
    Without a receipt these are the leads.
    """
    files = {file.name: file for file in receipt_files(receipt)}
    if receipt is None or receipt["layout"] != "blocks":
        files |= {file.name: file for record in manifest.leads for file in record.files}
    return list(files.values())


def receipt_files(receipt: Mapping[str, Any] | None) -> list[FileRecord]:
    """Return the files that a receipt names, none without one."""
    objects = receipt["objects"] if receipt else ()
    return [FileRecord(file_name(item["key"]), item["size"], item["crc32c"]) for item in objects]


def forget_delivery(config: Config, member: int) -> None:
    """Remove what says on scratch that a member is at the destination."""
    config.scratch.receipt(member).unlink(missing_ok=True)
    config.scratch.delivered(member).unlink(missing_ok=True)
