"""Machines on Coiled: what is asked for, region after region, and how one is stopped."""

from __future__ import annotations

import base64
import gzip
import logging
import os
import re
import time
from collections.abc import Mapping
from typing import Any

from aifs_ensemble.common import environment
from aifs_ensemble.common.config import Config
from aifs_ensemble.common.errors import CloudError, ConfigError
from aifs_ensemble.planning.machines import Machines
from aifs_ensemble.workflow.coiled.client import find_cluster
from aifs_ensemble.workflow.coiled.job_script import RemoteJob
from aifs_ensemble.workflow.coiled.records import JobJournal, JobRecord, MachineRequest
from aifs_ensemble.workflow.coiled.stock_outs import is_stock_out, next_region

LOG = logging.getLogger(__name__)
BOOT_DISK_GB = 60
# How long a request may be under way before a cluster of its name must exist.
UNANSWERED_SECONDS = 300.0
# Between two rounds of regions none of which has a machine.
ASK_AGAIN_SECONDS = 120.0
_GATEWAY = re.compile(
    r"timed?[ -]?out|gateway|internal server error|service unavailable|temporary error", re.IGNORECASE
)


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
    minutes = int(config.cloud.max_hours * 60) + 30
    return f"#!/bin/bash\nshutdown -P +{minutes} 'aifs-ensemble: longest lifetime reached' || true\n"


def run_arguments(job: RemoteJob, job_id: str, config: Config, machines: Machines, region: str) -> dict[str, Any]:
    """Return the arguments of ``coiled.batch.run`` for a job in a region."""
    cloud = config.cloud
    machine = machines.machine(getattr(cloud, job.machine_class))
    image = getattr(cloud, f"{job.machine_class}_image")
    if not image:
        raise ConfigError(
            f"config: cloud.{job.machine_class}_image is missing: a container image (with a / in its name) or a Coiled "
            "software environment made by `aifs-ensemble environments`"
        )
    seconds = int(cloud.max_hours * 3600)
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
        "scheduler_vm_type": [cloud.cpu] if job.spot else None,
        "disk_size": str(disk),
        "env": {environment.JOB: job_id, "PYTHONUNBUFFERED": "1"},
        "secret_env": config_secrets(config),
        "tag": _tags(job, config),
        "host_setup_script_content": host_setup(config),
        "job_timeout": f"{seconds} seconds",
        "max_retries": 0,
        "cluster_kwargs": cluster,
        "logger": LOG,
    }


def _tags(job: RemoteJob, config: Config) -> dict[str, str]:
    return {"cycle": config.cycle, "rule": "+".join(job.rules), "workflow": "aifs-ensemble", **config.cloud.labels}


def request_machine(record: JobRecord, config: Config, machines: Machines, cloud: Any, journal: JobJournal) -> None:
    """Ask for the job in the first region not tried yet, and in the next ones while none has a machine.

    When every region said no, the record says when to ask again. Raises CloudError when that has gone on for long
    enough, or when Coiled refused for another reason.
    """
    job = RemoteJob(record.script, record.targets, record.resources, record.attempt)
    tried = [request.region for request in record.requests[record.round :]]
    reason: str | None = record.reason
    while region := next_region(record.regions, tried):
        arguments = run_arguments(job, f"{record.id}-{len(record.requests) + 1}", config, machines, region)
        reason = _ask(record, MachineRequest(region, job.spot), arguments, cloud, journal)
        if reason is None:
            return
        LOG.warning("%s: no machine in %s (%s)", record.title, region, reason)
        tried.append(region)
    _wait(record, str(reason), _longest_wait(job, config))
    journal.write(record)


def _ask(
    record: JobRecord, request: MachineRequest, arguments: Mapping[str, Any], cloud: Any, journal: JobJournal
) -> str | None:
    """Ask for a machine in one region; return why there is none, or None when one was rented or may have been.

    The request is on disk before it is made: whatever happens between asking and being answered, the cluster has a
    name by which `check` and `cancel` find it.
    """
    import coiled.batch

    record.requests.append(request)
    journal.write(record)
    if record.state == "cancelled" or journal.renting_stopped(record.owner):
        request.ended = "cancelled"
        journal.write(record)
        if record.state == "cancelled":
            raise CloudError(f"{record.title}: cancelled")
        raise CloudError(f"{record.title}: no more machines for this run, stopped by coiled-cancel; start it again")
    try:
        request.cluster_id = int(coiled.batch.run(cloud=cloud, **arguments)["cluster_id"])
        record.reason = ""
    except Exception as error:
        if no_machine := _without_answer(record, request, arguments["name"], error, cloud):
            return no_machine
    journal.write(record)
    if record.state == "cancelled":
        # while this process was asking
        stop_machine(record, request, cloud)
        journal.write(record)
    return None


def _without_answer(record: JobRecord, request: MachineRequest, name: str, error: Exception, cloud: Any) -> str | None:
    """Judge a request that raised: return why its region has no machine, or None when one was or may be rented.

    An answer can be lost, or a later call of the client fail, after the machine was rented. Raises CloudError when
    Coiled refused for another reason than stock.
    """
    reason = " ".join(str(error).split())
    request.cluster_id = find_cluster(name, cloud)
    if request.cluster_id is not None:
        LOG.warning("%s: the answer was lost (%s), found as cluster %d", record.id, reason, request.cluster_id)
        return None
    if _is_unanswered(error):
        LOG.warning("%s: no answer (%s), a machine may have been rented: looked for again", record.id, reason)
        return None
    request.ended = reason
    if not is_stock_out(reason):
        raise CloudError(f"{record.title}: Coiled refused the job in {request.region}: {reason}") from error
    return reason


def _is_unanswered(error: BaseException) -> bool:
    """Tell whether a request failed without a word of the service, so that it may have been granted."""
    import aiohttp
    import httpx

    if isinstance(error, (OSError, TimeoutError, aiohttp.ClientError, httpx.TransportError)):
        return True
    if type(error).__name__ == "ApiResponseStatusError":  # a gateway's 502, 503 and 504
        return True
    # the client gives no status of an answer with a message
    text = str(error)
    return _GATEWAY.search(text) is not None and not is_stock_out(text)


def _longest_wait(job: RemoteJob, config: Config) -> float:
    """Return for how many seconds a job asks again; a preemptible one not for long, its next attempts are on demand."""
    cloud = config.cloud
    return 60.0 * cloud.idle_minutes if job.spot else 3600.0 * cloud.wait_hours


def _wait(record: JobRecord, reason: str, longest: float) -> None:
    """Put off the next round of regions; CloudError when the job has waited long enough."""
    now, regions = time.time(), ", ".join(record.regions)
    record.waiting_since = record.waiting_since or now
    end = record.waiting_since + longest
    if now >= end:
        raise CloudError(
            f"{record.title}: no machine in {regions} for {(now - record.waiting_since) / 60:.0f} min: {reason}"
        )
    record.round, record.ask_at, record.reason = len(record.requests), min(now + ASK_AGAIN_SECONDS, end), reason
    LOG.warning("%s: no machine in %s, asked again in %.0f s", record.title, regions, record.ask_at - now)


def cluster_name(record: JobRecord, request: MachineRequest) -> str:
    """Return the name that a request's cluster has."""
    return f"{record.id}-{record.requests.index(request) + 1}"


def stop_machine(record: JobRecord, request: MachineRequest, cloud: Any) -> None:
    """Stop a request's machine, if there may be one.

    Of a request that is under way nothing can be stopped yet: its end stays unknown, and the process that asks
    finds the job cancelled.
    """
    if request.ended is not None:
        return
    cluster_id = request.cluster_id
    if cluster_id is None:
        # killed between asking and being answered: the name is known, the number is not
        cluster_id = find_cluster(cluster_name(record, request), cloud)
        if cluster_id is None and time.time() - request.requested < UNANSWERED_SECONDS:
            return
    if cluster_id is not None:
        cloud.delete_cluster(cluster_id, reason="aifs-ensemble: cancelled")
    request.ended = "cancelled"


def config_secrets(config: Config) -> dict[str, str]:
    """Return the variables that ``cloud.secrets`` names with their values here; ConfigError for one that is not set."""
    names = config.cloud.secrets
    absent = [name for name in names if not os.environ.get(name)]
    if absent:
        raise ConfigError(f"config: cloud.secrets: {', '.join(absent)} not set in this environment, expected a value")
    return {name: os.environ[name] for name in names}
