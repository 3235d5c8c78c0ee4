"""Stopping machines from another process than the one that waits for them: by a person, or when a run ends."""

from __future__ import annotations

import logging
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

from snakemake_interface_common.exceptions import WorkflowError

from snakemake_executor_plugin_coiled.records import Journal, describe
from snakemake_executor_plugin_coiled.service import UNANSWERED_SECONDS, Service

LOG = logging.getLogger(__name__)
# Between two looks at requests that were under way when their job was cancelled.
POLL_SECONDS = 10.0


def start_detached(job_ids: Sequence[str], journal: Journal) -> None:
    """Stop jobs in a process that outlives this one, and that neither the terminal's Ctrl-C nor its end reaches."""
    journal.folder.mkdir(parents=True, exist_ok=True)
    with open(journal.folder / "cancel.log", "ab") as log:
        subprocess.Popen(
            [sys.executable, "-m", __package__, "stop", "--folder", str(journal.folder), *job_ids],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def stop_jobs(job_ids: Sequence[str], journal: Journal) -> tuple[list[str], list[str]]:
    """Stop jobs, all of the folder when none is named; return what a person is told, and what could not be stopped.

    With all of them, runs under way rent no more; for a job that is named, a run that goes on may rent again.
    """
    # before looking for machines: what is asked for afterwards is refused
    told = [
        f"the run of {describe(owner)} rents no more machines; start it again to go on"
        for owner in ([] if job_ids else journal.stop_renting())
    ]
    jobs = list(job_ids) or [record.id for record in journal.unfinished()]
    problems = stop(jobs, journal)
    return [*told, f"{len(jobs) - len(problems)} jobs stopped"], problems


def stop(
    job_ids: Sequence[str], journal: Journal, wait_seconds: float = UNANSWERED_SECONDS + POLL_SECONDS
) -> list[str]:
    """Stop the machines of jobs and return what could not be stopped, one line each.

    Requests that are under way are waited for: the process that asks may have been killed.
    """
    end = time.monotonic() + wait_seconds
    services: dict[str | None, Service] = {}
    problems = {job_id: _stop(job_id, services, journal) for job_id in job_ids}
    while (under_way := [job_id for job_id, problem in problems.items() if problem and problem.under_way]) and (
        time.monotonic() < end
    ):
        LOG.info("%s: the request for a machine is under way, looked at again", ", ".join(under_way))
        time.sleep(POLL_SECONDS)
        problems |= {job_id: _stop(job_id, services, journal) for job_id in under_way}
    for service in services.values():
        service.close()
    return [f"{job_id}: not stopped ({problem.reason})" for job_id, problem in problems.items() if problem]


@dataclass(frozen=True)
class Unstopped:
    """Why a job's machines are not all stopped; `under_way`: the request for one is, and its machine may still come."""

    reason: str
    under_way: bool = False


def _stop(job_id: str, services: dict[str | None, Service], journal: Journal) -> Unstopped | None:
    """Stop the machines of a job and of those that it follows; return why not, or None."""
    problem = None
    try:
        for each in (job_id, *journal.read(job_id).follows):
            record = journal.read(each)
            if not record.unfinished:
                continue
            service = services.setdefault(record.workspace, Service(record.workspace))
            unwritten = _mark(journal, each, stopped=False)
            record = journal.read(each)  # a request that was written before the mark was there
            for request in record.requests:
                service.stop(record, request)
            if any(request.ended is None for request in record.requests):
                problem = Unstopped("the request for its machine is under way", under_way=True)
            else:
                unwritten = unwritten or _mark(journal, each, stopped=True)
            problem = problem or unwritten
    except Exception as error:
        return Unstopped(" ".join(str(error).split()))
    return problem


def _mark(journal: Journal, job_id: str, *, stopped: bool) -> Unstopped | None:
    try:
        journal.mark(job_id, stopped=stopped)
    except (OSError, WorkflowError) as error:  # a full disk keeps no machine running
        return Unstopped(f"not written down: {error}")
    return None
