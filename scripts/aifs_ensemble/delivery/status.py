"""What each member is doing, readable at the destination while the ensemble runs.

The forecast job leaves one small JSON per member under ``{cycle}/status/``; nothing waits for it and its loss
harms nothing. Whether a member is done, its standing says.
"""

from __future__ import annotations

import fcntl
import os
import platform
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Self

from aifs_ensemble.common import environment
from aifs_ensemble.common.acceleration import Acceleration, why_not_accelerated
from aifs_ensemble.common.config import Config
from aifs_ensemble.common.errors import StorageError, VerificationError
from aifs_ensemble.common.files import json_bytes
from aifs_ensemble.common.locks import flock, marker_of
from aifs_ensemble.common.manifest import LeadRecord, MemberManifest
from aifs_ensemble.common.names import lead_name, parse_block_file, parse_lead_file
from aifs_ensemble.common.observers import Observer
from aifs_ensemble.common.records import Count, Finite, json_object, read_record
from aifs_ensemble.common.storage import Storage
from aifs_ensemble.common.text import foreign
from aifs_ensemble.delivery.kept_object import KeptObject
from aifs_ensemble.delivery.standing import (
    COMPUTED,
    DAMAGED,
    DELIVERED,
    NOT_AS_ASKED,
    OTHER_SETTINGS,
    SHORT,
    Destination,
    Standing,
    on_scratch,
)
from aifs_ensemble.forecast.work_folder import INTERRUPTED, WorkFolder

SCHEMA = "aifs-ensemble/member-status/1"
# What a job says of itself; beside these, the words of a member's standing.
STARTING, RUNNING, FAILED, WAITING = "starting", "running", "failed", "waiting"
# A member that has said nothing for so long is shown with the time since: its machine may be gone.
SILENT_SECONDS = 300.0


@dataclass(frozen=True)
class MemberStatus:
    """One member's state: `step` of `steps` done, `lead` the last lead in hours; times in seconds since 1970.

    `note` is what is not as planned, and yet no error.
    """

    member: Count
    state: str
    step: Count = 0
    steps: Count = 0
    lead: Count = 0
    step_seconds: Finite = 0.0
    started: Finite = 0.0
    updated: Finite = 0.0
    host: str = ""
    job: str = ""
    error: str = ""
    note: str = ""

    def text(self, now: float) -> str:
        """Return the state in words, e.g. ``step 57 of 132``."""
        words = f"step {self.step} of {self.steps}" if self.state == RUNNING else self.state
        words = f"{words} ({self.note})" if self.note else words
        silent = now - self.updated
        if self.state in (STARTING, RUNNING) and silent > SILENT_SECONDS:
            return f"{words}, silent for {silent / 60:.0f} min"
        return f"{words}: {_brief(self.error)}" if self.error else words


def _brief(reason: str) -> str:
    """Return a reason with what it begins with, a lead, manifest or receipt, in short, e.g. ``h024 missing``."""
    address, _, what = reason.partition(": ")
    folder, _, name = address.rpartition("/")
    lead = parse_lead_file(f"{name.removesuffix('.index')}.grib2" if name.endswith(".index") else name)
    if lead:
        short = lead_name(lead.lead) + (" index" if name.endswith(".index") else "")
    elif hours := parse_block_file(name):
        short = f"{lead_name(hours[0])}-{hours[1]:03d}"
    elif (kind := folder.rpartition("/")[2]) in ("manifests", "receipts"):
        short = kind.removesuffix("s")
    else:
        return reason
    return f"{short} {what}" if what.startswith("missing") else f"{short}: {what}"


class StatusObserver(Observer):
    """Keeps a member's status at the destination, at most once in `interval` seconds, from a thread of its own.

    The forecast's thread only replaces a value.
    """

    def __init__(self, config: Config, member: int, storage: Storage | None = None, interval: float = 15.0):
        now = time.time()
        self._status = MemberStatus(
            member,
            STARTING,
            steps=len(config.leads),
            started=now,
            updated=now,
            host=platform.node(),
            job=os.environ.get(environment.JOB, ""),
        )
        key, name = config.objects.status(member), f"status of member {member}"
        self._kept = KeptObject(config, name, key, self._content, storage, interval=interval)

    def __enter__(self) -> Self:
        self._kept.start()
        return self

    def started(self, member: int, leads: int, done: int) -> None:
        self._change(state=RUNNING, step=done, steps=leads)

    def prepared(self, acceleration: Acceleration) -> None:
        self._change(note=_note(acceleration.to_json()))

    def step(self, lead: int, seconds: float) -> None:
        # a running mean over about ten steps
        mean = self._status.step_seconds
        self._change(lead=lead, step_seconds=seconds if not mean else 0.9 * mean + 0.1 * seconds)

    def lead_published(self, record: LeadRecord, folder: Path) -> None:
        self._change(step=self._status.step + 1)

    def finished(self, manifest: MemberManifest) -> None:
        self._change(state=COMPUTED, step=len(manifest.leads))
        self._kept.end()

    def failed(self, error: BaseException) -> None:
        """Say why, also of a member that ended before, as when the delivery fails after the last step."""
        self._change(state=FAILED, error=f"{type(error).__name__}: {' '.join(str(error).split())}"[:500])
        self._kept.end()

    def _change(self, **changes: Any) -> None:
        self._status = replace(self._status, updated=time.time(), **changes)

    def _content(self) -> bytes:
        return json_bytes({"schema": SCHEMA, **asdict(self._status)})


def parse_status(data: bytes, member: int) -> MemberStatus:
    """Return a member's status from its bytes; one that makes no sense reads as waiting, with the reason.

    Its words are the job's, and are shown on terminals: what is not printable is left out.
    """
    try:
        content = json_object(data, "status file")
        if content.get("schema") != SCHEMA:
            return MemberStatus(member, WAITING, error="status file of another kind")
        found = read_record(MemberStatus, data, "status file")
    except VerificationError as error:
        return MemberStatus(member, WAITING, error=str(error))
    if found.member != member:
        return MemberStatus(member, WAITING, error="status file of another member")
    host, job, state = (foreign(text) for text in (found.host, found.job, found.state))
    return replace(found, host=host, job=job, state=state, error=foreign(found.error, 500))


def read_statuses(config: Config, destination: Destination | None = None) -> list[MemberStatus]:
    """Return the status of every member of the configuration, from one listing and the small files that are there."""
    destination = destination or Destination(config)
    with ThreadPoolExecutor(destination.storage.settings.threads) as pool:
        return list(pool.map(partial(_read, config, destination), config.members))


def _read(config: Config, destination: Destination, member: int) -> MemberStatus:
    """Return what the destination says of a member: its standing, unless a job has said something since."""
    keys = config.objects
    status = MemberStatus(member, WAITING, steps=len(config.leads))
    try:
        content = destination.content(keys.status(member))
        status = status if content is None else parse_status(content, member)
    except StorageError as error:
        status = replace(status, error=" ".join(str(error).split()))
    standing = destination.standing(member)
    if standing.done:
        return replace(status, state=DELIVERED, step=status.steps, error="", note=_noted(standing))
    finished = destination.listed.get(keys.manifest(member))
    began_again = finished and finished.updated and status.updated > finished.updated.timestamp()
    at_work = status.state in (STARTING, RUNNING, FAILED) and began_again
    if standing.state not in NOT_AS_ASKED or (at_work and standing.state != OTHER_SETTINGS):
        return status
    return _standing_as(config, status, standing)


def _note(acceleration: Mapping[str, Any]) -> str:
    """Return that a member is not accelerated although it should be, empty where all is as planned."""
    reason = why_not_accelerated(acceleration)
    return f"accelerated: no, because {reason}" if reason else ""


def _noted(standing: Standing) -> str:
    if standing.manifest is None:
        return ""
    lost = f"{len(standing.coarse)} coarse leads lost or damaged" if standing.coarse else ""
    return "; ".join(filter(None, (_note(standing.manifest.acceleration), lost, standing.removed_text)))


def _standing_as(config: Config, status: MemberStatus, standing: Standing) -> MemberStatus:
    """Return a status with the words of a standing that is not as asked for."""
    step, steps = len(standing.leads & set(config.leads)), len(config.leads)
    return replace(status, state=standing.state, step=step, steps=steps, error=standing.reason)


def summary(statuses: Iterable[MemberStatus]) -> str:
    """Return one line, e.g. ``50 members: 12 delivered, 7 running, 31 waiting``."""
    counts: dict[str, int] = {}
    for status in statuses:
        counts[status.state] = counts.get(status.state, 0) + 1
    order = (DELIVERED, COMPUTED, RUNNING, STARTING, *NOT_AS_ASKED, FAILED, WAITING)
    parts = [f"{counts[state]} {state}" for state in order if state in counts]
    return f"{sum(counts.values())} members: {', '.join(parts)}"


def with_scratch(config: Config, statuses: Sequence[MemberStatus]) -> list[MemberStatus]:
    """Return the statuses with what scratch says of members that the destination does not know, or not as asked for."""
    return [
        _on_scratch(config, s) if (s.state == WAITING and not s.updated) or s.state in (SHORT, DAMAGED) else s
        for s in statuses
    ]


def _on_scratch(config: Config, status: MemberStatus) -> MemberStatus:
    """Return the status of a member by the lock of its work folder, its standing on scratch, or its last attempt."""
    standing = on_scratch(config, status.member)
    root = config.scratch.work(status.member)
    work = WorkFolder(root, config.cycle, status.member)
    done = len(set(config.leads) & set(work.journal.read())) if root.is_dir() else 0
    if _held(root / "lock"):
        journal = root / "journal.jsonl"
        return _at(
            replace(status, state=RUNNING if done else STARTING, step=done, error=""),
            journal if done else root / "lock",
        )
    manifest = config.scratch.manifest(status.member)
    if standing.done and status.state != DAMAGED:
        done_status = replace(status, state=COMPUTED, step=len(config.leads), error="", note=_noted(standing))
        return _at(done_status, manifest)
    attempts = work.attempts() if root.is_dir() else []
    outcome = str(attempts[-1].get("outcome", "")) if attempts else ""
    if outcome.partition(":")[0] not in ("", "finished", *INTERRUPTED):
        return _at(replace(status, state=FAILED, step=done, error=outcome), root / "attempts.jsonl")
    if status.state != WAITING:
        return status
    if standing.state in NOT_AS_ASKED:
        return _at(_standing_as(config, status, standing), manifest)
    return replace(status, step=done, error=f"{standing.reason}, nobody works on it" if done else "")


def _at(status: MemberStatus, path: Path) -> MemberStatus:
    """Return a status with this machine and the time at which `path` was written."""
    try:
        updated = path.stat().st_mtime
    except OSError:
        updated = 0.0
    return replace(status, host=platform.node(), updated=updated)


def _held(lock: Path) -> bool:
    """Tell whether a forecast holds the lock of a work folder; whoever wants it waits longer than this takes."""
    try:
        with open(lock) as file:
            if not flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB):
                return marker_of(lock).exists()
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
