"""Damage made good: what is damaged or vanished counts as unfinished again, so that a run makes just that.

On scratch damaged files are moved aside and the manifest goes. At the destination manifest and receipt go, and whatever
on this machine says that the member is delivered. The ensemble's manifest is written anew.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path

from aifs_ensemble.common.config import Config
from aifs_ensemble.common.errors import WorkflowError
from aifs_ensemble.common.manifest import FileRecord, check_file, check_leads, read_member_manifest, record_json
from aifs_ensemble.common.storage import ObjectInfo, Storage
from aifs_ensemble.delivery.ensemble import FAILED, write_ensemble_manifest
from aifs_ensemble.delivery.receipt import (
    RECEIPT_SCHEMA,
    MemberReceipt,
    forget_delivery,
    member_objects,
    receipt_bytes,
    remote_receipt,
)
from aifs_ensemble.delivery.scratch import lead_file_paths
from aifs_ensemble.delivery.standing import Standing
from aifs_ensemble.forecast.work_folder import WorkFolder


def mend_manifest(config: Config) -> bool:
    """Write the ensemble's manifest anew; False when it is now failed, and of no ensemble that a run has made.

    The copy on scratch by which Snakemake knows of a bucket's manifest follows it, so that a run makes what is failed.
    """
    copy = config.scratch.copy(config.objects.ensemble_manifest)
    status = write_ensemble_manifest(config, copy if copy.exists() else None)
    if status.state == FAILED:
        copy.unlink(missing_ok=True)
    return status.state != FAILED


def mend_scratch(config: Config, member: int, problems: Mapping[int, str]) -> None:
    """Move damaged files aside, forget leads whose work copies are damaged, and take back manifest and receipt."""
    scratch = config.scratch
    work = WorkFolder(scratch.work(member), config.cycle, member)
    forgotten = []
    for lead, record in work.journal.read().items():
        if lead in problems:
            for folder in (scratch.forecasts(), work.leads):
                for file in record.files:
                    if (folder / file.name).exists() and check_file(folder, file):
                        _move_aside(folder / file.name, work.root / "damaged")
            if check_leads(work.leads, [record]):
                forgotten.append(lead)
    work.journal.forget(forgotten)
    scratch.manifest(member).unlink(missing_ok=True)
    scratch.receipt(member).unlink(missing_ok=True)


def _move_aside(path: Path, folder: Path) -> None:
    """Move a file into a folder; of a file with two names, which a rename would leave as it is, drop this one."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / path.name
    if target.exists() and target.samefile(path):
        path.unlink()
    else:
        path.replace(target)


def mend_destination(config: Config, member: int, problems: Mapping[int, str], storage: Storage) -> None:
    """Take back the manifest at the destination, and forget that the damaged leads were delivered.

    The receipt stays for the sound leads, so that a machine with an empty scratch need not make these again.
    Damaged objects stay until the next delivery replaces them: nothing vouches for them any more.
    """
    keys = config.objects
    receipt = remote_receipt(config, storage, member)
    for key in (keys.success, keys.manifest(member)):
        storage.delete(key)
    _shorten_receipt(config, problems, receipt, member, storage)
    _forget_lost(config, member, storage, damaged=problems)
    forget_delivery(config, member)


def forget_vanished(config: Config, standing: Standing, storage: Storage) -> None:
    """Forget what scratch says of a delivery whose manifest is no more, so that a run delivers the member again."""
    receipt = standing.receipt
    objects = member_objects(config, storage, standing.member)
    whole = receipt and receipt.content_digest and all(_there(config, storage, objects, f) for f in receipt.files)
    if not whole:
        _forget_lost(config, standing.member, storage)
    forget_delivery(config, standing.member)


def _forget_lost(config: Config, member: int, storage: Storage, damaged: Collection[int] = ()) -> None:
    """Forget the leads that neither scratch nor the destination has as they were made, so that a run makes them.

    `damaged` leads count as such at the destination. While a lead is to be made, scratch has no manifest.
    """
    work = WorkFolder(config.scratch.work(member), config.cycle, member)
    objects = member_objects(config, storage, member)
    made = {**work.delivered.read(), **work.journal.read()}
    lost = {
        lead: record
        for lead, record in made.items()
        if not all(_here(config, member, file) for file in record.files)
        and (lead in damaged or not all(_there(config, storage, objects, file) for file in record.files))
    }
    work.delivered.forget([*lost, *damaged])
    try:
        manifest = read_member_manifest(config.scratch.manifest(member), config.cycle)
    except WorkflowError:
        return
    if any(lost.get(record.lead) == record or record.lead not in made for record in manifest.leads):
        config.scratch.manifest(member).unlink(missing_ok=True)


def _here(config: Config, member: int, file: FileRecord) -> bool:
    """Tell whether scratch has a file as its record says."""
    paths = lead_file_paths(config.scratch, member, file)
    return any(check_file(path.parent, file) is None for path in paths)


def _there(config: Config, storage: Storage, objects: Mapping[str, ObjectInfo], file: FileRecord) -> bool:
    """Tell whether the destination has a file as its record says."""
    info = objects.get(config.objects.published(file.name))
    return info is not None and info.size == file.size and storage.with_crc32c(info).crc32c == file.crc32c


def _shorten_receipt(
    config: Config, problems: Mapping[int, str], receipt: MemberReceipt | None, member: int, storage: Storage
) -> None:
    """Leave the receipt of a damaged member with its sound leads; with blocks alone it goes."""
    key = config.objects.receipt(member)
    if receipt is None or receipt.leads is None or receipt.layout == "blocks":  # a block gives back none of its leads
        storage.delete(key)
        return
    leads = [record for record in receipt.leads if record.lead not in problems]
    names = {file.name for record in receipt.leads if record not in leads for file in record.files}
    objects = [item for item in receipt.objects if item.file.name not in names]
    content = {
        "schema": RECEIPT_SCHEMA,
        **record_json(replace(receipt, content_digest=None, leads=tuple(leads), objects=tuple(objects))),
    }
    storage.put_bytes(receipt_bytes(content), key, overwrite=True)
