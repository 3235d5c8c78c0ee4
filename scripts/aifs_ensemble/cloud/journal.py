"""The coordinator's memory of the machines it asked for, on its own disk, one file a job.

Snakemake knows a job by the id that `submit` printed. A job may have been asked for in several regions,
so that id is ours, and its record says what became of each request. The record outlives the coordinator:
one that comes back finds the jobs still running and does not rent for them again.
"""

from __future__ import annotations

import re
import time
import uuid
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from aifs_ensemble.errors import CloudError
from aifs_ensemble.files import read_json, write_json

FOLDER = Path(".snakemake") / "rented"


@dataclass
class Request:
    """One request for a machine: where, which cluster answers to it, and how it ended."""

    region: str
    spot: bool
    cluster_id: int | None = None
    requested: float = field(default_factory=time.time)
    ended: str | None = None


@dataclass
class JobRecord:
    """A job, and every request made for it; `state` is ``running``, ``success``, ``failed`` or ``cancelled``.

    A job that `follows` others made no request: what it was asked for is being made by those. `owner` is the
    coordinator that waits for it.
    """

    id: str
    title: str
    targets: tuple[str, ...]
    script: str
    resources: dict[str, Any]
    attempt: int
    regions: tuple[str, ...]
    requests: list[Request] = field(default_factory=list)
    state: str = "running"
    reason: str = ""
    unreachable_since: float | None = None
    follows: tuple[str, ...] = ()
    owner: str = ""

    @property
    def current(self) -> Request | None:
        """The newest request, unless it has ended."""
        return self.requests[-1] if self.requests and self.requests[-1].ended is None else None


class Journal:
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
        write_json(self.path(record.id), asdict(record))

    def read(self, job_id: str) -> JobRecord:
        """Return a job's record; CloudError when there is none."""
        path = self.path(job_id)
        if not path.exists():
            raise CloudError(f"{path}: no such job; was it submitted from another folder?")
        content = read_json(path)
        content["requests"] = [Request(**request) for request in content["requests"]]
        content["targets"], content["regions"] = tuple(content["targets"]), tuple(content["regions"])
        content["follows"] = tuple(content["follows"])
        return JobRecord(**content)

    def all(self) -> list[JobRecord]:
        """Return every record, oldest first."""
        files = sorted(self.folder.glob("*.json"), key=lambda path: path.stat().st_mtime)
        return [self.read(path.stem) for path in files]

    def running(self) -> list[JobRecord]:
        return [record for record in self.all() if record.state == "running"]

    def making(self, targets: tuple[str, ...]) -> list[JobRecord]:
        """Return the running jobs that make any of `targets`, as those left by a coordinator that died.

        Snakemake puts members into groups anew each time it starts, so several may make one new group.
        """
        return [record for record in self.running() if not record.follows and set(record.targets) & set(targets)]
