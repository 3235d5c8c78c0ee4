"""Jobs of this workflow that Google Batch still has: found by their labels, and deleted.

The executor plugin knows its jobs no longer than its coordinator lives. Those of one that was killed go on,
beside the ones that the next run asks for.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from aifs_ensemble.config import Config
from aifs_ensemble.errors import CloudError, ConfigError

if TYPE_CHECKING:
    from google.cloud import batch_v1

_LIVE = ("QUEUED", "SCHEDULED", "RUNNING")


def live_jobs(config: Config, cycle: str | None) -> list[batch_v1.Job]:
    """Return the workflow's jobs that wait or run in the configured regions, of a cycle or (None) of all, oldest first.

    Raises ConfigError without a project, CloudError when Batch does not answer or refuses.
    """
    project = config["cloud"]["project"] or os.environ.get("GOOGLE_CLOUD_PROJECT")
    if not project:
        raise ConfigError("config: cloud.project is missing: Google Batch keeps jobs by project")
    found = []
    with _batch_client() as client:
        for region in config["cloud"]["regions"]:
            # compared here: what a filter of the service understands is not documented for labels
            found += list(client.list_jobs(parent=f"projects/{project}/locations/{region}"))
    ours = [job for job in found if job.labels.get("workflow") == "aifs-ensemble" and job.status.state.name in _LIVE]
    return sorted((job for job in ours if cycle in (None, job.labels.get("cycle"))), key=lambda job: job.create_time)


def delete_jobs(names: list[str]) -> None:
    """Have jobs deleted, which ends their machines; CloudError when Batch refuses one."""
    with _batch_client() as client:
        for name in names:
            client.delete_job(name=name)


def left_running(config: Config) -> Iterator[str]:
    """Yield what a run says at its start when jobs of an earlier one still compute its cycle."""
    try:
        left = live_jobs(config, config.cycle)
    except CloudError as error:
        yield f"whether jobs of an earlier run go on is unknown: {error}"
        return
    if left:
        yield (
            f"{len(left)} jobs of {config.cycle} are on Google Batch already, from a run that was killed or one beside "
            "this: members may be computed twice. `aifs-ensemble batch-cancel` deletes them"
        )


@contextmanager
def _batch_client() -> Iterator[batch_v1.BatchServiceClient]:
    from google.api_core.exceptions import GoogleAPIError
    from google.auth.exceptions import GoogleAuthError
    from google.cloud import batch_v1

    try:
        yield batch_v1.BatchServiceClient()
    except (GoogleAPIError, GoogleAuthError) as error:
        raise CloudError(f"Google Batch: {' '.join(str(error).split())}") from error
