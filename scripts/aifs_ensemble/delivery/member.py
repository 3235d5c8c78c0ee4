"""What every delivery of a member does, whether in one go or lead by lead: send, put together, receipt, manifest.

Order is what makes a kill harmless at any point: leads and indexes first, then blocks, then the receipt (which
names every object), then the manifest. Whatever is there already with the right checksum is not sent again.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from aifs_ensemble.common.config import Config
from aifs_ensemble.common.errors import VerificationError
from aifs_ensemble.common.files import crc32c_bytes, write_bytes
from aifs_ensemble.common.manifest import FileRecord, LeadRecord, MemberManifest, read_member_manifest, record_json
from aifs_ensemble.common.names import is_coarse_file, lead_name, member_name
from aifs_ensemble.common.storage import MissingError, open_destination
from aifs_ensemble.common.storage.base import ConflictError, ObjectInfo, Storage, info_json
from aifs_ensemble.delivery.blocks import Block, make_blocks, wants_blocks, wants_leads
from aifs_ensemble.delivery.member_index import member_index, wants_member_index
from aifs_ensemble.delivery.receipt import (
    RECEIPT_SCHEMA,
    MemberReceipt,
    coarse_files,
    coarse_objects,
    coarse_prefix,
    lead_prefix,
    member_objects,
    receipt_bytes,
    receipt_problem,
    remote_manifest,
    remote_receipt,
    vouched_files,
)
from aifs_ensemble.delivery.scratch import lead_file_paths, remove_leads
from aifs_ensemble.forecast.work_folder import WORK_FILES, WorkFolder

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Receipt:
    """What is at the destination for one member, and what this delivery had to do for it.

    `objects` are the leads, blocks and indexes; `sent_objects` and `sent_bytes` those of them that moved now.
    """

    member: int
    cycle: str
    destination: str
    layout: str
    content_digest: str
    objects: tuple[ObjectInfo, ...]
    sent_objects: int = 0
    sent_bytes: int = 0
    retries: int = 0
    seconds: float = 0.0
    freed_bytes: int = 0

    @property
    def bytes(self) -> int:
        """Size of all objects."""
        return sum(info.size for info in self.objects)

    def lasting(self) -> dict[str, Any]:
        """Return what is true of the destination whoever delivered it, JSON-compatible."""
        return {
            "schema": RECEIPT_SCHEMA,
            "member": self.member,
            "cycle": self.cycle,
            "destination": self.destination,
            "layout": self.layout,
            "content_digest": self.content_digest,
            "objects": [info_json(info) for info in self.objects],
        }


class MemberDelivery:
    """Brings the files of one member to the destination; `send_lead` may be called from several threads.

    Opening it lists what the destination has of the member. What a manifest there vouches for is never
    replaced by other content: sending such a file raises ConflictError.
    """

    def __init__(self, config: Config, member: int, storage: Storage | None = None):
        self.config = config
        self.member = member
        self.keys = config.objects
        self.scratch = config.scratch
        self.storage = storage or open_destination(config)
        self.began = time.perf_counter()
        self._before = self.storage.counts
        self._lock = threading.Lock()
        self._turns: dict[int, threading.Lock] = {}
        self._looked_at_coarse = False
        for left in (lead_prefix(config, member), self.keys.manifest(member), self.keys.receipt(member)):
            self.storage.tidy(left)
        self.there = member_objects(config, self.storage, member)
        self.remote = remote_manifest(config, self.storage, member)
        self._vouched = self._vouched_files()
        self._work = WorkFolder(self.scratch.work(member), config.cycle, member)

    def key(self, file: FileRecord) -> str:
        """Return the key of a published file."""
        return self.keys.published(file.name)

    def send_lead(self, record: LeadRecord) -> None:
        """Bring one lead and its index to the destination, and note in the work folder that they are there."""
        with self._lock:
            turn = self._turns.setdefault(record.lead, threading.Lock())
        with turn:  # a lead may be made again while its earlier version is on its way
            if problem := self._send_coarse(record):
                LOG.warning("%s; products will read the lead itself", problem)
            self.send_file(record.index)
            self.send_file(record.grib)
            self.note_delivered(record)

    def _send_coarse(self, record: LeadRecord) -> str:
        """Bring a lead's coarse files to the destination; return why it cannot be: the lead goes without."""
        try:
            for file in reversed(record.coarse_files):  # its index first
                self.send_file(file)
        except (VerificationError, ConflictError) as error:
            return str(error)
        return ""

    def send_file(self, file: FileRecord) -> ObjectInfo:
        """Bring one published file to the destination unless it is there; ConflictError as the class says."""
        key = self.key(file)
        there = self._present(file)
        if there is not None:
            return there
        other = self._replaceable(file)
        paths = lead_file_paths(self.scratch, self.member, file)
        if not paths:
            folder = self.storage.address(key).rpartition("/")[0]
            raise VerificationError(f"{file.name}: neither on scratch nor at {folder}")
        for path in paths[:-1]:
            with suppress(VerificationError):  # of another run: the next copy
                return self._found(self.storage.put_file(path, key, crc32c=file.crc32c, replacing=other))
        return self._found(self.storage.put_file(paths[-1], key, crc32c=file.crc32c, replacing=other))

    def note_delivered(self, record: LeadRecord) -> None:
        """Record in the work folder that a lead is verified at the destination."""
        with self._lock:
            if self._noted.get(record.lead) != record:
                self._work.root.mkdir(parents=True, exist_ok=True)
                self._work.delivered.append(record)
                self._noted[record.lead] = record

    @cached_property
    def _noted(self) -> dict[int, LeadRecord]:
        """What the work folder knows as delivered, read at the first lead: a forecast may have cleared it before."""
        return self._work.delivered.read()

    def finish(self, manifest: MemberManifest, content: bytes) -> Receipt:
        """Put blocks together, and leave the receipt and then the manifest (its bytes are `content`).

        The destination is listed once more before the receipt names its objects: what somebody removed since
        is sent again from scratch, or is a VerificationError that names it. A finished run of the same leads and more
        stays as it is.
        """
        self._look_again()
        self._refuse_other(manifest)
        stood = self.standing(manifest)
        objects = stood or self._objects(manifest)
        receipt = Receipt(
            member=self.member,
            cycle=self.config.cycle,
            destination=self.storage.url,
            layout=self.config.delivery.layout,
            content_digest=manifest.content_digest,
            objects=tuple(objects),
        )
        if longer := self._longer(manifest):
            address = self.storage.address(self.keys.manifest(self.member))
            LOG.info("%s: of a run of %d leads, left as it is", address, len(longer.leads))
            return self._finished(receipt, manifest)
        self._send_missing_coarse(manifest)
        self._send_member_index(manifest, made=stood is not None)
        self.storage.delete(self.keys.retention(self.member))  # everything is there again
        leads = [record_json(record) for record in manifest.leads]
        lasting = {**receipt.lasting(), "leads": leads, "work": self.carried()}
        self.storage.put_bytes(receipt_bytes(lasting), self.keys.receipt(self.member), overwrite=True)
        self._remove_parts(manifest)
        self.remove_restarts()
        self.storage.put_bytes(content, self.keys.manifest(self.member), overwrite=True)
        return self._finished(receipt, manifest)

    def _send_missing_coarse(self, manifest: MemberManifest) -> None:
        """Bring to the destination what it lacks of the coarse leads, as far as scratch has it."""
        made = [record for record in manifest.leads if record.coarse]
        with ThreadPoolExecutor(self.storage.settings.threads, thread_name_prefix="coarse") as pool:
            problems = [problem for problem in pool.map(self._send_coarse, made) if problem]
        if problems:
            more = f" and {len(problems) - 1} more" if len(problems) > 1 else ""
            LOG.warning("%s%s; products will read the leads themselves", problems[0], more)

    def _send_member_index(self, manifest: MemberManifest, *, made: bool) -> None:
        """Bring the indexes of all leads to the destination in one object; `made` says that it may be there."""
        key = self.keys.member_index(self.member)
        if not wants_member_index(self.config) or (made and self.storage.stat(key)):
            return
        files = [record.index for record in manifest.leads]
        try:
            with ThreadPoolExecutor(self.storage.settings.threads, thread_name_prefix="index") as pool:
                files += [record.coarse.index for record in manifest.leads if record.coarse]
                found = dict(zip(files, pool.map(self._index, files), strict=True))
            self.storage.put_bytes(member_index(manifest.leads, found.__getitem__), key, overwrite=True)
        except (VerificationError, MissingError) as error:  # of a coarse lead; who reads does without
            LOG.warning("%s: not made: %s", self.storage.address(key), error)

    def remove_restarts(self) -> None:
        """Remove the member's restart states at the destination: it needs them no more."""
        prefix = self.keys.restarts(self.member)
        self.storage.tidy(prefix)
        for info in list(self.storage.list(prefix)):
            self.storage.delete(info.key)

    def carried(self) -> dict[str, str]:
        """Return the small files of the work folder by name."""
        files = {name: self._work.root / name for name in WORK_FILES}
        return {name: path.read_text(errors="replace") for name, path in files.items() if path.is_file()}

    def _present(self, file: FileRecord) -> ObjectInfo | None:
        """Return the object of a file when it is at the destination with the right content."""
        if is_coarse_file(file.name):
            self._look_at_coarse()
        there = self.there.get(self.key(file))
        if there is None or there.size != file.size:
            return None
        checked = self._found(self.storage.with_crc32c(there))
        return checked if checked.crc32c == file.crc32c else None

    def _look_again(self) -> None:
        """List the member's objects anew; checksums that took reading stay known where nothing was written since."""
        listed = member_objects(self.config, self.storage, self.member)
        if self._looked_at_coarse:
            listed |= coarse_objects(self.config, self.storage, self.member)
        with self._lock:
            for key, info in listed.items():
                known = self.there.get(key)
                if known and (known.size, known.generation) == (info.size, info.generation):
                    listed[key] = known
            self.there = listed

    def _look_at_coarse(self) -> None:
        """List the member's coarse objects, when the first file of them is asked about."""
        with self._lock:
            if not self._looked_at_coarse:
                self.storage.tidy(coarse_prefix(self.config, self.member))
                self.there |= coarse_objects(self.config, self.storage, self.member)
                self._looked_at_coarse = True

    def _found(self, info: ObjectInfo) -> ObjectInfo:
        with self._lock:
            self.there[info.key] = info
        return info

    def _vouched_files(self) -> dict[str, FileRecord]:
        """Return the files that manifest and receipt at the destination vouch for, by name."""
        receipt = self._receipt
        if self.remote is None:
            # Snakemake removes the manifests of a group one of whose members failed: a whole receipt vouches as well
            whole = receipt is not None and receipt.content_digest is not None
            files = [*receipt.files, *coarse_files(receipt.leads)] if receipt and whole else []
            return {file.name: file for file in files}
        hours = self.config.delivery.block_hours
        files = vouched_files(self.remote, receipt) + coarse_files(self.remote.leads)
        files += [block.grib for block in make_blocks(self.config.cycle, self.member, self.remote.leads, hours)]
        return {file.name: file for file in files}

    def _replaceable(self, file: FileRecord) -> ObjectInfo | None:
        """Return the object of other content that `file` may replace; ConflictError when it may not."""
        other = self.there.get(self.key(file))
        if other is None:
            return None
        vouched = self._vouched.get(file.name)
        address = self.storage.address(other.key)
        if vouched and (vouched.size, vouched.crc32c) == (other.size, self.storage.with_crc32c(other).crc32c):
            raise ConflictError(
                f"{address}: belongs to a finished run of other content (crc32c {vouched.crc32c}), expected "
                f"{file.crc32c}; remove that run (gc --finished {self.member} --delete) or name another destination"
            )
        LOG.info("%s: left by an unfinished run or damaged, replaced", address)
        return other

    def standing(self, manifest: MemberManifest) -> list[ObjectInfo] | None:
        """Return the objects of an earlier, complete delivery of the same content (or of more leads), or None.

        ConflictError when there is a finished run of more leads that is not complete, or in another layout.
        """
        longer = self._longer(manifest)
        receipt = self._receipt
        wanted = ((longer or manifest).content_digest, self.config.delivery.layout)
        found: list[ObjectInfo | None] = [None]
        as_made = receipt and receipt_problem(self.config, longer or manifest, receipt) is None
        if receipt and as_made and (receipt.content_digest, receipt.layout) == wanted:
            with ThreadPoolExecutor(self.storage.settings.threads) as pool:
                found = list(pool.map(self._present, receipt.files))
        objects = [info for info in found if info is not None]
        if len(objects) == len(found):
            return objects
        if longer:
            raise ConflictError(
                f"{self.storage.address(self.keys.manifest(self.member))}: belongs to a finished run of "
                f"{len(longer.leads)} leads, damaged or in another layout, expected {len(manifest.leads)} leads; "
                f"remove that run (gc --finished {self.member} --delete), mend it or name another destination"
            )
        return None

    def _refuse_other(self, manifest: MemberManifest) -> None:
        """Raise ConflictError when a sound run of other content is there, be it in files of other names."""
        if self.remote is None:
            return
        there = {record.lead: record for record in self.remote.leads}
        other = next((record for record in manifest.leads if there.get(record.lead, record) != record), None)
        if other and all(self._present(file) for file in vouched_files(self.remote, self._receipt)):
            raise ConflictError(
                f"{self.storage.address(self.keys.manifest(self.member))}: belongs to a finished run of other content "
                f"({lead_name(other.lead)} differs); remove that run (gc --finished {self.member} --delete) or name "
                "another destination"
            )

    @cached_property
    def _receipt(self) -> MemberReceipt | None:
        """The receipt of an earlier delivery that tells the truth about its manifest, where there is one."""
        receipt = remote_receipt(self.config, self.storage, self.member)
        if receipt and self.remote and (problem := receipt_problem(self.config, self.remote, receipt)):
            LOG.warning("%s: %s, made anew", self.storage.address(self.keys.receipt(self.member)), problem)
            return None
        return receipt

    def _longer(self, manifest: MemberManifest) -> MemberManifest | None:
        """Return the manifest at the destination when it is of the same leads and more."""
        return self.remote if self.remote and set(self.remote.leads) > set(manifest.leads) else None

    def _objects(self, manifest: MemberManifest) -> list[ObjectInfo]:
        """Return the objects that the layout keeps, blocks made where they are missing."""
        objects = []
        if wants_leads(self.config):
            objects += [self.send_file(file) for record in manifest.leads for file in record.files]
        if wants_blocks(self.config):
            hours = self.config.delivery.block_hours
            blocks = make_blocks(self.config.cycle, self.member, manifest.leads, hours)
            with ThreadPoolExecutor(self.storage.settings.threads, thread_name_prefix="block") as pool:
                for pair in pool.map(self._send_block, blocks):
                    objects += pair
        return objects

    def _send_block(self, block: Block) -> tuple[ObjectInfo, ObjectInfo]:
        grib = self._present(block.grib)
        if grib is None:
            grib = self._found(
                self.storage.compose(
                    [self.key(record.grib) for record in block.leads],
                    self.key(block.grib),
                    crc32c=block.grib.crc32c,
                    replacing=self._replaceable(block.grib),
                )
            )
        index = block.index([self._index(record.index) for record in block.leads])
        info = self.storage.put_bytes(index, self.keys.published(block.index_name), overwrite=True)
        return grib, self._found(info)

    def _index(self, index: FileRecord) -> bytes:
        """Return the content of an index from scratch, or from the destination."""
        for path in lead_file_paths(self.scratch, self.member, index):
            if crc32c_bytes(data := path.read_bytes()) == index.crc32c:
                return data
        data = self.storage.get_bytes(self.key(index))
        if crc32c_bytes(data) != index.crc32c:
            raise VerificationError(f"{index.name}: differs from its record, expected {index.crc32c}")
        return data

    def _remove_parts(self, manifest: MemberManifest) -> None:
        """Remove the leads where only blocks are wanted, now that the receipt names these."""
        if wants_leads(self.config):
            return
        keys = [self.key(file) for record in manifest.leads for file in record.files]
        with ThreadPoolExecutor(self.storage.settings.threads, thread_name_prefix="remove") as pool:
            list(pool.map(self.storage.delete, [key for key in keys if key in self.there]))

    def _finished(self, receipt: Receipt, manifest: MemberManifest) -> Receipt:
        """Write the local receipt, free scratch when asked to, and say what moved."""
        freed = 0
        if not self.config.keep_scratch:
            for record in manifest.leads:  # by which `verify` knows why a local copy is gone
                self.note_delivered(record)
            freed = remove_leads(self.scratch, self.member, manifest.leads, indexes=True)
        now, before = self.storage.counts, self._before
        sent = now.bytes - before.bytes
        receipt = replace(
            receipt,
            sent_objects=now.objects - before.objects,
            sent_bytes=sent,
            retries=now.retries - before.retries,
            seconds=time.perf_counter() - self.began,
            freed_bytes=freed,
        )
        effort = ("sent_objects", "sent_bytes", "retries", "seconds", "freed_bytes")
        content = {**receipt.lasting(), **{name: getattr(receipt, name) for name in effort}}
        write_bytes(self.scratch.receipt(self.member), receipt_bytes(content))
        name = member_name(self.member)
        if receipt.sent_objects:
            LOG.info("%s: %d objects, %d bytes sent to %s", name, receipt.sent_objects, sent, receipt.destination)
        else:
            LOG.info("%s: everything is at %s already, no bytes moved", name, receipt.destination)
        return receipt


def deliver_member(
    config: Config, member: int, storage: Storage | None = None, on_progress: Callable[[int, int], None] | None = None
) -> Receipt:
    """Bring a finished member from scratch to the destination, verified, and write its receipt.

    `on_progress` is called with the leads delivered so far and their number, as they are.

    A second call moves no bytes. With ``keep_scratch: false`` the local leads go once all copies are
    verified. Raises InputError when the member has no manifest, VerificationError when a local file differs
    from it, ConflictError when other finished content is at the destination, StorageError.
    """
    path = config.scratch.manifest(member)
    manifest = read_member_manifest(path, config.cycle)
    delivery = MemberDelivery(config, member, storage)
    if delivery.standing(manifest) is None:
        _send_all(delivery, manifest.leads, on_progress or (lambda done, leads: None))
    return delivery.finish(manifest, path.read_bytes())


def _send_all(delivery: MemberDelivery, records: Sequence[LeadRecord], on_progress: Callable[[int, int], None]) -> None:
    """Send leads in parallel; the first error stops what has not begun."""
    with ThreadPoolExecutor(delivery.storage.settings.threads, thread_name_prefix="send") as pool:
        futures = [pool.submit(delivery.send_lead, record) for record in records]
        try:
            for done, future in enumerate(as_completed(futures), 1):
                future.result()
                on_progress(done, len(records))
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
