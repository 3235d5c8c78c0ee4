"""What machines rented on Coiled cost, by the list prices of config/machines.yaml, while they run and after.

A machine counts from its request to the moment a look found it gone, so this is a little more than what is billed.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

from snakemake_executor_plugin_coiled.records import JobRecord, MachineRequest
from snakemake_executor_plugin_coiled.service import is_stock_out

from aifs_ensemble.common.config import Config
from aifs_ensemble.planning.machines import Machines
from aifs_ensemble.workflow.spent import RentedMachine, list_price, spending_words


def spending_line(
    records: Iterable[JobRecord], config: Config, machines: Machines, now: float | None = None
) -> str | None:
    """Return what was spent so far, what runs now and its price an hour; None when nothing was rented."""
    now = time.time() if now is None else now
    return spending_words(
        machine
        for record in records
        for request in _rented(record)
        for machine in _machines(request, config, machines, now)
    )


def _rented(record: JobRecord) -> Iterator[MachineRequest]:
    """Yield the requests of a job that gave a machine: not those that were refused, or found none."""
    for request in record.requests:
        refused = request.ended is not None and (request.cluster_id is None or is_stock_out(request.ended))
        if not refused:
            yield request


def _machines(request: MachineRequest, config: Config, machines: Machines, now: float) -> Iterator[RentedMachine]:
    """Yield the machines of a request: a preemptible one has a small one beside it, on demand."""
    runs = request.ended is None
    hours = max(0.0, (now if runs else request.ended_at) - request.requested) / 3600
    for name, spot in [(request.vm_type, request.spot), *[(config.cloud.cpu, False)] * request.spot]:
        yield RentedMachine(name, list_price(machines, name, request.region, spot=spot), hours, runs)
