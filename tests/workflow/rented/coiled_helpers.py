"""What tests of Coiled jobs without Snakemake share: a configuration, jobs, and records as others leave them."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
from aifs_ensemble.common.config import Config, merge, read_files
from aifs_ensemble.planning.machines import load_machines
from aifs_ensemble.workflow import coordinator
from aifs_ensemble.workflow.coiled import jobs
from aifs_ensemble.workflow.coiled.job_script import RemoteJob, parse_job
from aifs_ensemble.workflow.coiled.records import JobJournal, JobRecord

from workflow.rented.conftest import ROOT, SETTINGS

MACHINES = load_machines()


def settings(**changes: object) -> Config:
    raw = read_files(ROOT / "config" / "config.yaml", ROOT / "config" / "operational.yaml")
    merge(raw, SETTINGS)
    merge(raw, changes)
    return Config(raw)


def job(
    command: str = "true", machine: str = "gpu", spot: bool = False, members: str = "001", **resources
) -> RemoteJob:
    targets = " ".join(f"'forecast_member:member={m}'" for m in members.split(","))
    kind = "spot" if spot else "standard"
    asked = ", ".join(f'"{k}": {v}' for k, v in resources.items())
    script = (
        f'#!/bin/sh\n# properties = {{"resources": {{"machine": "{machine}", "provisioning": "{kind}"'
        f"{', ' + asked if asked else ''}}}}}\n{command} # --target-jobs\n: --target-jobs {targets} --attempt 1\n"
    )
    return parse_job(script.replace(" # --target-jobs", ""), "test")


def rewrite(journal: JobJournal, job_id: str, **changes: object) -> JobRecord:
    """Change what is on disk, whatever was there."""
    path = journal.path(job_id)
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return journal.read(job_id)


def forget_answer(journal: JobJournal, job_id: str) -> JobRecord:
    """Leave the record as a process killed between asking and being answered does."""
    requests = json.loads(journal.path(job_id).read_text())["requests"]
    return rewrite(journal, job_id, requests=[*requests[:-1], {**requests[-1], "cluster_id": None}])


@contextmanager
def other_coordinator() -> Iterator[str]:
    """Yield the name of a coordinator that lives as long as the context."""
    process = subprocess.Popen(["sleep", "600"])
    started = psutil.Process(process.pid).create_time()
    try:
        yield f"{coordinator.this_host()}-{process.pid}-{started:.0f}-0123abcd"
    finally:
        process.kill()
        process.wait()


def finish(journal: JobJournal, job_id: str, config: Config, seconds: float = 240) -> JobRecord:
    end = time.monotonic() + seconds
    while True:
        record = jobs.check(journal.read(job_id), config, MACHINES, journal)
        if record.state != "running":
            return record
        assert time.monotonic() < end, record
        time.sleep(0.05)
