"""Delivery while the forecast runs: each lead goes to the destination as soon as it is published.

The forecast's thread only puts names into a queue. A few threads send, each holding at most one small file or a
piece of a large one. What is earlier in the forecast goes first, a restart state before every later lead, so that
another machine can go on from it as soon as may be. The forecast waits in two cases: scratch has no room for another
lead until one is delivered; or a restart state is an interval old and not at the destination yet, so that a preemption
would cost more than two.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import shutil
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from aifs_ensemble.common.config import Config
from aifs_ensemble.common.errors import DiskFullError, StorageError, VerificationError, WorkflowError
from aifs_ensemble.common.files import crc32c_file, json_bytes, link
from aifs_ensemble.common.manifest import LeadRecord, MemberManifest, write_member_manifest
from aifs_ensemble.common.names import lead_name
from aifs_ensemble.common.observers import Observer
from aifs_ensemble.common.storage import Storage, open_destination
from aifs_ensemble.delivery.member import MemberDelivery, Receipt
from aifs_ensemble.delivery.restore import resume_point
from aifs_ensemble.delivery.scratch import ScratchBudget, no_room, remove_leads
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
        self._pool = ThreadPoolExecutor(self._storage.settings.threads, thread_name_prefix="deliver")
        self._opening: Future[MemberDelivery] = self._pool.submit(MemberDelivery, config, member, self._storage)
        self._changed = threading.Condition()
        self._waiting: dict[int, LeadRecord] = {}
        self._delivered: dict[int, LeadRecord] = {}
        self._removed: set[int] = set()
        self._mirrored: set[int] = set()
        self._points: list[int] = []
        self._restarts: set[int] = set()
        self._under_way: set[int] = set()
        self._queue: list[tuple[int, int, Callable[[], None]]] = []
        self._number = itertools.count()
        self._tasks = 0
        self._closing = False
        self._error: BaseException | None = None

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
        with self._changed:
            self._changed.wait_for(lambda: self._error is not None or not self._overdue(record.lead))

    def restart_written(self, lead: int, path: Path) -> None:
        """Queue a restart state when these are mirrored; a link keeps it while the forecast tidies up."""
        if not self.config["delivery"]["mirror_restarts"] or lead == self.config.leads[-1]:
            return
        kept = self._work / "mirror" / path.name
        kept.parent.mkdir(parents=True, exist_ok=True)
        link(path, kept)
        with self._changed:
            self._restarts.add(lead)
            self._under_way.add(lead)
        self._submit(lead, self._mirror, lead, kept)

    def finished(self, manifest: MemberManifest) -> None:
        """Wait until every lead is delivered, then leave receipt and manifest."""
        try:
            delivery = self._opening.result()
            if delivery.standing(manifest) is None:
                for record in manifest.leads:
                    self._enqueue(record)
            with self._changed:
                self._closing = True  # nobody will go on from a restart state of a finished member
                self._changed.wait_for(lambda: self._error is not None or self._tasks == 0)
            self._raise_error()
            path = self._work / "manifest.json"
            write_member_manifest(path, manifest)
            self.receipt = delivery.finish(manifest, path.read_bytes())
        except BaseException:
            self._storage.give_up()
            raise
        finally:
            self._pool.shutdown(wait=True, cancel_futures=True)
            shutil.rmtree(self._work / "mirror", ignore_errors=True)

    def failed(self, error: BaseException) -> None:
        """Let transfers under way end, and free what is delivered when the disk was full."""
        with self._changed:
            self._changed.wait_for(lambda: self._error is not None or self._tasks == 0, PATIENCE)
        self._storage.give_up()  # Python waits for its threads before it ends
        self._pool.shutdown(wait=False, cancel_futures=True)
        shutil.rmtree(self._work / "mirror", ignore_errors=True)
        if isinstance(error, DiskFullError):
            freed = self._remove_delivered()
            LOG.info("member %d: %d bytes of delivered leads removed from scratch", self.member, freed)

    def _enqueue(self, record: LeadRecord, *, old: bool = False) -> None:
        with self._changed:
            if record in (self._waiting.get(record.lead), self._delivered.get(record.lead)):
                return
            self._waiting[record.lead] = record
            self._removed.discard(record.lead)
        self._submit(record.lead, self._send_old if old else self._send, record)

    def _send_old(self, record: LeadRecord) -> None:
        """Send a lead of an earlier attempt; one that is damaged the forecast makes again."""
        try:
            self._send(record)
        except VerificationError as error:
            LOG.debug("member %d: not sent: %s", self.member, error)
            with self._changed:
                if self._waiting.get(record.lead) == record:
                    del self._waiting[record.lead]
                self._changed.notify_all()

    def _submit(self, hours: int, task: Callable[..., None], *arguments: Any) -> None:
        """Queue a task of the lead or restart state at `hours`; earlier hours go first."""

        def run() -> None:
            try:
                if self._error is None:
                    task(*arguments)
            except BaseException as error:
                with self._changed:
                    self._error = self._error or error
            finally:
                with self._changed:
                    self._tasks -= 1
                    self._changed.notify_all()

        with self._changed:
            self._tasks += 1
            heapq.heappush(self._queue, (hours, next(self._number), run))
        self._pool.submit(self._run_first)

    def _run_first(self) -> None:
        with self._changed:
            _, _, run = heapq.heappop(self._queue)
        run()

    def _send(self, record: LeadRecord) -> None:
        self._opening.result().send_lead(record)
        with self._changed:
            if self._waiting.get(record.lead) == record:
                del self._waiting[record.lead]
            self._delivered[record.lead] = record
            self._changed.notify_all()
        self._leave_points()

    def _mirror(self, lead: int, path: Path) -> None:
        """Send a restart state; the resume point follows once every lead up to it is delivered."""
        if self._closing:
            return
        delivery = self._opening.result()
        key = delivery.keys.restart(self.member, lead)
        there, crc32c = self._storage.stat(key), crc32c_file(path)
        if there is None or there.crc32c != crc32c:
            self._storage.put_file(path, key, crc32c=crc32c, replacing=there)
        path.unlink(missing_ok=True)
        with self._changed:
            self._mirrored.add(lead)
        self._leave_points()

    def _leave_points(self) -> None:
        """Leave the resume points that have become whole, and remove the restart states that they replace."""
        if self._closing:
            return
        delivery = self._opening.result()
        with self._changed:
            ready = []
            for lead in sorted(self._mirrored):
                before = [self._delivered.get(hours) for hours in self.config.leads if hours <= lead]
                if None not in before:
                    ready.append((lead, [record for record in before if record is not None]))
            self._mirrored -= {lead for lead, _ in ready}
        for lead, records in ready:
            point = resume_point(lead, records, delivery.carried())
            key = delivery.keys.resume_point(self.member, lead)
            self._storage.put_bytes(json_bytes(point), key, overwrite=True)
            LOG.info("member %d: resume point %s at %s", self.member, lead_name(lead), self._storage.url)
            with self._changed:
                self._under_way = {other for other in self._under_way if other > lead}
                self._changed.notify_all()
            self._remove_old_points(delivery, lead)

    def _remove_old_points(self, delivery: MemberDelivery, lead: int) -> None:
        """Remove what the resume point after `lead` replaces, and whatever earlier attempts left."""
        most = self.config["forecast"]["restarts_kept"]
        with self._changed:
            self._points = sorted([*self._points, lead])[-most:]
            if len(self._points) == most:  # until then an earlier one that is still on its way has its place
                self._restarts = {own for own in self._restarts if own >= self._points[0]}
            names = (delivery.keys.restart, delivery.keys.resume_point)
            kept = {name(self.member, own) for own in self._restarts for name in names}
        folder = delivery.keys.restart(self.member, 0).rpartition("/")[0]
        for info in list(self._storage.list(f"{folder}/")):
            if info.key not in kept:
                self._storage.delete(info.key, generation=info.generation)

    def _overdue(self, lead: int) -> bool:
        """Tell whether a restart state of an interval before `lead` waits for nothing but its own transfers."""
        known = self._waiting.keys() | self._delivered.keys()
        before = lead - self.config["forecast"]["restart_hours"]
        return any(
            state <= before and known.issuperset(hours for hours in self.config.leads if hours <= state)
            for state in self._under_way
        )

    def _make_room(self, record: LeadRecord) -> None:
        """Remove delivered leads until another lead fits, waiting for deliveries while some are under way."""
        more = record.grib.size + record.index.size
        alone_since: float | None = None
        while wanting := self._budget.short(more):
            if self._remove_delivered():
                continue
            with self._changed:
                if self._waiting:
                    alone_since = None
                else:
                    # other members on this machine may still free something
                    alone_since = alone_since or time.monotonic()
                    if time.monotonic() - alone_since > ROOM_PATIENCE:
                        raise no_room(self.config, wanting)
                self._changed.wait(timeout=1.0)
            self._raise_error()

    def _remove_delivered(self) -> int:
        with self._changed:
            gone = self._removed | self._waiting.keys()  # of the latter an earlier version was delivered
            records = [record for lead, record in self._delivered.items() if lead not in gone]
            self._removed.update(record.lead for record in records)
        return remove_leads(self.config.scratch, self.member, records, indexes=False)

    def _raise_error(self) -> None:
        error = self._error
        if error is None:
            return
        if isinstance(error, WorkflowError):
            raise error
        raise StorageError(f"{self._storage.url}: delivery of member {self.member} failed: {error!r}") from error
