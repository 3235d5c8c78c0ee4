"""What each member is doing, readable at the destination while the ensemble runs.

The forecast job leaves one small JSON per member under ``{cycle}/status/``; nothing waits for it and its loss
harms nothing. A member counts as delivered only by its manifest at the destination.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import platform
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

from aifs_ensemble.common.config import Config
from aifs_ensemble.common.errors import StorageError
from aifs_ensemble.common.files import json_bytes
from aifs_ensemble.common.manifest import LeadRecord, MemberManifest
from aifs_ensemble.common.names import file_name, member_name
from aifs_ensemble.common.observers import Observer
from aifs_ensemble.common.storage import Storage, open_destination
from aifs_ensemble.delivery.kept_object import KeptObject
from aifs_ensemble.delivery.standing import whole_manifest
from aifs_ensemble.forecast.work_folder import INTERRUPTED, WorkFolder

LOG = logging.getLogger(__name__)
SCHEMA = "aifs-ensemble/member-status/1"
STARTING, RUNNING, COMPUTED, FAILED = "starting", "running", "computed", "failed"
WAITING, DELIVERED = "waiting", "delivered"
# A member that has said nothing for so long is shown with the time since: its machine may be gone.
SILENT_SECONDS = 300.0


@dataclass(frozen=True)
class MemberStatus:
    """One member's state: `step` of `steps` done, `lead` the last lead in hours; times in seconds since 1970."""

    member: int
    state: str
    step: int = 0
    steps: int = 0
    lead: int = 0
    step_seconds: float = 0.0
    started: float = 0.0
    updated: float = 0.0
    host: str = ""
    job: str = ""
    error: str = ""

    def text(self, now: float) -> str:
        """Return the state in words, e.g. ``step 57 of 132``."""
        words = f"step {self.step} of {self.steps}" if self.state == RUNNING else self.state
        silent = now - self.updated
        if self.state in (STARTING, RUNNING) and silent > SILENT_SECONDS:
            return f"{words}, silent for {silent / 60:.0f} min"
        return f"{words}: {self.error}" if self.error else words


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
            job=os.environ.get("AIFS_ENSEMBLE_JOB", ""),
        )
        key, name = config.keys_.status(member), f"status of member {member}"
        self._kept = KeptObject(config, name, key, self._content, storage, interval=interval)

    def __enter__(self) -> Self:
        self._kept.start()
        return self

    def started(self, member: int, leads: int, done: int) -> None:
        self._change(state=RUNNING, step=done, steps=leads)

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


def parse_status(content: Any, member: int) -> MemberStatus:
    """Return a member's status from its JSON; one that makes no sense reads as waiting, with the reason."""
    if not isinstance(content, Mapping) or content.get("schema") != SCHEMA:
        return MemberStatus(member, WAITING, error="status file of another kind")
    known = {key: value for key, value in content.items() if key in MemberStatus.__dataclass_fields__}
    return MemberStatus(**known)


def read_statuses(config: Config, storage: Storage | None = None) -> list[MemberStatus]:
    """Return the status of every member of the configuration, from two listings and the files that are there."""
    storage = storage or open_destination(config)
    keys = config.keys_
    delivered = _names(storage, keys.manifest(0).rpartition("/")[0])
    written = _names(storage, keys.status(0).rpartition("/")[0])
    return [_read(storage, config, member, delivered, written) for member in config.members]


def _names(storage: Storage, folder: str) -> set[str]:
    return {file_name(info.key) for info in storage.list(f"{folder}/")}


def _read(storage: Storage, config: Config, member: int, delivered: set[str], written: set[str]) -> MemberStatus:
    name = f"{member_name(member)}.json"
    status = MemberStatus(member, WAITING, steps=len(config.leads))
    if name in written:
        try:
            status = parse_status(json.loads(storage.get_bytes(config.keys_.status(member))), member)
        except (StorageError, ValueError) as error:
            status = replace(status, error=" ".join(str(error).split()))
    if name in delivered:
        status = replace(status, state=DELIVERED, step=status.steps, error="")
    return status


def summary(statuses: Iterable[MemberStatus]) -> str:
    """Return one line, e.g. ``50 members: 12 delivered, 7 running, 31 waiting``."""
    counts: dict[str, int] = {}
    for status in statuses:
        counts[status.state] = counts.get(status.state, 0) + 1
    order = (DELIVERED, COMPUTED, RUNNING, STARTING, FAILED, WAITING)
    parts = [f"{counts[state]} {state}" for state in order if state in counts]
    return f"{sum(counts.values())} members: {', '.join(parts)}"


def with_scratch(config: Config, statuses: Sequence[MemberStatus]) -> list[MemberStatus]:
    """Return the statuses with those that the destination knows nothing of filled in from scratch."""
    return [_on_scratch(config, s) if s.state == WAITING and not s.updated else s for s in statuses]


def _on_scratch(config: Config, status: MemberStatus) -> MemberStatus:
    member, leads = status.member, set(config.leads)
    path = config.scratch.manifest(member)
    if whole_manifest(path, leads) is not None:
        return _at(replace(status, state=COMPUTED, step=len(leads)), path)
    root = config.scratch.work(member)
    if not root.is_dir():
        return status
    work = WorkFolder(root, config.cycle, member)
    done = len(leads & set(work.journal.read()))
    if _held(root / "lock"):
        journal = root / "journal.jsonl"
        return _at(replace(status, state=RUNNING if done else STARTING, step=done), journal if done else root / "lock")
    attempts = work.attempts()
    outcome = str(attempts[-1].get("outcome", "")) if attempts else ""
    if outcome.partition(":")[0] not in ("", "finished", *INTERRUPTED):
        return _at(replace(status, state=FAILED, step=done, error=outcome), root / "attempts.jsonl")
    left = f"{done} of {len(leads)} leads made, nobody works on it" if done else ""
    return replace(status, step=done, error=left)


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
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
