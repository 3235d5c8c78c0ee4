"""What a machine takes back from the destination before it starts or goes on with a member.

A member's truth is its work folder. On the machine that made it, `delivered.jsonl` is compared with what the
destination really has. On a fresh one, the receipt of a delivered member or the newest resume point of an
unfinished one brings it back: the leads delivered so far, the restart state after the last of them, and the
settings under which they were made, which the forecast compares with its own.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from aifs_ensemble.common.config import Config
from aifs_ensemble.common.errors import StorageError, VerificationError
from aifs_ensemble.common.files import write_bytes
from aifs_ensemble.common.manifest import FileRecord, LeadRecord, record_json
from aifs_ensemble.common.names import file_name, lead_name, restart_file
from aifs_ensemble.common.records import json_object, read_record, sealed
from aifs_ensemble.common.storage import ObjectInfo, Storage, open_destination
from aifs_ensemble.delivery.receipt import (
    check_leads_named,
    coarse_objects,
    member_objects,
    receipt_files,
    remote_record,
)
from aifs_ensemble.delivery.standing import DAMAGED, OTHER_SETTINGS, Standing, at_destination, refusal, short_of
from aifs_ensemble.forecast.work_folder import WORK_FILES, WorkFolder

LOG = logging.getLogger(__name__)

RESUME_SCHEMA = "aifs-ensemble/resume-point/2"
OLD_RESUME_SCHEMA = "aifs-ensemble/resume-point/1"  # without a seal


@dataclass(frozen=True)
class ResumePoint:
    """What stands beside a restart state at the destination: the leads up to it, and the work folder's small files."""

    lead: int
    leads: tuple[LeadRecord, ...]
    work: Mapping[str, str]


@dataclass(frozen=True)
class Restored:
    """What is known of a member before it starts: leads verified at the destination, and the restart brought back.

    `finished` says that the destination has the whole member.
    """

    member: int
    leads: tuple[LeadRecord, ...]
    restart: int | None = None
    finished: bool = False


def restore_member(config: Config, member: int, storage: Storage | None = None) -> Restored:
    """Bring a member's work folder up to date with the destination; nothing happens when none is set.

    Leads that the destination no longer has, or has with other content, are forgotten, so that they are made
    again. Raises VerificationError when the member was delivered with other settings, StorageError when the destination
    does not answer.
    """
    if not config.destination:
        return Restored(member, ())
    storage = storage or open_destination(config)
    work = WorkFolder(config.scratch.work(member), config.cycle, member)
    listed = member_objects(config, storage, member)
    if listed:
        listed |= coarse_objects(config, storage, member)
    standing = at_destination(config, storage, member, objects=listed)
    if standing.state == OTHER_SETTINGS:  # before a card computes what could not be delivered
        raise VerificationError(f"{standing.name}: {refusal({member: standing.reason})}")
    if standing.state == DAMAGED:
        LOG.warning("member %d: %s", member, standing.text)
    objects = _Objects(storage, listed)
    known = work.delivered.read()
    fresh = not known and not work.journal.read()
    delivered = _delivered_before(config, standing, objects)
    restored = delivered if delivered and delivered.finished else None
    if restored is None and fresh:
        restored = _resume_point(config, storage, work, objects) or delivered
    if restored is None:
        restored = Restored(member, tuple(record for record in known.values() if objects.have(record)))
    elif fresh:
        LOG.info(
            "member %d: %d leads are at %s, going on after %s",
            member, len(restored.leads), storage.url, lead_name(restored.restart) if restored.restart else "them",
        )  # fmt: skip
    restored = replace(restored, leads=tuple(map(objects.without_lost_coarse, restored.leads)))
    if restored.leads or known:
        work.delivered.write(sorted(restored.leads, key=lambda record: record.lead))
    return restored


def note_delivered(config: Config, member: int) -> None:
    """Note on scratch that a bucket has a member, as its delivery from here would have: its receipt and manifest.

    Raises VerificationError when the member is not delivered as asked for, StorageError when the bucket does not
    answer.
    """
    storage = open_destination(config)
    standing = at_destination(config, storage, member)
    if not standing.done:
        raise VerificationError(f"{standing.name}: {standing.text}, expected a delivered member: run again")
    write_bytes(config.scratch.receipt(member), storage.get_bytes(config.objects.receipt(member)))
    write_bytes(config.scratch.delivered(member), storage.get_bytes(config.objects.manifest(member)))


class _Objects:
    """The destination's listing of one member, asked whether it has a file."""

    def __init__(self, storage: Storage, listed: Mapping[str, ObjectInfo]):
        self._storage = storage
        self._by_name = {file_name(key): info for key, info in listed.items()}

    def have_file(self, file: FileRecord) -> bool:
        info = self._by_name.get(file.name)
        return info is not None and info.size == file.size and self._storage.with_crc32c(info).crc32c == file.crc32c

    def have(self, record: LeadRecord) -> bool:
        return self.have_file(record.grib) and self.have_file(record.index)

    def without_lost_coarse(self, record: LeadRecord) -> LeadRecord:
        """Return a lead's record without the coarse file that is not there: a member is whole without it."""
        return record if all(map(self.have_file, record.coarse_files)) else replace(record, coarse=None)


def _delivered_before(config: Config, standing: Standing, objects: _Objects) -> Restored | None:
    """Return what the receipt of an earlier delivery is still good for, None when that is nothing.

    The member is finished when every object that the receipt names is there and its leads are all that are wanted.
    Otherwise (objects were lost since, or the run is to be longer) those leads count that are there as such.
    """
    receipt, member = standing.receipt, standing.member
    root = config.scratch.work(member)
    if receipt is None or receipt.leads is None or not _same_run(root, receipt.work):
        return None
    records = receipt.leads
    finished = not short_of(config, records) and all(objects.have_file(file) for file in receipt_files(receipt))
    if not finished:
        records = tuple(record for record in records if objects.have(record))
    if not records:
        return None
    _write_work_files(root, receipt.work)
    return Restored(member, records, finished=finished)


def _resume_point(config: Config, storage: Storage, work: WorkFolder, objects: _Objects) -> Restored | None:
    """Return the newest restart state at the destination before which every lead is there, fetched."""
    keys = config.objects
    listed = {info.key for info in storage.list(keys.restarts(work.member))}
    for lead in sorted(config.steps, reverse=True):
        if not {keys.restart(work.member, lead), keys.resume_point(work.member, lead)} <= listed:
            continue
        point = remote_record(storage, keys.resume_point(work.member, lead), partial(_parse_point, config, work, lead))
        if point is None:
            continue
        if not _same_run(work.root, point.work):  # of settings that this folder was cleared of
            continue
        records = point.leads
        if not all(objects.have(record) for record in records):
            LOG.warning("member %d: a lead before restart %s is missing or differs", work.member, lead_name(lead))
            continue
        try:
            storage.get_file(keys.restart(work.member, lead), work.restarts / restart_file(lead))
        except StorageError as error:
            LOG.warning("restart state not brought back: %s", error)
            continue
        _write_work_files(work.root, point.work)
        return Restored(work.member, records, restart=lead)
    return None


def _parse_point(config: Config, work: WorkFolder, lead: int, data: bytes, name: str) -> ResumePoint:
    """Return a resume point from its bytes; VerificationError unless it is that of this member and lead."""
    point = read_record(ResumePoint, data, name, schema=RESUME_SCHEMA, unsealed=OLD_RESUME_SCHEMA)
    check_leads_named(config, work.member, point.leads, name)
    expected = [hours for hours in config.leads if hours <= lead]
    if point.lead != lead or [record.lead for record in point.leads] != expected:
        raise VerificationError(f"{name}: of other leads than those up to {lead_name(lead)}")
    return point


def resume_point(lead: int, records: Iterable[LeadRecord], work: Mapping[str, str]) -> dict[str, Any]:
    """Return the content of a resume point: the leads delivered up to `lead` and the work folder's small files."""
    leads = [record_json(record) for record in records]
    return sealed({"schema": RESUME_SCHEMA, "lead": lead, "leads": leads, "work": dict(work)})


def _same_run(root: Path, files: Mapping[str, str]) -> bool:
    """Tell whether a work folder has no settings of its own, or the ones in `files`."""
    name = WORK_FILES[0]
    try:
        own = json_object((root / name).read_bytes(), name).get("digest")
    except (FileNotFoundError, VerificationError):
        return True  # the forecast takes one that it cannot read for none
    try:
        return name in files and json_object(files[name], name).get("digest") == own
    except VerificationError:
        return False


def _write_work_files(root: Path, files: Mapping[str, str]) -> None:
    """Write the small files of a work folder that has none of its own."""
    for name in WORK_FILES:
        if name in files and not (root / name).exists():
            write_bytes(root / name, files[name].encode())
