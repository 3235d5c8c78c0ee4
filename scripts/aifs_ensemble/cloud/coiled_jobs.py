"""Jobs on Coiled: asked for, watched and stopped through its Python API.

Every job of Snakemake (or group of jobs) becomes one Coiled batch job with one task on one machine of its
own, which Coiled stops when the task ends. What a status check sees of it is judged by `judge`, apart
from any network.
"""

from __future__ import annotations

import base64
import gzip
import logging
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from aifs_ensemble.cloud.context import COORDINATOR, config_secrets
from aifs_ensemble.cloud.jobscript import RemoteJob
from aifs_ensemble.cloud.journal import JobRecord, Journal, Request
from aifs_ensemble.cloud.regions import is_stock_out, next_region
from aifs_ensemble.config import Config
from aifs_ensemble.errors import CloudError, ConfigError
from aifs_ensemble.machines import Machines

LOG = logging.getLogger(__name__)
# Cluster states from which no task will go on.
_OVER = {"stopping", "stopped", "error"}
# A control plane that does not answer says nothing about the machine: this long the job counts as running.
UNREACHABLE_SECONDS = 1800.0
# How long a request may be under way before a cluster of its name must exist.
UNANSWERED_SECONDS = 300.0
# The client repeats a failed request for minutes, and Snakemake looks at one job after the other.
LOOK_SECONDS = 60.0
BOOT_DISK_GB = 60


def require_token() -> None:
    """Raise ConfigError when Coiled knows no token, in which case its client would open a browser and wait."""
    import coiled  # noqa: F401  (reads its own configuration)
    import dask.config

    if not dask.config.get("coiled.token", None):
        raise ConfigError("coiled: no token found, run `coiled login` once (or set DASK_COILED__TOKEN)")


@contextmanager
def coiled_cloud(config: Config) -> Iterator[Any]:
    """Open the Coiled client; ConfigError instead of its browser login when no token is set up."""
    require_token()
    import coiled

    with coiled.Cloud(workspace=config["cloud"]["workspace"]) as cloud:
        yield cloud


def machine_script(job: RemoteJob) -> str:
    """Return what the machine runs: the job script in a folder of its own, ending with its exit code.

    The script travels packed, because Coiled searches a plain one for words that name local files and
    uploads those; the sources come from the bucket instead.
    """
    packed = base64.encodebytes(gzip.compress(job.script.encode(), mtime=0)).decode()
    return (
        "#!/bin/bash\n"
        f"# {job.title}, attempt {job.attempt}\n"
        "set -e\n"
        'folder=$(mktemp -d "$PWD/job.XXXXXX")\n'
        'cd "$folder"\n'
        f"base64 -d <<'PACKED' | gunzip > task\n{packed}PACKED\n"
        "exec /bin/sh ./task\n"
    )


def host_setup(config: Config) -> str:
    """Return the script that the machine runs before the task: it ends its own life in time.

    Coiled's own cluster timeout does the same from outside; this one needs nobody to be reachable.
    """
    minutes = int(config["cloud"]["max_hours"] * 60) + 30
    return f"#!/bin/bash\nshutdown -P +{minutes} 'aifs-ensemble: longest lifetime reached' || true\n"


def run_arguments(job: RemoteJob, job_id: str, config: Config, machines: Machines, region: str) -> dict[str, Any]:
    """Return the arguments of ``coiled.batch.run`` for a job in a region."""
    cloud = config["cloud"]
    machine = machines.machine(cloud[job.machine_class])
    image = cloud[f"{job.machine_class}_image"]
    if not image:
        raise ConfigError(
            f"config: cloud.{job.machine_class}_image is missing: a container image (with a / in its name) or a Coiled "
            "software environment made by `aifs-ensemble environments`"
        )
    seconds = int(cloud["max_hours"] * 3600)
    disk = BOOT_DISK_GB + -(-int(job.resources.get("disk_mb", 0)) // 1000)
    cluster: dict[str, Any] = {"cluster_timeout": f"{seconds + 1800} seconds"}
    if job.spot:
        # The client gives the scheduler's machine a T4 as soon as a worker has a bundled card.
        cluster["scheduler_gpu"] = False
        # Coiled would replace a preempted machine without end; whether to try again, and whether
        # preemptible again, is decided by the attempt count of the job instead.
        cluster["backend_options"] = {"spot_replacement": False}
    return {
        "command": machine_script(job),
        "name": job_id,
        "container": image if "/" in image else None,
        "software": None if "/" in image else image,
        "vm_type": [machine.name],
        "region": region,
        "spot_policy": "spot" if job.spot else "on-demand",
        # A single task runs on the scheduler's machine, and that one is never preemptible. Asking for spot
        # there would silently rent on demand, so the task gets a worker and the scheduler a small machine.
        "task_on_scheduler": False if job.spot else None,
        "scheduler_vm_type": [cloud["cpu"]] if job.spot else None,
        "disk_size": str(disk),
        "env": {"AIFS_ENSEMBLE_JOB": job_id, "PYTHONUNBUFFERED": "1"},
        "secret_env": config_secrets(config),
        "tag": _tags(job, config),
        "host_setup_script_content": host_setup(config),
        "job_timeout": f"{seconds} seconds",
        "max_retries": 0,
        "cluster_kwargs": cluster,
        "logger": LOG,
    }


def _tags(job: RemoteJob, config: Config) -> dict[str, str]:
    return {
        "cycle": config.cycle,
        "rule": "+".join(job.rules),
        "workflow": "aifs-ensemble",
        **config["cloud"]["labels"],
    }


def request_machine(record: JobRecord, config: Config, machines: Machines, cloud: Any, journal: Journal) -> None:
    """Ask for the job in the first region not tried yet, and in the next ones while none has a machine.

    Each request is on disk before it is made: whatever happens between asking and being answered, the
    cluster has a name by which `check` and `cancel` find it.
    Raises CloudError when every region said no, or when Coiled refused for another reason.
    """
    import coiled.batch

    job = RemoteJob(record.script, record.targets, record.resources, record.attempt)
    tried = [request.region for request in record.requests]
    reason = record.reason
    while region := next_region(record.regions, tried):
        request = Request(region, job.spot)
        record.requests.append(request)
        arguments = run_arguments(job, _cluster_name(record, request), config, machines, region)
        journal.write(record)
        try:
            answer = coiled.batch.run(cloud=cloud, **arguments)
        except Exception as error:
            reason = " ".join(str(error).split())
            # An answer can be lost, or a later call of the client fail, after the machine was rented.
            request.cluster_id = _find(arguments["name"], cloud)
            if request.cluster_id is not None:
                LOG.warning("%s: the answer was lost (%s), found as cluster %d", record.id, reason, request.cluster_id)
                return
            request.ended = reason
            if not is_stock_out(reason):
                raise CloudError(f"{record.title}: Coiled refused the job in {region}: {reason}") from error
            LOG.warning("%s: no machine in %s (%s)", record.title, region, reason)
            tried.append(region)
            continue
        request.cluster_id = int(answer["cluster_id"])
        record.reason = ""
        return
    raise CloudError(f"{record.title}: no machine in {', '.join(record.regions)}: {reason}")


def _cluster_name(record: JobRecord, request: Request) -> str:
    return f"{record.id}-{record.requests.index(request) + 1}"


def _find(name: str, cloud: Any) -> int | None:
    """Return the id of the cluster of a name, or None when Coiled knows none."""
    from coiled.errors import DoesNotExist

    try:
        found = cloud.get_clusters_by_name(name=name)
    except DoesNotExist:
        return None
    return max((int(cluster["id"]) for cluster in found), default=None)


def submit(job: RemoteJob, config: Config, machines: Machines, regions: Sequence[str], journal: Journal) -> str:
    """Ask for a machine for the job and return the job's id; jobs still running for it are taken up again.

    Where those make only a part, the new job ends as failed when they end, and Snakemake asks for the rest:
    nothing is computed on two machines at once.
    """
    job_id = journal.new_id(job.title)
    record = JobRecord(job_id, job.title, job.targets, job.script, dict(job.resources), job.attempt, tuple(regions))
    record.owner = os.environ.get(COORDINATOR, "")
    followed = journal.making(job.targets)
    record.follows = tuple(left.id for left in followed)
    if record.follows:
        for left in followed:
            left.owner = record.owner
            journal.write(left)
        LOG.info("%s: still being made by %s, taken up again", job.title, ", ".join(record.follows))
        journal.write(record)
        return job_id
    journal.write(record)
    try:
        with coiled_cloud(config) as cloud:
            request_machine(record, config, machines, cloud, journal)
            if journal.read(job_id).state == "cancelled":
                # the coordinator was interrupted while this process was asking
                _stop(record, record.requests[-1], cloud)
                record.state, record.reason = "cancelled", "cancelled"
    except BaseException as error:
        record.state, record.reason = "failed", " ".join(str(error).split())
        raise
    finally:
        journal.write(record)
    return job_id


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
        started = any(task.get("start") for task in tasks)
        if not started and is_stock_out(why):
            return "no-machine", why
        return "failed", f"machine {state} before the job ended{': ' if why else ''}{why}"
    return "running", ""


def check(record: JobRecord, config: Config, machines: Machines, journal: Journal) -> JobRecord:
    """Look at a job, act on what is seen (try the next region, stop what is over) and return its record.

    What counts as success beyond the exit code is the caller's to verify.
    """
    if record.follows and record.state == "running":
        return _check_followed(record, config, machines, journal)
    request = record.current
    if record.state != "running":
        return record
    if request is None:
        record.state, record.reason = "failed", "submission was interrupted"
        journal.write(record)
        return record
    try:
        with _deadline(LOOK_SECONDS), coiled_cloud(config) as cloud:
            if request.cluster_id is None:
                request.cluster_id = _find(_cluster_name(record, request), cloud)
            if request.cluster_id is not None:
                _look(record, request, config, machines, cloud, journal)
            elif time.time() - request.requested > UNANSWERED_SECONDS:
                record.state, record.reason = "failed", "submission was interrupted"
    except CloudError as error:
        record.state, record.reason = "failed", str(error)
    except ConfigError:
        raise
    except Exception as error:
        _unreachable(record, error)
    else:
        record.unreachable_since = None
    journal.write(record)
    return record


def _check_followed(record: JobRecord, config: Config, machines: Machines, journal: Journal) -> JobRecord:
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


@contextmanager
def _deadline(seconds: float) -> Iterator[None]:
    """Raise TimeoutError in the main thread after `seconds`; elsewhere nothing can interrupt a client."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def late(*_: Any) -> None:
        raise TimeoutError(f"no answer within {seconds:g} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _look(
    record: JobRecord, request: Request, config: Config, machines: Machines, cloud: Any, journal: Journal
) -> None:
    import coiled.batch

    # in this order: of a machine that has stopped, nothing more is heard, while one may stop after its tasks were asked
    cluster = cloud.cluster_details(request.cluster_id)["current_state"]
    jobs = coiled.batch.status(cluster=request.cluster_id, workspace=cloud.default_workspace)
    verdict, why = judge(jobs, cluster)
    if verdict == "running" and _waits_too_long(jobs, request, config):
        verdict, why = "no-machine", f"no machine within {config['cloud']['idle_minutes']:g} minutes"
    if verdict == "running":
        return
    if str(cluster.get("state")) not in ("stopping", "stopped"):
        cloud.delete_cluster(request.cluster_id, reason=f"aifs-ensemble: {verdict} {why}".strip())
    request.ended = why or verdict
    if verdict == "no-machine":
        record.reason = why
        request_machine(record, config, machines, cloud, journal)
    else:
        record.state, record.reason = ("success" if verdict == "ended" else "failed"), why


def _waits_too_long(jobs: Sequence[Mapping[str, Any]], request: Request, config: Config) -> bool:
    started = any(task.get("start") or task["state"] != "pending" for job in jobs for task in job["tasks"])
    return not started and time.time() - request.requested > 60 * config["cloud"]["idle_minutes"]


def _unreachable(record: JobRecord, error: Exception) -> None:
    now = time.time()
    record.unreachable_since = record.unreachable_since or now
    waited = now - record.unreachable_since
    LOG.warning("%s: Coiled cannot be asked (%s), %.0f s so far", record.id, " ".join(str(error).split()), waited)
    if waited > UNREACHABLE_SECONDS:
        record.state, record.reason = "failed", f"Coiled could not be asked for {waited:.0f} s"


def cancel(job_ids: Sequence[str], config: Config, journal: Journal) -> list[str]:
    """Stop the machines of jobs and return what could not be stopped, one line each."""
    problems = []
    with coiled_cloud(config) as cloud:
        for job_id in job_ids:
            try:
                record = journal.read(job_id)
                for each in (record, *map(journal.read, record.follows)):
                    for request in each.requests:
                        _stop(each, request, cloud)
                    each.state, each.reason = "cancelled", "cancelled"
                    journal.write(each)
            except Exception as error:
                problems.append(f"{job_id}: not stopped ({' '.join(str(error).split())})")
    return problems


def _stop(record: JobRecord, request: Request, cloud: Any) -> None:
    if request.ended is not None:
        return
    cluster_id = request.cluster_id
    if cluster_id is None:
        # killed between asking and being answered: the name is known, the number is not
        cluster_id = _find(_cluster_name(record, request), cloud)
    if cluster_id is not None:
        cloud.delete_cluster(cluster_id, reason="aifs-ensemble: cancelled")
    request.ended = "cancelled"
