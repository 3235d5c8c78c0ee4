"""What asks Coiled's service in these tests: coordinators and their jobs, without Snakemake."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

from snakemake_executor_plugin_coiled import ExecutorSettings, Hooks
from snakemake_executor_plugin_coiled.jobs import Job, Jobs
from snakemake_executor_plugin_coiled.machine import Machine
from snakemake_executor_plugin_coiled.records import JobRecord, Journal


class ThisWork(Hooks):
    """A run of one `name`; `verdicts` is what can be seen of its targets."""

    name = "a"
    verdicts: Callable[[], dict[str, str]] = staticmethod(dict)

    def work(self) -> str:
        return self.name

    def judge(self, targets) -> dict[str, str]:
        return {target: why for target, why in self.verdicts().items() if target in targets}


@dataclass
class Coordinator:
    """A coordinator and its jobs."""

    jobs: Jobs
    hooks: ThisWork
    journal: Journal

    def submit(self, command: str = "true", *, spot: bool = False, of: str = "1", **machine: object) -> Job:
        """Ask for a job that makes ``make:n=N`` for each N of `of`."""
        targets = [f"make:n={each}" for each in of.split(",")]
        asked = {"vm_type": "a2-ultragpu-1g", "image": "registry/gpu", **machine}
        job = self.jobs.new(targets, Machine(command, f"make {of}", spot=spot, **asked))
        self.jobs.begin(job)
        return job

    def look(self, job: Job) -> JobRecord:
        return self.jobs.look(job).record

    def finish(self, job: Job, seconds: float = 240) -> Job:
        end = time.monotonic() + seconds
        while self.jobs.look(job).state == "running":
            assert time.monotonic() < end, job
            time.sleep(0.05)
        return job


def coordinator(journal: Journal, work: str = "a", **settings: object) -> Coordinator:
    """Return a coordinator beside others in the journal's folder."""
    given = ExecutorSettings(**{"regions": ["us-central1"], **settings})
    hooks = ThisWork(given)
    hooks.name = work
    own = Journal(journal.folder)
    own.become_owner()
    return Coordinator(Jobs(given, hooks, own), hooks, own)


def rewrite(journal: Journal, job_id: str, **changes: object) -> JobRecord:
    """Change what is on disk, as another version or another process may have left it."""
    path = journal.path(job_id)
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return journal.read(job_id)


def forget_answer(journal: Journal, job_id: str) -> JobRecord:
    """Leave the record as a process killed between asking and being answered does."""
    requests = asdict(journal.read(job_id))["requests"]
    return rewrite(journal, job_id, requests=[*requests[:-1], {**requests[-1], "cluster_id": None}])
