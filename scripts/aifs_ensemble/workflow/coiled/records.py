"""The coordinator's memory of the machines it asked for, on its own disk, one file a job.

Snakemake knows a job by the id that `submit` printed. A job may have been asked for in several regions,
so that id is ours, and its record says what became of each request. The record outlives the coordinator:
one that comes back finds the jobs still running and does not rent for them again. Submissions, status checks
and cancellations of a job are processes of their own that write its record at the same time.
"""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from aifs_ensemble.common.config import Config
from aifs_ensemble.common.errors import CloudError
from aifs_ensemble.common.files import read_json, write_json
from aifs_ensemble.common.locks import HeldError, held
from aifs_ensemble.forecast import settings
from aifs_ensemble.workflow import coordinator

FOLDER = Path(".snakemake") / "rented"
# not *.json, which are jobs
_LOCK_SECONDS = 120.0  # it is held for moments, to write a small file
_NO_MORE = "no-more-machines"


def work_of(config: Config) -> dict[str, Any]:
    """Return what tells a job from one of the same targets in another run: targets name the member and no more."""
    return {
        "destination": (config.destination or "").rstrip("/"),
        "cycle": config.cycle,
        "model": config.model.name,
        "checkpoint": config.checkpoint,
        "lead_hours": config.leads[-1],
        "settings": settings.settings_digest(config),
        "layout": [getattr(config.delivery, key) for key in ("layout", "block_hours")],
    }


@dataclass
class MachineRequest:
    """One request for a machine: where, which cluster answers to it, and how it ended.

    `lost`: the last look saw its cluster without the worker that the job runs on; `came`: when a look first saw its
    machine, though the job had not begun; `ended_at`: when its end was written down.
    """

    region: str
    spot: bool
    cluster_id: int | None = None
    requested: float = field(default_factory=time.time)
    ended: str | None = None
    lost: bool = False
    came: float = 0.0
    ended_at: float = 0.0


@dataclass
class JobRecord:
    """A job, and every request made for it; `state` is ``running``, ``success``, ``failed`` or ``cancelled``.

    A job that `follows` others made no request: what it was asked for is being made by those. `owner` is the
    coordinator that waits for it, `work` what `work_of` says of its configuration. Of the looks
    since the last answer: how many got none, the time they cover, and when the newest one was.
    While no region has a machine: the first request of the present round, since when, and when to ask again.
    """

    id: str
    title: str
    targets: tuple[str, ...]
    script: str
    resources: dict[str, Any]
    attempt: int
    regions: tuple[str, ...]
    requests: list[MachineRequest] = field(default_factory=list)
    state: str = "running"
    reason: str = ""
    unheard: int = 0
    unheard_seconds: float = 0.0
    unheard_at: float = 0.0
    follows: tuple[str, ...] = ()
    owner: str = ""
    work: dict[str, Any] = field(default_factory=dict)
    round: int = 0
    waiting_since: float = 0.0
    ask_at: float = 0.0

    @property
    def current(self) -> MachineRequest | None:
        """The newest request, unless it has ended."""
        return self.requests[-1] if self.requests and self.requests[-1].ended is None else None


class JobJournal:
    """Records of jobs in a folder."""

    def __init__(self, folder: Path = FOLDER):
        self.folder = folder

    def path(self, job_id: str) -> Path:
        if not re.fullmatch(r"[\w.-]+", job_id):
            raise CloudError(f"{job_id!r} is not the id of a job in {self.folder}")
        return self.folder / f"{job_id}.json"

    def new_id(self, title: str) -> str:
        """Return an unused id that starts with the job's first rule."""
        word = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")[:40].strip("-")
        return f"{word}-{uuid.uuid4().hex[:8]}"

    def write(self, record: JobRecord) -> None:
        """Write a record; what other processes wrote since it was read stays, and is in `record` afterwards."""
        with self._locked():
            if self.path(record.id).exists():
                _take_in(record, self.read(record.id))
            for request in record.requests:
                if request.ended is not None and not request.ended_at:
                    request.ended_at = time.time()
            write_json(self.path(record.id), asdict(record))

    def read(self, job_id: str) -> JobRecord:
        """Return a job's record; CloudError when there is none."""
        path = self.path(job_id)
        if not path.exists():
            raise CloudError(f"{path}: no such job; was it submitted from another folder?")
        content = read_json(path)
        content["requests"] = [MachineRequest(**_known(MachineRequest, request)) for request in content["requests"]]
        content["targets"], content["regions"] = tuple(content["targets"]), tuple(content["regions"])
        content["follows"] = tuple(content["follows"])
        return JobRecord(**_known(JobRecord, content))

    def all(self) -> list[JobRecord]:
        """Return every record, oldest first."""
        files = sorted(self.folder.glob("*.json"), key=lambda path: path.stat().st_mtime)
        return [self.read(path.stem) for path in files]

    def of_work(self, work: dict[str, Any]) -> list[JobRecord]:
        """Return the records of one ensemble's jobs, of all its runs from this folder."""
        return [record for record in self.all() if record.work == work]

    def running(self) -> list[JobRecord]:
        return [record for record in self.all() if record.state == "running"]

    def unfinished(self) -> list[JobRecord]:
        """Return the jobs that run or of which a machine may still run, as of one that was given up unheard."""
        return [
            record
            for record in self.all()
            if record.state == "running" or any(request.ended is None for request in record.requests)
        ]

    def take_up(self, targets: tuple[str, ...], work: dict[str, Any], owner: str) -> list[JobRecord]:
        """Return the jobs that may still make any of `targets` of this work, and give them to the coordinator `owner`.

        They were left by a coordinator that died, or given up unheard. Snakemake puts members into groups anew each
        time it starts, so several may make one new group. Raises CloudError when their coordinator still lives.
        """
        with self._locked():
            left = [
                record
                for record in self.unfinished()
                if record.state != "cancelled"
                and not record.follows
                and record.work == work
                and set(record.targets) & set(targets)
            ]
            for record in left:
                if record.owner != owner and coordinator.lives(record.owner):
                    other = coordinator.describe(record.owner)
                    raise CloudError(f"{record.title}: being made for another run ({other}): wait for it, or stop it")
            for record in left:
                record.owner, record.state, record.reason = owner, "running", ""
                record.unheard, record.unheard_seconds = 0, 0.0
                record.waiting_since, record.ask_at = 0.0, 0.0
                write_json(self.path(record.id), asdict(record))
        return left

    def to_stop(self, targets: tuple[str, ...], work: dict[str, Any]) -> list[JobRecord]:
        """Return the cancelled jobs of this work that make any of `targets` and of which a machine may still run."""
        return [
            record
            for record in self.unfinished()
            if record.state == "cancelled" and record.work == work and set(record.targets) & set(targets)
        ]

    def cancel(self, job_id: str) -> JobRecord:
        """Return a job's record; if it was running it is cancelled from now on, whatever is written after."""
        with self._locked():
            record = self.read(job_id)
            if record.state == "running":
                record.state = record.reason = "cancelled"
            write_json(self.path(job_id), asdict(record))
        return record

    def stop_renting(self) -> list[str]:
        """Let runs that have started rent no more machines, and return the coordinators among them that live here."""
        write_json(self.folder / _NO_MORE, time.time())
        return sorted({record.owner for record in self.all() if coordinator.lives(record.owner)})

    def renting_stopped(self, owner: str) -> bool:
        """Return whether `stop_renting` came after the start of a coordinator; a later run may rent."""
        path = self.folder / _NO_MORE
        return path.exists() and coordinator.started_before(owner, read_json(path))

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self.folder.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            try:
                stack.enter_context(held(self.folder / ".lock", _LOCK_SECONDS))
            except HeldError as error:
                raise CloudError(f"{self.folder}: {error} keeps the record of rented machines locked") from None
            yield


def _known(kind: type, content: dict[str, Any]) -> dict[str, Any]:
    """Return what this version knows of a record that another one may have written."""
    names = {each.name for each in fields(kind)}
    return {name: value for name, value in content.items() if name in names}


def _take_in(record: JobRecord, there: JobRecord) -> None:
    """Put into a record what only the newer copy on disk knows: how things ended, new requests, a new owner."""
    if there.state == "cancelled" or (record.state == "running" and there.state != "running"):
        record.state, record.reason = there.state, there.reason
    record.owner = there.owner
    for mine, other in zip(record.requests, there.requests, strict=False):
        mine.cluster_id = other.cluster_id if mine.cluster_id is None else mine.cluster_id
        mine.ended = other.ended if mine.ended is None else mine.ended
        mine.ended_at = mine.ended_at or other.ended_at
    record.requests.extend(there.requests[len(record.requests) :])
