"""The coordinator's memory of the machines it asked for, on its own disk, one file a job.

The record is written before a machine is asked for, and outlives the coordinator: one that comes back finds what
still runs and does not rent for it again. A record has one writer, the coordinator that owns it. Whoever else stops a
job leaves a mark beside its record.
"""

from __future__ import annotations

import fcntl
import json
import os
import platform
import re
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from snakemake_interface_common.exceptions import WorkflowError

FOLDER = Path(".snakemake") / "rented"
_NO_MORE = "no-more-machines"


@dataclass
class MachineRequest:
    """One request for a machine: where, which cluster answers to it, and how it ended.

    `lost`: the last look saw its cluster without the worker that the job runs on; `came`: when a look first saw its
    machine, though the job had not begun; `ended_at`: when its end was written down. Times are those of `time.time`.
    """

    region: str
    spot: bool
    vm_type: str = ""
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
    coordinator that waits for it, `work` what the hooks say of the run. Of the looks since the last answer: how many
    got none, the time they cover, and when the newest one was. While no region has a machine: the first request of
    the present round, since when, and when to ask again.
    """

    id: str
    title: str
    targets: tuple[str, ...]
    work: Any = None
    owner: str = ""
    workspace: str | None = None
    requests: list[MachineRequest] = field(default_factory=list)
    state: str = "running"
    reason: str = ""
    follows: tuple[str, ...] = ()
    unheard: int = 0
    unheard_seconds: float = 0.0
    unheard_at: float = 0.0
    round: int = 0
    waiting_since: float = 0.0
    ask_at: float = 0.0

    @property
    def current(self) -> MachineRequest | None:
        """The newest request, unless it has ended."""
        return self.requests[-1] if self.requests and self.requests[-1].ended is None else None

    @property
    def unfinished(self) -> bool:
        """Whether the job runs, or a machine may still run for it, as for one that was given up unheard."""
        return self.state == "running" or any(request.ended is None for request in self.requests)

    def cluster_name(self, request: MachineRequest) -> str:
        """Return the name that a request's cluster has."""
        return f"{self.id}-{self.requests.index(request) + 1}"


class Journal:
    """Records of jobs in a folder; `owner` is the coordinator that this process is, if it is one."""

    def __init__(self, folder: Path = FOLDER):
        self.folder = folder.absolute()
        self.owner = ""
        self.started = time.time()
        self._held: Any = None

    def become_owner(self) -> None:
        """Be a coordinator from now on: a lock, which goes with the process, tells others that it lives."""
        self.folder.mkdir(parents=True, exist_ok=True)
        host = re.sub(r"[^\w]", "-", platform.node())[:40]
        self.owner = f"{host}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._held = open(self.folder / f"{self.owner}.lock", "w")  # noqa: SIM115 - as long as the process
        fcntl.flock(self._held, fcntl.LOCK_EX)

    def no_longer_owner(self) -> None:
        """Give the lock back."""
        if self._held is not None:
            (self.folder / f"{self.owner}.lock").unlink(missing_ok=True)
            self._held.close()
            self._held = None

    def lives(self, owner: str) -> bool:
        """Return whether a coordinator is a process that runs."""
        try:
            with open(self.folder / f"{owner}.lock") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except OSError:
            return True
        return False

    def path(self, job_id: str) -> Path:
        """Return the file of a job's record; WorkflowError for what is no id."""
        if not re.fullmatch(r"[\w.-]+", job_id):
            raise WorkflowError(f"{job_id!r} is not the id of a job in {self.folder}")
        return self.folder / f"{job_id}.json"

    def new_id(self, title: str) -> str:
        """Return an unused id that starts with the job's first rule."""
        word = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")[:40].strip("-")
        return f"{word}-{uuid.uuid4().hex[:8]}"

    def write(self, record: JobRecord) -> None:
        """Write a record, whole or not at all; OSError where the disk takes none."""
        for request in record.requests:
            if request.ended is not None and not request.ended_at:
                request.ended_at = time.time()
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.path(record.id)
        part = path.with_suffix(".part")
        part.write_text(json.dumps(asdict(record), indent=1))
        part.replace(path)

    def read(self, job_id: str) -> JobRecord:
        """Return a job's record, with what a mark beside it says; WorkflowError when there is none."""
        path = self.path(job_id)
        try:
            content = json.loads(path.read_text())
            content["requests"] = [MachineRequest(**_known(MachineRequest, each)) for each in content["requests"]]
            record = JobRecord(**_known(JobRecord, content))
        except FileNotFoundError:
            raise WorkflowError(f"{path}: no such job; was it asked for from another folder?") from None
        except (ValueError, TypeError, KeyError) as error:
            raise WorkflowError(f"{path}: not the record of a job ({error})") from None
        record.targets, record.follows = tuple(record.targets), tuple(record.follows)
        self._take_mark(record)
        return record

    def all(self) -> list[JobRecord]:
        """Return every record, oldest first."""
        files = sorted(self.folder.glob("*-*.json"), key=lambda path: path.stat().st_mtime)
        return [self.read(path.stem) for path in files]

    def of_work(self, work: Any) -> list[JobRecord]:
        """Return the records of one work's jobs, of all its runs from this folder."""
        return [record for record in self.all() if record.work == work]

    def unfinished(self) -> list[JobRecord]:
        """Return the jobs that run or for which a machine may still run."""
        return [record for record in self.all() if record.unfinished]

    def take_up(self, targets: Sequence[str], work: Any) -> list[JobRecord]:
        """Return the jobs that may still make any of `targets` of this work, and make them this coordinator's.

        They were left by a coordinator that died, or given up unheard. Snakemake puts jobs into groups anew each
        time it starts, so several may make one new group. WorkflowError when their coordinator still lives.
        """
        with self._locked():
            left = [
                record
                for record in self.unfinished()
                if record.state != "cancelled"
                and any(request.ended is None for request in record.requests)
                and record.work == work
                and set(record.targets) & set(targets)
            ]
            for record in left:
                if record.owner != self.owner and self.lives(record.owner):
                    other = describe(record.owner)
                    raise WorkflowError(
                        f"{record.title}: being made for another run ({other}): wait for it, or stop it"
                    )
            for record in left:
                record.owner, record.state, record.reason, record.unheard = self.owner, "running", "", 0
                self.write(record)
        return left

    def to_stop(self, targets: Sequence[str], work: Any) -> list[JobRecord]:
        """Return the cancelled jobs of this work that make any of `targets` and of which a machine may still run."""
        return [
            record
            for record in self.unfinished()
            if record.state == "cancelled" and record.work == work and set(record.targets) & set(targets)
        ]

    # -- marks, of whoever else stops jobs

    def mark(self, job_id: str, *, stopped: bool) -> None:
        """Say that a job is cancelled, and whether its machines have `stopped`."""
        self._mark(job_id).write_text(repr(time.time()) if stopped else "")

    def marked(self, job_id: str) -> bool:
        """Return whether a job was cancelled by a mark."""
        return self._mark(job_id).exists()

    def _mark(self, job_id: str) -> Path:
        return self.path(job_id).with_suffix(".cancelled")

    def _take_mark(self, record: JobRecord) -> None:
        if not self.marked(record.id):
            return
        if record.state == "running":
            record.state = record.reason = "cancelled"
        if when := self._mark(record.id).read_text():
            for request in record.requests:
                if request.ended is None:
                    request.ended, request.ended_at = "cancelled", float(when)

    def stop_renting(self) -> list[str]:
        """Let runs that have started rent no more machines, and return the coordinators among them that live here."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / _NO_MORE).write_text(repr(time.time()))
        return sorted(path.stem for path in self.folder.glob("*.lock") if path.stem and self.lives(path.stem))

    def renting_stopped(self) -> bool:
        """Return whether `stop_renting` came after the start of this process; a later run may rent."""
        try:
            return float((self.folder / _NO_MORE).read_text()) > self.started
        except (FileNotFoundError, ValueError):
            return False

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / ".lock", "w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def describe(owner: str) -> str:
    """Return what a person calls a coordinator."""
    found = re.fullmatch(r"(.+)-(\d+)-\w{8}", owner)
    return f"process {found[2]} on {found[1]}" if found else owner


def _known(kind: type, content: dict[str, Any]) -> dict[str, Any]:
    """Return what this version knows of a record that another one may have written."""
    names = {each.name for each in fields(kind)}
    return {name: value for name, value in content.items() if name in names}
