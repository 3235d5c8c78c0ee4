"""Jobs on Coiled: asked for, watched and stopped through its Python API.

Every job of Snakemake (or group of jobs) becomes one Coiled batch job with one task on one machine of its
own, which Coiled stops when the task ends. What a status check sees of it is judged by `judge`, apart
from any network.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from aifs_ensemble.common.config import Config
from aifs_ensemble.common.errors import CloudError, ConfigError, WorkflowError
from aifs_ensemble.planning.machines import Machines
from aifs_ensemble.workflow import coordinator
from aifs_ensemble.workflow.coiled.client import coiled_cloud, deadline, find_cluster
from aifs_ensemble.workflow.coiled.job_script import RemoteJob
from aifs_ensemble.workflow.coiled.records import JobJournal, JobRecord, MachineRequest, work_of
from aifs_ensemble.workflow.coiled.request import (
    ASK_AGAIN_SECONDS,
    UNANSWERED_SECONDS,
    cluster_name,
    request_machine,
    stop_machine,
)
from aifs_ensemble.workflow.coiled.stock_outs import is_stock_out

LOG = logging.getLogger(__name__)
# Cluster states from which no task will go on.
_OVER = {"stopping", "stopped", "error"}
# A control plane that does not answer says nothing about the machine: this long, listening, the job counts as running.
UNREACHABLE_SECONDS = 1800.0
# The client repeats a failed request for minutes, and Snakemake looks at one job after the other.
LOOK_SECONDS = 60.0
# States of an instance that is there, and how long it may take to boot and to fetch its image.
_THERE = {"started", "ready"}
STARTING_SECONDS = 1800.0
# Between two looks at requests that were under way when their job was cancelled.
POLL_SECONDS = 10.0
# Between two looks further apart nobody was listening: the coordinator's machine slept.
LISTENING_SECONDS = 600.0


def submit(
    job: RemoteJob,
    config: Config,
    machines: Machines,
    regions: Sequence[str] | Callable[[], Sequence[str]],
    journal: JobJournal,
) -> str:
    """Ask for a machine for the job and return the job's id; jobs still running for it are taken up again.

    `regions` in which to ask may be a function, called where a machine is needed: it may have to ask the bucket.

    Where those make only a part, the new job ends as failed when they end, and Snakemake asks for the rest:
    nothing is computed on two machines at once.
    """
    job_id = journal.new_id(job.title)
    record = JobRecord(job_id, job.title, job.targets, job.script, dict(job.resources), job.attempt, ())
    record.owner, record.work = coordinator.current(), work_of(config)
    record.follows = tuple(left.id for left in journal.take_up(job.targets, record.work, record.owner))
    if record.follows:
        LOG.info("%s: still being made by %s, taken up again", job.title, ", ".join(record.follows))
        journal.write(record)
        return job_id
    record.regions = tuple(regions() if callable(regions) else regions)
    journal.write(record)
    try:
        with coiled_cloud(config) as cloud:
            _stop_left(record, cloud, journal)
            request_machine(record, config, machines, cloud, journal)
    except BaseException as error:
        if isinstance(error, Exception) and record.current is not None:
            LOG.warning("%s: no answer (%s), a machine may have been rented: looked for again", job_id, error)
            return job_id
        record.state, record.reason = "failed", " ".join(str(error).split())
        raise
    finally:
        journal.write(record)
    return job_id


def _stop_left(record: JobRecord, cloud: Any, journal: JobJournal) -> None:
    """Stop machines of the same work that were to be stopped and may still run; CloudError where one cannot be."""
    for left in journal.to_stop(record.targets, record.work):
        try:
            for request in left.requests:
                stop_machine(left, request, cloud)
        except Exception as error:
            why = " ".join(str(error).split())
            raise CloudError(f"{left.title}: a machine of an earlier run could not be stopped ({why})") from error
        journal.write(left)
        if any(request.ended is None for request in left.requests):
            raise CloudError(
                f"{left.title}: a machine that was asked for may still come, and is stopped then: try again"
            )


def judge(jobs: Sequence[Mapping[str, Any]], cluster: Mapping[str, Any]) -> tuple[str, str]:
    """Return ``running``, ``ended`` (exit code 0), ``failed`` or ``no-machine`` and why.

    Parameters
    ----------
    jobs : what ``coiled.batch.status`` returns: jobs with ``cluster_state`` and ``tasks``
    cluster : the cluster's ``current_state``: ``state`` and ``reason``
    """
    tasks = [task for job in jobs for task in job["tasks"]]
    state, why = str(cluster.get("state") or ""), str(cluster.get("reason") or "")
    bad = [task for task in tasks if task["exit_code"] or task["state"] == "error"]
    if bad:
        return "failed", f"exit code {bad[0]['exit_code']}" if bad[0]["exit_code"] else f"task error {why}".strip()
    if tasks and all(task["state"] == "done" and task["exit_code"] == 0 for task in tasks):
        return "ended", ""
    if state in _OVER:
        if not _started(jobs) and is_stock_out(why):
            return "no-machine", why
        return "failed", f"machine {state} before the job ended{': ' if why else ''}{why}"
    return "running", ""


def worker_lost(jobs: Sequence[Mapping[str, Any]], workers: Sequence[Mapping[str, Any]]) -> str | None:
    """Return how a job that runs on a worker lost it, or None while one lives or the first is still to come.

    A preempted worker leaves its cluster as it was: the scheduler's machine is not preemptible.

    Parameters
    ----------
    jobs : as for `judge`
    workers : of the cluster, each with its ``current_state`` and that of its ``instance``, if there is one
    """
    states = [[each["current_state"] for each in (worker, worker["instance"]) if each] for worker in workers]
    if any(all(state["state"] not in _OVER for state in worker) for worker in states):
        return None
    if not workers and not _started(jobs):
        return None
    why = {str(state.get("reason") or "") for worker in states for state in worker if state["state"] in _OVER} - {""}
    return ": ".join(["preemptible machine gone before the job ended", *sorted(why)])


def check(record: JobRecord, config: Config, machines: Machines, journal: JobJournal) -> JobRecord:
    """Look at a job, act on what is seen (try the next region, stop what is over) and return its record.

    What counts as success beyond the exit code is the caller's to verify.
    """
    if record.state != "running":
        return record
    if record.follows:
        return _check_followed(record, config, machines, journal)
    if not record.requests:
        record.state, record.reason = "failed", "submission was interrupted"
        journal.write(record)
        return record
    if record.current is None and 0 < record.ask_at - time.time() <= ASK_AGAIN_SECONDS:
        return record
    try:
        with ExitStack() as opened:
            with deadline(LOOK_SECONDS):
                cloud = opened.enter_context(coiled_cloud(config))
                if record.current is not None:
                    _look(record, record.current, config, cloud)
            if record.state == "running" and record.current is None:
                # outside the deadline: an interrupted request may have rented a machine that nobody hears of
                request_machine(record, config, machines, cloud, journal)
    except CloudError as error:
        record.state, record.reason = "failed", str(error)
    except ConfigError:
        raise
    except Exception as error:
        _unreachable(record, error)
    else:
        record.unheard, record.unheard_seconds, record.unheard_at = 0, 0.0, 0.0
    journal.write(record)
    return record


def _check_followed(record: JobRecord, config: Config, machines: Machines, journal: JobJournal) -> JobRecord:
    """Judge a job by those that make what it was asked for.

    Of a member, its manifest will tell; of anything else, only the success of every job and of the whole.
    """
    followed = [check(journal.read(job_id), config, machines, journal) for job_id in record.follows]
    if any(job.state == "running" for job in followed):
        return record
    made = {target for job in followed if job.state == "success" for target in job.targets}
    failed = "; ".join(f"{job.id}: {job.reason}" for job in followed if job.state != "success")
    missing = sorted(set(record.targets) - made)
    if not missing or RemoteJob(record.script, record.targets).members:
        record.state, record.reason = "success", failed
    else:
        record.state, record.reason = "failed", failed or f"not made by the jobs followed: {', '.join(missing)}"
    journal.write(record)
    return record


def _look(record: JobRecord, request: MachineRequest, config: Config, cloud: Any) -> None:
    """Note in the record what became of the request; one that ended while the job still runs is to be made again."""
    import coiled.batch

    if request.cluster_id is None:
        request.cluster_id = find_cluster(cluster_name(record, request), cloud)
    if request.cluster_id is None:
        if time.time() - request.requested > UNANSWERED_SECONDS:
            record.state = "failed"
            record.reason = request.ended = "submission was interrupted"
        return
    # in this order: of a machine that has stopped, nothing more is heard, while one may stop after its tasks were asked
    details = cloud.cluster_details(request.cluster_id)
    cluster = details["current_state"]
    jobs = coiled.batch.status(cluster=request.cluster_id, workspace=cloud.default_workspace)
    verdict, why = judge(jobs, cluster)
    if verdict == "running" and not _begun(jobs):
        if not request.came and _machine_came(details, request):
            request.came = time.time()
        verdict, why = _not_begun(request, config)
    lost = worker_lost(jobs, details["workers"]) if verdict == "running" and request.spot else None
    if lost and request.lost:
        verdict, why = ("failed" if _started(jobs) or not is_stock_out(lost) else "no-machine"), lost
    elif lost:
        LOG.warning("%s: %s, looked at once more", record.id, lost)
    request.lost = bool(lost)
    if verdict == "running":
        return
    if str(cluster.get("state")) not in ("stopping", "stopped"):
        cloud.delete_cluster(request.cluster_id, reason=f"aifs-ensemble: {verdict} {why}".strip())
    request.ended = why or verdict
    if verdict == "no-machine":
        record.reason = why
    else:
        record.state, record.reason = ("success" if verdict == "ended" else "failed"), why


def _started(jobs: Sequence[Mapping[str, Any]]) -> bool:
    return any(task.get("start") for job in jobs for task in job["tasks"])


def _begun(jobs: Sequence[Mapping[str, Any]]) -> bool:
    return any(task["state"] != "pending" for job in jobs for task in job["tasks"]) or _started(jobs)


def _machine_came(details: Mapping[str, Any], request: MachineRequest) -> bool:
    """Tell whether the machine that is to run the task is there, if only to boot and to fetch its image."""
    processes = details["workers"] if request.spot else [details["scheduler"]]
    instances = [process["instance"] for process in processes if process and process["instance"]]
    return any(instance["current_state"]["state"] in _THERE for instance in instances)


def _not_begun(request: MachineRequest, config: Config) -> tuple[str, str]:
    """Return what is to be made of a request whose job has not begun."""
    now, minutes = time.time(), config.cloud.idle_minutes
    if request.came and now - request.came > STARTING_SECONDS:
        return "failed", f"its machine came, and the job did not start within {(now - request.came) / 60:.0f} minutes"
    if not request.came and now - request.requested > 60 * minutes:
        return "no-machine", f"no machine within {minutes:g} minutes"
    return "running", ""


def unheard(job_id: str, error: Exception, journal: JobJournal) -> str:
    """Return the state of a job whose check failed on this side: running, for as long as for a silent service."""
    try:
        record = journal.read(job_id)
    except CloudError as missing:
        LOG.error("%s", missing)  # noqa: TRY400 - one line
        return "failed"
    except Exception as unreadable:
        LOG.warning("%s: %s", job_id, " ".join(str(unreadable).split()))
        return "running"
    _unreachable(record, error)
    try:
        journal.write(record)
    except (OSError, WorkflowError) as unwritten:
        LOG.warning("%s: not written down (%s)", job_id, unwritten)
        return "running"
    return "running" if record.state == "success" else record.state


def _unreachable(record: JobRecord, error: Exception) -> None:
    now = time.time()
    gap = now - record.unheard_at if record.unheard else 0.0
    record.unheard_seconds += gap if 0 <= gap <= LISTENING_SECONDS else LOOK_SECONDS
    record.unheard, record.unheard_at = record.unheard + 1, now
    silence = f"{record.unheard} looks in {record.unheard_seconds:.0f} s"
    LOG.warning("%s: cannot be looked at (%s), %s so far", record.id, " ".join(str(error).split()), silence)
    if record.unheard_seconds > UNREACHABLE_SECONDS:
        record.state, record.reason = "failed", f"could not be looked at: {silence}; its machine may still run"


def cancel(
    job_ids: Sequence[str], config: Config, journal: JobJournal, wait_seconds: float = UNANSWERED_SECONDS + POLL_SECONDS
) -> list[str]:
    """Stop the machines of jobs and return what could not be stopped, one line each.

    Requests that are under way are waited for: the process that asks may have been killed.
    """
    end = time.monotonic() + wait_seconds
    with coiled_cloud(config) as cloud:
        problems = {job_id: _stop(job_id, cloud, journal) for job_id in job_ids}
        while (under_way := [job_id for job_id, problem in problems.items() if problem and problem.under_way]) and (
            time.monotonic() < end
        ):
            LOG.info("%s: the request for a machine is under way, looked at again", ", ".join(under_way))
            time.sleep(POLL_SECONDS)
            problems |= {job_id: _stop(job_id, cloud, journal) for job_id in under_way}
    return [f"{job_id}: not stopped ({problem.reason})" for job_id, problem in problems.items() if problem]


@dataclass(frozen=True)
class Unstopped:
    """Why a job's machines are not all stopped; `under_way`: the request for one is, and its machine may still come."""

    reason: str
    under_way: bool = False


def _stop(job_id: str, cloud: Any, journal: JobJournal) -> Unstopped | None:
    """Stop the machines of a job and of those that it follows; return why not, or None."""
    problem = None
    try:
        for each in (job_id, *journal.read(job_id).follows):
            try:
                record = journal.cancel(each)
            except (OSError, WorkflowError) as error:  # a full disk keeps no machine running
                record, problem = journal.read(each), Unstopped(f"not written down: {error}")
            for request in record.requests:
                stop_machine(record, request, cloud)
            if problem is None:
                journal.write(record)
            if any(request.ended is None for request in record.requests):
                problem = problem or Unstopped("the request for its machine is under way", under_way=True)
    except Exception as error:
        return Unstopped(" ".join(str(error).split()))
    return problem
