"""What a destination says of a member: its objects, its manifest, its receipt, and what these vouch for."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, TypeVar

from aifs_ensemble.common.config import Config
from aifs_ensemble.common.errors import VerificationError
from aifs_ensemble.common.files import json_bytes
from aifs_ensemble.common.manifest import (
    FileRecord,
    LeadRecord,
    MemberManifest,
    lead_problem,
    parse_member_manifest,
)
from aifs_ensemble.common.names import file_name, index_file, parse_block_file
from aifs_ensemble.common.records import Count, Crc32c, Generation, read_record, sealed
from aifs_ensemble.common.storage import MissingError, ObjectInfo, Storage
from aifs_ensemble.common.text import foreign
from aifs_ensemble.delivery.blocks import make_blocks

LOG = logging.getLogger(__name__)

RECEIPT_SCHEMA = "aifs-ensemble/receipt/2"
OLD_RECEIPT_SCHEMA = "aifs-ensemble/receipt/1"  # without a seal
T = TypeVar("T")


@dataclass(frozen=True)
class StoredObject:
    """An object as receipts and manifests describe it."""

    key: str
    size: Count
    crc32c: Crc32c
    generation: Generation

    @property
    def file(self) -> FileRecord:
        """The published file that it holds."""
        return FileRecord(file_name(self.key), self.size, self.crc32c)


@dataclass(frozen=True)
class MemberReceipt:
    """How a member was delivered: its objects, and what another machine needs to take it up.

    `content_digest` is None for a member that was put back to unfinished; `leads` is absent from the copy on scratch.
    `work` holds the small files of the work folder by name.
    """

    member: int
    cycle: str
    destination: str
    layout: Literal["leads", "blocks", "both"]
    content_digest: str | None
    objects: tuple[StoredObject, ...]
    leads: tuple[LeadRecord, ...] | None = None
    work: Mapping[str, str] = field(default_factory=dict)

    @property
    def files(self) -> list[FileRecord]:
        """The files that it names."""
        return [item.file for item in self.objects]


def receipt_bytes(content: Mapping[str, Any]) -> bytes:
    """Return a receipt as it is written, sealed by a digest of all of it."""
    return json_bytes(sealed(content))


def member_objects(config: Config, storage: Storage, member: int) -> dict[str, ObjectInfo]:
    """Return what the destination has among a member's leads, blocks and indexes, by key."""
    return {info.key: info for info in storage.list(lead_prefix(config, member))}


def coarse_objects(config: Config, storage: Storage, member: int) -> dict[str, ObjectInfo]:
    """Return what the destination has among a member's coarse leads and their indexes, by key."""
    return {info.key: info for info in storage.list(coarse_prefix(config, member))}


def lead_prefix(config: Config, member: int) -> str:
    """Return what the keys of a member's leads, blocks and indexes begin with."""
    return config.objects.lead(member, 0).rpartition("_")[0] + "_"


def coarse_prefix(config: Config, member: int) -> str:
    """Return what the keys of a member's coarse leads and their indexes begin with."""
    return config.objects.folder("coarse") + file_name(lead_prefix(config, member))


def remote_record(storage: Storage, key: str, parse: Callable[[bytes, str], T]) -> T | None:
    """Return what `parse` makes of an object, None when there is none or it is damaged (which is logged)."""
    try:
        return parse(storage.get_bytes(key), storage.address(key))
    except MissingError:
        return None
    except VerificationError as error:
        LOG.warning("%s, counts as missing", error)
        return None


def parse_manifest(config: Config, member: int, data: bytes, name: str) -> MemberManifest:
    """Return a member's manifest from its bytes; VerificationError naming it when it is not sound, or another's."""
    return parse_member_manifest(data, name, cycle=config.cycle, member=member)


def parse_receipt(config: Config, member: int, data: bytes, name: str) -> MemberReceipt:
    """Return a member's receipt from its bytes; VerificationError naming it when it is not sound, or another's.

    Every object and lead has the very name that cycle, member and hours give it.
    """
    receipt = read_record(MemberReceipt, data, name, schema=RECEIPT_SCHEMA, unsealed=OLD_RECEIPT_SCHEMA)
    for what, found, expected in (("cycle", receipt.cycle, config.cycle), ("member", receipt.member, member)):
        if found != expected:
            raise VerificationError(f"{name}: of {what} {foreign(found)}, expected {expected}")
    check_leads_named(config, member, receipt.leads or (), name)
    for item in receipt.objects:
        if not _own_object(config, member, item.key):
            raise VerificationError(f"{name}: names {foreign(repr(item.key))}, which is no object of the member")
    if len({item.key for item in receipt.objects}) < len(receipt.objects):
        raise VerificationError(f"{name}: names an object twice")
    return receipt


def check_leads_named(config: Config, member: int, records: tuple[LeadRecord, ...], name: str) -> None:
    """Raise VerificationError naming `name` unless records are leads of a member, each once and in order."""
    for record in records:
        if problem := lead_problem(record, config.cycle, member):
            raise VerificationError(f"{name}: {problem}")
    if [record.lead for record in records] != sorted({record.lead for record in records}):
        raise VerificationError(f"{name}: leads out of order or twice")


def _own_object(config: Config, member: int, key: str) -> bool:
    """Tell whether a key is that of a lead, a block or an index of a member."""
    keys = config.objects
    name = key.removeprefix(lead_prefix(config, member))
    stem, dot, _ = name.rpartition(".")
    hours = stem.removeprefix("h").split("-")
    if not dot or len(hours) > 2 or not all(part.isascii() and part.isdigit() and len(part) == 3 for part in hours):
        return False
    if len(hours) == 1:
        own = (keys.lead(member, int(hours[0])), keys.index(member, int(hours[0])))
    else:
        block = keys.block(member, int(hours[0]), int(hours[1]))
        own = (block, index_file(block))
    return key in own


def remote_manifest(config: Config, storage: Storage, member: int) -> MemberManifest | None:
    """Return the member's manifest at the destination, None when there is none or it is damaged (which is logged)."""
    return remote_record(storage, config.objects.manifest(member), partial(parse_manifest, config, member))


def remote_receipt(config: Config, storage: Storage, member: int) -> MemberReceipt | None:
    """Return the member's receipt at the destination, None when there is none or it is damaged (which is logged)."""
    key = config.objects.receipt(member)
    receipt = remote_record(storage, key, partial(parse_receipt, config, member))
    if receipt is not None and receipt.leads is None:
        LOG.warning("%s: without leads, counts as missing", storage.address(key))
        return None
    return receipt


def receipt_problem(config: Config, manifest: MemberManifest, receipt: MemberReceipt) -> str | None:
    """Return how a receipt differs from what its layout makes of the manifest, None when it does not.

    Of the index of a block the receipt is the only witness: its name alone is compared. Folders are moved; a bucket's
    receipt must be of that bucket.
    """
    if receipt.content_digest != manifest.content_digest:
        return "of other content than the manifest"
    if receipt.leads not in (None, manifest.leads):
        return "lists other leads than the manifest"
    here = str(config.destination).rstrip("/")
    if receipt.destination != here and "://" in receipt.destination + here:
        return f"of {foreign(receipt.destination)}, expected {here}"
    named = {file.name: file for file in receipt.files}
    expected = _expected_files(config, manifest, receipt.layout, named)
    if more := sorted(named.keys() - expected.keys()):
        return f"names {more[0]}, which layout {receipt.layout} does not make"
    if less := sorted(expected.keys() - named.keys()):
        return f"does not name {less[0]}"
    other = next((name for name in sorted(named) if named[name] != expected[name]), None)
    return other and f"says of {other} something else than the manifest"


def _expected_files(
    config: Config, manifest: MemberManifest, layout: str, named: Mapping[str, FileRecord]
) -> dict[str, FileRecord | None]:
    """Return the files that a layout makes of a manifest, the indexes of blocks as they are `named`."""
    expected: dict[str, FileRecord | None] = {}
    if layout != "blocks":
        expected |= {file.name: file for record in manifest.leads for file in record.files}
    if layout != "leads":
        for block in make_blocks(config.cycle, manifest.member, manifest.leads, _block_hours(named)):
            expected |= {block.grib.name: block.grib, block.index_name: named.get(block.index_name)}
    return expected


def _block_hours(names: Mapping[str, FileRecord]) -> int:
    """Return the hours of the blocks that a receipt names, whatever the configuration asks for today."""
    blocks = sorted(hours for name in names if (hours := parse_block_file(name)))
    if len(blocks) > 1:
        return max(blocks[1][0] - blocks[0][0], 1)
    return max(blocks[0][1] if blocks else 1, 1)


def vouched_files(manifest: MemberManifest, receipt: MemberReceipt | None) -> list[FileRecord]:
    """Return the files that must be at the destination for a manifest and its receipt to be true.

    The receipt says in which layout the member was delivered, whatever the configuration asks for today.
    Without a receipt these are the leads.
    """
    files = {file.name: file for file in receipt_files(receipt)}
    if receipt is None or receipt.layout != "blocks":
        files |= {file.name: file for record in manifest.leads for file in record.files}
    return list(files.values())


def coarse_files(records: Iterable[LeadRecord] | None) -> list[FileRecord]:
    """Return the coarse files that leads name: what a destination may lack, and the member is whole all the same."""
    return [file for record in records or () for file in record.coarse_files]


def receipt_files(receipt: MemberReceipt | None) -> list[FileRecord]:
    """Return the files that a receipt names, none without one."""
    return receipt.files if receipt else []


def forget_delivery(config: Config, member: int) -> None:
    """Remove what says on scratch that a member is at the destination."""
    config.scratch.receipt(member).unlink(missing_ok=True)
    config.scratch.delivered(member).unlink(missing_ok=True)
