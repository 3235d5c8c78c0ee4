"""Coarse leads made good: what scratch still has is put back; of the rest the manifest no longer speaks.

A coarse file is made from float32, so that only the forecast could make the same one again. No card computes for it:
products read the leads where a manifest names no coarse file.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from dataclasses import replace

from aifs_ensemble.common.config import Config
from aifs_ensemble.common.errors import VerificationError
from aifs_ensemble.common.files import json_bytes, link, write_bytes
from aifs_ensemble.common.manifest import FileRecord, check_coarse, check_file, read_member_manifest
from aifs_ensemble.common.records import json_object, sealed
from aifs_ensemble.common.storage import Storage
from aifs_ensemble.delivery.receipt import remote_manifest
from aifs_ensemble.delivery.scratch import lead_file_paths
from aifs_ensemble.forecast.work_folder import WorkFolder


def mend_coarse_on_scratch(config: Config, member: int, leads: Collection[int], untrue: Collection[int] = ()) -> None:
    """Link coarse files anew from the work folder; leave those that are not whole there out of journal and manifest.

    `untrue` are leads whose coarse files are as they were made, and wrong: they are left out, too.
    """
    scratch = config.scratch
    work = WorkFolder(scratch.work(member), config.cycle, member)
    journal = work.journal.read()
    gone = []
    for lead in leads:
        record = journal.get(lead)
        whole = record and record.coarse and not check_coarse(work.leads.joinpath, [record])
        if record and whole and lead not in untrue:
            for file in record.coarse_files:
                scratch.published(file.name).unlink(missing_ok=True)
                scratch.published(file.name).parent.mkdir(parents=True, exist_ok=True)
                link(work.leads / file.name, scratch.published(file.name))
            continue
        gone.append(lead)
        if record and record.coarse:
            work.journal.append(replace(record, coarse=None))
    path = scratch.manifest(member)
    for record in read_member_manifest(path, config.cycle).leads:
        for file in record.coarse_files if record.lead in gone else ():
            for copy in lead_file_paths(scratch, member, file):
                copy.unlink(missing_ok=True)
    if gone:
        write_bytes(path, _without(path.read_bytes(), str(path), gone))


def mend_coarse_at_destination(
    config: Config, member: int, leads: Collection[int], storage: Storage, untrue: Collection[int] = ()
) -> None:
    """Send again what scratch has of these leads' coarse files; leave the others out of receipt and manifest.

    `untrue` are leads whose coarse files are as they were made, and wrong: they are left out, too.
    """
    manifest = remote_manifest(config, storage, member)
    assert manifest is not None, "a member without manifest has no coarse files"
    gone = {
        record.lead
        for record in manifest.leads
        if record.lead in leads
        and (record.lead in untrue or not all(_sent(config, member, file, storage) for file in record.coarse_files))
    }
    if not gone:
        return
    for key in (config.objects.receipt(member), config.objects.manifest(member)):
        storage.put_bytes(_without(storage.get_bytes(key), storage.address(key), gone), key, overwrite=True)
    for record in manifest.leads:
        if record.lead in gone:
            for file in record.coarse_files:
                storage.delete(config.objects.published(file.name))


def _sent(config: Config, member: int, file: FileRecord, storage: Storage) -> bool:
    """Bring a file from scratch to the destination; False if neither has it as recorded."""
    key = config.objects.published(file.name)
    there = storage.stat(key)
    if there and there.size == file.size and storage.with_crc32c(there).crc32c == file.crc32c:
        return True
    for path in lead_file_paths(config.scratch, member, file):
        if check_file(path.parent, file) is None:
            with suppress(VerificationError):  # it went, or changed, meanwhile
                storage.put_file(path, key, crc32c=file.crc32c, replacing=there)
                return True
    return False


def _without(data: bytes, name: str, leads: Collection[int]) -> bytes:
    """Return a manifest or a receipt without the coarse files of some leads, all else as it is, sealed."""
    content = json_object(data, name)
    content["leads"] = [
        {key: value for key, value in record.items() if key != "coarse" or record["lead"] not in leads}
        for record in content["leads"]
    ]
    return json_bytes(sealed(content))
