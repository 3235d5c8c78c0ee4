"""Coiled's client: imported where it is needed, opened without its browser login, asked with a limit of time.

Importing it takes seconds, so neither a dry-run nor ``snakemake --help`` comes here.
"""

from __future__ import annotations

import contextlib
import logging
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

from snakemake_interface_common.exceptions import WorkflowError

from snakemake_executor_plugin_coiled.records import JobRecord, MachineRequest

# The client repeats a failed request for minutes.
LOOK_SECONDS = 60.0
# How long a request may be under way before a cluster of its name must exist.
UNANSWERED_SECONDS = 300.0
# Cluster states from which no task will go on.
OVER = {"stopping", "stopped", "error"}
# What Compute Engine, Batch and Coiled answer when a zone or region has none of the machines left, or
# when the project may not have more of them there. Another region may help against either.
_NO_MACHINES = re.compile(
    r"ZONE_RESOURCE_POOL_EXHAUSTED|RESOURCE_POOL_EXHAUSTED|stock.?out|does not have enough resources"
    r"|resources? (is|are) not available|not enough (capacity|resources)|insufficient.{0,20}capacity"
    r"|unable to (get|obtain|launch).{0,40}(instance|capacity)|QUOTA_EXCEEDED|quota .{0,60}exceeded",
    re.IGNORECASE,
)
_GATEWAY = re.compile(
    r"timed?[ -]?out|gateway|internal server error|service unavailable|temporary error", re.IGNORECASE
)


def is_stock_out(message: str) -> bool:
    """Return whether a message says that the region has no such machine to give now."""
    return bool(_NO_MACHINES.search(message))


def is_unanswered(error: BaseException) -> bool:
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


def token_problem() -> str | None:
    """Return what to do when Coiled knows no token, in which case its client would open a browser and wait."""
    import coiled  # noqa: F401  (reads its own configuration)
    import dask.config

    if dask.config.get("coiled.token", None):
        return None
    return "coiled: no token found, run `coiled login` once (or set DASK_COILED__TOKEN)"


def require_token() -> None:
    """Raise WorkflowError when Coiled knows no token."""
    if problem := token_problem():
        raise WorkflowError(problem)


class Service:
    """The service as a workspace sees it, by one client that all threads share; opened anew after a failure."""

    def __init__(self, workspace: str | None = None):
        self.workspace = workspace
        self._cloud: Any = None
        self._lock = threading.Lock()

    def cloud(self) -> Any:
        """Return the open client; WorkflowError instead of its browser login when no token is set up."""
        require_token()
        import coiled

        with self._lock:
            if self._cloud is None:
                self._cloud = coiled.Cloud(workspace=self.workspace)
            return self._cloud

    def close(self) -> None:
        """Close the client; the next request opens another."""
        # not under the lock, which whoever opens a client may hold for minutes; and closing waits for what is under way
        cloud, self._cloud = self._cloud, None
        if cloud is not None:
            threading.Thread(target=_close, args=(cloud,), daemon=True).start()

    def run(self, arguments: Mapping[str, Any]) -> int:
        """Ask for a machine and return its cluster's id; for as long as it takes, since a machine may come of it."""
        import coiled.batch

        logger = logging.getLogger(__name__)
        return int(coiled.batch.run(cloud=self.cloud(), logger=logger, **arguments)["cluster_id"])

    def find(self, name: str) -> int | None:
        """Return the id of the cluster of a name, or None when Coiled knows none."""
        from coiled.errors import DoesNotExist

        try:
            found = self.cloud().get_clusters_by_name(name=name)
        except DoesNotExist:
            return None
        return max((int(cluster["id"]) for cluster in found), default=None)

    def look(self, cluster_id: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Return a cluster's details and its jobs."""
        import coiled.batch

        cloud = self.cloud()
        # in this order: of a machine that has stopped, nothing more is heard, while one may stop after its tasks
        # were asked for
        details = cloud.cluster_details(cluster_id)
        return details, coiled.batch.status(cluster=cluster_id, workspace=cloud.default_workspace)

    def delete(self, cluster_id: int, reason: str) -> None:
        """Stop a cluster."""
        self.cloud().delete_cluster(cluster_id, reason=reason)

    def stop(self, record: JobRecord, request: MachineRequest) -> None:
        """Stop a request's machine, if there may be one.

        Of a request that is under way nothing can be stopped yet: its end stays unknown.
        """
        if request.ended is not None:
            return
        cluster_id = request.cluster_id
        if cluster_id is None:
            # killed between asking and being answered: the name is known, the number is not
            cluster_id = self.find(record.cluster_name(request))
            if cluster_id is None and time.time() - request.requested < UNANSWERED_SECONDS:
                return
        if cluster_id is not None:
            self.delete(cluster_id, "snakemake: cancelled")
        request.ended = "cancelled"


def _close(cloud: Any) -> None:
    with contextlib.suppress(Exception):
        cloud.close()


def within(seconds: float, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function; TimeoutError when it takes longer, and whatever it does afterwards is not heard."""
    answer: Future[Any] = Future()

    def call() -> None:
        try:
            answer.set_result(function(*arguments))
        except BaseException as error:
            answer.set_exception(error)

    threading.Thread(target=call, daemon=True).start()
    try:
        return answer.result(seconds)
    except TimeoutError as error:
        raise TimeoutError(str(error) or f"no answer within {seconds:g} s") from None


# -- what was seen of a job, judged apart from any network


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
    if state in OVER:
        if not has_started(jobs) and is_stock_out(why):
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
    if any(all(state["state"] not in OVER for state in worker) for worker in states):
        return None
    if not workers and not has_started(jobs):
        return None
    why = {str(state.get("reason") or "") for worker in states for state in worker if state["state"] in OVER} - {""}
    return ": ".join(["preemptible machine gone before the job ended", *sorted(why)])


def has_started(jobs: Sequence[Mapping[str, Any]]) -> bool:
    """Tell whether a task has a start."""
    return any(task.get("start") for job in jobs for task in job["tasks"])


def has_begun(jobs: Sequence[Mapping[str, Any]]) -> bool:
    """Tell whether a task no longer waits for its machine."""
    return any(task["state"] != "pending" for job in jobs for task in job["tasks"]) or has_started(jobs)


def machine_came(details: Mapping[str, Any], request: MachineRequest) -> bool:
    """Tell whether the machine that is to run the task is there, if only to boot and to fetch its image."""
    processes = details["workers"] if request.spot else [details["scheduler"]]
    instances = [process["instance"] for process in processes if process and process["instance"]]
    return any(instance["current_state"]["state"] in ("started", "ready") for instance in instances)
