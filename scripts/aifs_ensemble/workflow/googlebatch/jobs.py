"""Jobs of this workflow that Google Batch still has: found by their labels, and deleted.

The executor plugin knows its jobs no longer than its coordinator lives. Those of one that was killed go on,
beside the ones that the next run asks for. When it is interrupted, it deletes those alone that it is not asking about
at that moment, and mostly it is asking about all: so the coordinator deletes what has its label when it ends.
"""

from __future__ import annotations

import atexit
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from aifs_ensemble.common.config import Config
from aifs_ensemble.common.cycles import format_cycles
from aifs_ensemble.common.errors import CloudError, ConfigError
from aifs_ensemble.workflow import coordinator
from aifs_ensemble.workflow.context import end_with_the_terminal, start_detached

if TYPE_CHECKING:
    from google.cloud import batch_v1

LOG = logging.getLogger(__name__)
LOGS = Path(".snakemake") / "googlebatch_logs"
LIVE = ("QUEUED", "SCHEDULED", "RUNNING")


def live_jobs(config: Config, cycle: str | None, owner: str | None = None) -> list[batch_v1.Job]:
    """Return the workflow's jobs that wait or run in the configured regions; arguments and errors as of `jobs_of`."""
    return [job for job in jobs_of(config, cycle, owner) if job.status.state.name in LIVE]


def jobs_of(config: Config, cycle: str | None, owner: str | None = None) -> list[batch_v1.Job]:
    """Return the workflow's jobs that Batch knows in the configured regions, whatever became of them, oldest first.

    Those of a cycle or (None) of all, and of one coordinator or (None) of all. A region that does not answer is said
    in the log, unless none does.

    Raises ConfigError without a project, CloudError when Batch does not answer or refuses.
    """
    project = config.cloud.project or os.environ.get("GOOGLE_CLOUD_PROJECT")
    if not project:
        raise ConfigError("config: cloud.project is missing: Google Batch keeps jobs by project")
    from google.api_core.exceptions import GoogleAPIError

    found, silent = [], {}
    with _batch_client() as client:
        for region in config.cloud.regions:
            try:
                # compared here: what a filter of the service understands is not documented for labels
                found += list(client.list_jobs(parent=f"projects/{project}/locations/{region}"))
            except GoogleAPIError as error:
                silent[region] = error
        if len(silent) == len(config.cloud.regions):
            raise next(iter(silent.values()))
    for region, why in silent.items():
        LOG.warning("jobs in %s are unknown: Google Batch: %s", region, " ".join(str(why).split()))
    ours = [job for job in found if job.labels.get("workflow") == "aifs-ensemble"]
    wanted = {"cycle": cycle, "coordinator": owner}
    ours = [job for job in ours if all(value in (None, job.labels.get(key)) for key, value in wanted.items())]
    return sorted(ours, key=lambda job: job.create_time)


def delete_jobs(names: list[str]) -> None:
    """Have jobs deleted, which ends their machines; one that is gone already is deleted.

    Raises CloudError, once all were tried, naming those that Batch refused to delete.
    """
    from google.api_core.exceptions import GoogleAPIError, NotFound

    refused = []
    with _batch_client() as client:
        for name in names:
            try:
                client.delete_job(name=name)
            except NotFound:
                continue
            except GoogleAPIError as error:
                refused.append(f"{name} is not deleted ({' '.join(str(error).split())})")
    if refused:
        raise CloudError(f"Google Batch: {'; '.join(refused)}")


def left_running(config: Config) -> Iterator[str]:
    """Yield what a run says at its start when jobs of an earlier one still compute its cycle."""
    try:
        left = live_jobs(config, cycles := format_cycles(config.cycles))
    except CloudError as error:
        yield f"whether jobs of an earlier run go on is unknown: {error}"
        return
    if left:
        yield (
            f"{len(left)} jobs of {cycles} are on Google Batch already, from a run that was killed or one beside "
            f"this: members may be computed twice. `aifs-ensemble batch-cancel --cycle {cycles}` (and this run's "
            "--configfile and --config) deletes them"
        )


def delete_jobs_at_exit() -> None:
    """Delete, when this coordinator ends, what Batch still has of it; one that is killed leaves its jobs."""
    atexit.register(_delete_left, coordinator.name_this_process(), Path.cwd())
    end_with_the_terminal()


def keep_jobs_at_exit() -> None:
    """Take back `delete_jobs_at_exit`: the run succeeded, nothing is left."""
    atexit.unregister(_delete_left)


def _delete_left(owner: str, folder: Path) -> None:
    command = ["batch-cancel", "--cycle", "all", "--coordinator", owner]
    start_detached(command, folder, folder / LOGS / "cancel.log", "deleting what Google Batch still has of this run")


@contextmanager
def _batch_client() -> Iterator[batch_v1.BatchServiceClient]:
    from google.api_core.exceptions import GoogleAPIError
    from google.auth.exceptions import GoogleAuthError
    from google.cloud import batch_v1

    try:
        yield batch_v1.BatchServiceClient()
    except (GoogleAPIError, GoogleAuthError) as error:
        raise CloudError(f"Google Batch: {' '.join(str(error).split())}") from error
