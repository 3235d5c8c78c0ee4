"""Delivery while the forecast runs: each lead goes to the destination as soon as it is published.

The forecast's thread only puts names into a queue. A few threads send, each holding at most one small file or a
piece of a large one. What is earlier in the forecast goes first, a restart state before every later lead, so that
another machine can go on from it as soon as may be. The forecast waits in two cases: scratch has no room for another
lead until one is delivered; or a restart state is an interval old and not at the destination yet, so that a preemption
would cost more than two.
"""

from __future__ import annotations

import logging
import shutil
import time
from concurrent.futures import Future
from pathlib import Path
from typing import Self

from aifs_ensemble.common.config import Config
from aifs_ensemble.common.errors import DiskFullError, StorageError, VerificationError, WorkflowError
from aifs_ensemble.common.files import crc32c_file, json_bytes, link
from aifs_ensemble.common.manifest import LeadRecord, MemberManifest, write_member_manifest
from aifs_ensemble.common.names import lead_name
from aifs_ensemble.common.observers import Observer
from aifs_ensemble.common.storage import Storage, open_destination
from aifs_ensemble.delivery.ledger import Ledger
from aifs_ensemble.delivery.member import MemberDelivery, Receipt
from aifs_ensemble.delivery.restore import resume_point
from aifs_ensemble.delivery.scratch import ScratchBudget, no_room, remove_leads
from aifs_ensemble.delivery.send_queue import SendQueue
from aifs_ensemble.forecast.work_folder import WorkFolder

LOG = logging.getLogger(__name__)

# After a failure, how long transfers under way may take to end: a preempted machine is gone after 30 s.
PATIENCE = 20.0
# With nothing of one's own left to deliver, how long other members may take to free scratch.
ROOM_PATIENCE = 60.0


class StreamingDelivery(Observer):
    """An observer that delivers one member while it is computed.

    An error of the delivery is raised from the next `lead_published`, or from `finished`: the member then
    stops with its state intact. `receipt` is set once the member is delivered.
    """

    def __init__(self, config: Config, member: int, storage: Storage | None = None):
        self.config = config
        self.member = member
        self.receipt: Receipt | None = None
        self._storage = storage or open_destination(config)
        self._budget = ScratchBudget.of(config)
        self._work = config.scratch.work(member)
        self._ledger = Ledger(config.leads, config.forecast.restarts_kept)
        self._queue = SendQueue(self._storage.settings.threads)
        self._opening: Future[MemberDelivery] | None = None
        self._closing = False

    def __enter__(self) -> Self:
        self._opening = self._queue.first(MemberDelivery, self.config, self.member, self._storage)
        return self

    @property
    def _delivery(self) -> MemberDelivery:
        """The member at the destination, waiting until the destination has been looked at."""
        assert self._opening is not None, "not entered"
        return self._opening.result()

    def started(self, member: int, leads: int, done: int) -> None:
        """Take up the leads that an earlier attempt published."""
        shutil.rmtree(self._work / "mirror", ignore_errors=True)  # of an attempt that was killed
        work = WorkFolder(self._work, self.config.cycle, member)
        for record in {**work.delivered.read(), **work.journal.read()}.values():
            if record.lead in self.config.leads:  # a longer run may have made more
                self._enqueue(record, old=True)

    def lead_published(self, record: LeadRecord, folder: Path) -> None:
        """Queue a lead; wait only for room on scratch for another like it, and for a restart state that is overdue."""
        self._raise_error()
        self._enqueue(record)
        self._make_room(record)
        before = record.lead - self.config.forecast.restart_hours
        self._queue.wait_for(lambda: not self._ledger.overdue(before))

    def restart_written(self, lead: int, path: Path) -> None:
        """Queue a restart state when these are mirrored; a link keeps it while the forecast tidies up."""
        if not self.config.delivery.mirror_restarts or lead == self.config.leads[-1]:
            return
        kept = self._work / "mirror" / path.name
        kept.parent.mkdir(parents=True, exist_ok=True)
        link(path, kept)
        with self._queue.changed:
            self._ledger.add_state(lead)
        self._queue.submit(lead, self._mirror, lead, kept)

    def finished(self, manifest: MemberManifest) -> None:
        """Wait until every lead is delivered, then leave receipt and manifest."""
        try:
            delivery = self._delivery
            if delivery.standing(manifest) is None:
                for record in manifest.leads:
                    self._enqueue(record)
            self._closing = True  # nobody will go on from a restart state of a finished member
            self._queue.wait()
            self._raise_error()
            path = self._work / "manifest.json"
            write_member_manifest(path, manifest)
            self.receipt = delivery.finish(manifest, path.read_bytes())
        except BaseException:
            self._storage.give_up()
            raise
        finally:
            self._queue.close(wait=True)
            shutil.rmtree(self._work / "mirror", ignore_errors=True)

    def failed(self, error: BaseException) -> None:
        """Let transfers under way end, and free what is delivered when the disk was full."""
        if self._opening is None:
            return
        self._queue.wait(PATIENCE)
        self._storage.give_up()  # Python waits for its threads before it ends
        self._queue.close(wait=False)
        shutil.rmtree(self._work / "mirror", ignore_errors=True)
        if isinstance(error, DiskFullError):
            freed = self._remove_delivered()
            LOG.info("member %d: %d bytes of delivered leads removed from scratch", self.member, freed)

    def _enqueue(self, record: LeadRecord, *, old: bool = False) -> None:
        with self._queue.changed:
            if not self._ledger.add(record):
                return
        self._queue.submit(record.lead, self._send_old if old else self._send, record)

    def _send_old(self, record: LeadRecord) -> None:
        """Send a lead of an earlier attempt; one that is damaged the forecast makes again."""
        try:
            self._send(record)
        except VerificationError as error:
            LOG.debug("member %d: not sent: %s", self.member, error)
            with self._queue.changed:
                self._ledger.forget(record)

    def _send(self, record: LeadRecord) -> None:
        self._delivery.send_lead(record)
        with self._queue.changed:
            self._ledger.deliver(record)
            self._queue.changed.notify_all()
        self._leave_points()

    def _mirror(self, lead: int, path: Path) -> None:
        """Send a restart state; the resume point follows once every lead up to it is delivered."""
        if self._closing:
            return
        delivery = self._delivery
        key = delivery.keys.restart(self.member, lead)
        there, crc32c = self._storage.stat(key), crc32c_file(path)
        if there is None or there.crc32c != crc32c:
            self._storage.put_file(path, key, crc32c=crc32c, replacing=there)
        path.unlink(missing_ok=True)
        with self._queue.changed:
            self._ledger.mirror(lead)
        self._leave_points()

    def _leave_points(self) -> None:
        """Leave the resume points that have become whole, and remove the restart states that they replace."""
        if self._closing:
            return
        delivery = self._delivery
        with self._queue.changed:
            ready = self._ledger.take_points()
        for lead, records in ready:
            point = resume_point(lead, records, delivery.carried())
            key = delivery.keys.resume_point(self.member, lead)
            self._storage.put_bytes(json_bytes(point), key, overwrite=True)
            LOG.info("member %d: resume point %s at %s", self.member, lead_name(lead), self._storage.url)
            with self._queue.changed:
                self._ledger.leave_point(lead)
                self._queue.changed.notify_all()
            self._remove_old_points(delivery)

    def _remove_old_points(self, delivery: MemberDelivery) -> None:
        """Remove the restart states that the resume points left replace, and whatever earlier attempts left."""
        listed = list(self._storage.list(delivery.keys.restarts(self.member)))
        with self._queue.changed:  # after the listing: a state that came since is in neither
            states = self._ledger.states
        names = (delivery.keys.restart, delivery.keys.resume_point)
        kept = {name(self.member, lead) for lead in states for name in names}
        for info in listed:
            if info.key not in kept:
                self._storage.delete(info.key, generation=info.generation)

    def _make_room(self, record: LeadRecord) -> None:
        """Remove delivered leads until another lead fits, waiting for deliveries while some are under way."""
        more = record.bytes
        alone_since: float | None = None
        while wanting := self._budget.short(more):
            if self._remove_delivered():
                continue
            with self._queue.changed:
                if self._ledger.sending:
                    alone_since = None
                else:
                    # other members on this machine may still free something
                    alone_since = alone_since or time.monotonic()
                    if time.monotonic() - alone_since > ROOM_PATIENCE:
                        raise no_room(self.config, wanting)
                self._queue.changed.wait(timeout=1.0)
            self._raise_error()

    def _remove_delivered(self) -> int:
        with self._queue.changed:
            records = self._ledger.take_removable()
        return remove_leads(self.config.scratch, self.member, records, indexes=False)

    def _raise_error(self) -> None:
        error = self._queue.error
        if error is None:
            return
        if isinstance(error, WorkflowError):
            raise error
        raise StorageError(f"{self._storage.url}: delivery of member {self.member} failed: {error!r}") from error
