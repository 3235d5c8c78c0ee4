"""What machines of jobs on Google Batch cost, by the list prices of config/machines.yaml, while they run and after.

Batch is asked for the jobs of this coordinator. A machine counts while its job runs: its start is not in it.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

from aifs_ensemble.common.config import Config
from aifs_ensemble.common.cycles import format_cycles
from aifs_ensemble.planning.machines import Machines, machines_of
from aifs_ensemble.workflow import coordinator
from aifs_ensemble.workflow.googlebatch.jobs import LIVE, jobs_of
from aifs_ensemble.workflow.spent import RentedMachine, list_price, spending_words

if TYPE_CHECKING:
    from google.cloud import batch_v1

_ON_DEMAND = ("STANDARD", "PROVISIONING_MODEL_UNSPECIFIED")


def spending_of(config: Config) -> str | None:
    """Return what this coordinator's machines cost so far, None when it had none; CloudError as `jobs_of` raises it."""
    owner = coordinator.current()
    jobs = jobs_of(config, format_cycles(config.cycles), owner) if owner else []
    return spending_line(jobs, machines_of(config), time.time())


def spending_line(jobs: Iterable[batch_v1.Job], machines: Machines, now: float) -> str | None:
    """Return what the machines of jobs cost so far; None where none has run."""
    return spending_words(machine for job in jobs if (machine := _machine(job, machines, now)) is not None)


def _machine(job: batch_v1.Job, machines: Machines, now: float) -> RentedMachine | None:
    """Return the machine of a job that has begun to run; None for one that waits."""
    events = job.status.status_events
    began = next((event.event_time for event in events if "running" in event.description.lower()), None)
    if began is None or not job.allocation_policy.instances:
        return None
    runs = job.status.state.name in LIVE
    ended = now if runs else events[-1].event_time.timestamp()
    policy = job.allocation_policy.instances[0].policy
    # projects/PROJECT/locations/REGION/jobs/NAME
    region, spot = job.name.split("/")[3], policy.provisioning_model.name not in _ON_DEMAND
    price = list_price(machines, policy.machine_type, region, spot=spot)
    return RentedMachine(policy.machine_type, price, max(0.0, ended - began.timestamp()) / 3600, runs)
