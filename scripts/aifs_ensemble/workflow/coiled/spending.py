"""What machines rented on Coiled cost, by the list prices of config/machines.yaml, while they run and after.

A machine counts from its request to the moment a look found it gone, so this is a little more than what is billed.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator

from snakemake_executor_plugin_coiled.records import JobRecord, MachineRequest
from snakemake_executor_plugin_coiled.service import is_stock_out

from aifs_ensemble.common.config import Config
from aifs_ensemble.common.text import money
from aifs_ensemble.planning.machines import Machines


def spending_line(
    records: Iterable[JobRecord], config: Config, machines: Machines, now: float | None = None
) -> str | None:
    """Return what runs now, its price an hour, and what was spent so far; None when nothing was rented.

    For example ``rented: 2 machines (1 x a2-ultragpu-1g, 1 x n2-standard-2), $5.17 an hour; $3.20 so far``.
    """
    now = time.time() if now is None else now
    running: Counter[str] = Counter()
    hourly = spent = 0.0
    rented = 0
    for record in records:
        for request in _rented(record):
            rented += 1
            ended = request.ended is not None
            hours = max(0.0, (request.ended_at if ended else now) - request.requested) / 3600
            for name, usd in _machines(request, config, machines):
                spent += usd * hours
                if not ended:
                    hourly += usd
                    running[name] += 1
    if not rented:
        return None
    so_far = f"{money(spent)} so far by list prices"
    if not running:
        return f"rented: no machine now; {so_far}"
    count, each = running.total(), ", ".join(f"{number} x {name}" for name, number in running.items())
    return f"rented: {count} machine{'s' if count > 1 else ''} ({each}), {money(hourly)} an hour; {so_far}"


def _rented(record: JobRecord) -> Iterator[MachineRequest]:
    """Yield the requests of a job that gave a machine: not those that were refused, or found none."""
    for request in record.requests:
        refused = request.ended is not None and (request.cluster_id is None or is_stock_out(request.ended))
        if not refused:
            yield request


def _machines(request: MachineRequest, config: Config, machines: Machines) -> Iterator[tuple[str, float]]:
    """Yield the machines of a request and USD an hour: a preemptible one has a small one beside it, on demand."""
    own = [(request.vm_type, request.spot)]
    for name, spot in own + [(config.cloud.cpu, False)] * request.spot:
        prices = machines.machine(name).prices
        price = prices.get(request.region) or next(iter(prices.values()), None)
        yield name, 0.0 if price is None else price.spot if spot else price.on_demand
