"""What a machine does while a member runs: GPU, memory, disk and network, sampled every second into a small CSV.

One file a member, appended to by each process that works on it, a row a second, flushed at once: a killed job leaves
all but its last second. The sampler is a forecast observer, which tells it the phase, and a context manager. Nothing
that goes wrong in it stops a forecast.
"""

from __future__ import annotations

import csv
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

from aifs_ensemble.common.gpu import this_card
from aifs_ensemble.common.observers import Observer

LOG = logging.getLogger(__name__)
INTERVAL = 1.0
_MB = 1e6
_MIB = 2**20

# MB are 1e6 bytes, MiB 2**20; rates are over the interval before the row; empty where the machine cannot tell.
COLUMNS = (
    "time",  # seconds since 1970
    "phase",  # start_up, steps, drain
    "lead",  # last lead whose step was computed, hours
    "gpu_util_percent",
    "gpu_mem_mib",
    "gpu_total_mib",
    "gpu_watts",
    "cpu_percent",  # of one processor: 200 is two busy ones, this process and its children
    "host_mem_mib",  # resident, this process and its children
    "disk_read_mb_s",  # of the machine
    "disk_write_mb_s",
    "net_recv_mb_s",
    "net_sent_mb_s",
    "scratch_free_gb",
)


class _CardReader:
    """The card of this process, through NVML; reads nothing where there is none.

    Of a slice of a card (MIG) NVML tells the memory, not the utilisation.
    """

    def __init__(self) -> None:
        card: tuple[Any, Any] = this_card() or (None, None)
        self._nvml, self._handle = card

    def read(self) -> dict[str, float]:
        if self._handle is None:
            return {}
        found: dict[str, float] = {}
        with suppress(self._nvml.NVMLError):
            found["gpu_util_percent"] = self._nvml.nvmlDeviceGetUtilizationRates(self._handle).gpu
        with suppress(self._nvml.NVMLError):
            memory = self._nvml.nvmlDeviceGetMemoryInfo(self._handle)
            found |= {"gpu_mem_mib": memory.used / _MIB, "gpu_total_mib": memory.total / _MIB}
        with suppress(self._nvml.NVMLError):
            found["gpu_watts"] = self._nvml.nvmlDeviceGetPowerUsage(self._handle) / 1000
        return found


class _Host:
    """This process with its children, and the machine's disks and network."""

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self._process = psutil.Process()
        self._before: tuple[float, dict[str, float]] = (time.monotonic(), self._counters())
        self._cpu: dict[int, float] = {}

    @staticmethod
    def _counters() -> dict[str, float]:
        found: dict[str, float] = {}
        disk, net = psutil.disk_io_counters(), psutil.net_io_counters()
        if disk is not None:
            found |= {"disk_read_mb_s": disk.read_bytes, "disk_write_mb_s": disk.write_bytes}
        if net is not None:
            found |= {"net_recv_mb_s": net.bytes_recv, "net_sent_mb_s": net.bytes_sent}
        return found

    def _family(self) -> Iterator[psutil.Process]:
        yield self._process
        with suppress(psutil.Error):
            yield from self._process.children(recursive=True)

    def read(self) -> dict[str, float]:
        now, counters = time.monotonic(), self._counters()
        then, before = self._before
        self._before = (now, counters)
        elapsed = max(now - then, 1e-3)
        found = {key: (value - before.get(key, value)) / _MB / elapsed for key, value in counters.items()}
        cpu, resident = 0.0, 0
        seconds: dict[int, float] = {}
        for process in self._family():
            with suppress(psutil.Error):
                times = process.cpu_times()
                seconds[process.pid] = times.user + times.system
                cpu += max(seconds[process.pid] - self._cpu.get(process.pid, seconds[process.pid]), 0.0)
                resident += process.memory_info().rss
        self._cpu = seconds
        with suppress(OSError):
            found["scratch_free_gb"] = psutil.disk_usage(str(self._scratch)).free / 1e9
        return found | {"cpu_percent": 100 * cpu / elapsed, "host_mem_mib": resident / _MIB}


class MetricsSampler(Observer):
    """Samples while it is entered; `path` is the member's CSV (`names.Scratch.metrics`).

    Pass it to the forecast as an observer as well, so that rows carry phase and lead; after the step to `last_lead`
    (hours) a member only drains its output.
    """

    def __init__(self, path: Path, last_lead: int, *, interval: float = INTERVAL):
        self.path = path
        self.interval = interval
        self._last_lead = last_lead
        self._phase, self._lead = "start_up", ""
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            readers: list[Callable[[], dict[str, float]]] = [_CardReader().read, _Host(self.path.parent).read]
        except Exception:
            LOG.warning("%s: no metrics of this member", self.path, exc_info=True)
            return self
        self._thread = threading.Thread(target=self._sample, args=(readers,), name="metrics", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=5)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Mark the rows of a phase that no observer call tells of."""
        before, self._phase = self._phase, name
        try:
            yield
        finally:
            self._phase = before

    def step(self, lead: int, seconds: float) -> None:
        self._lead = str(lead)
        self._phase = "steps" if lead < self._last_lead else "drain"

    def _sample(self, readers: list[Callable[[], dict[str, float]]]) -> None:
        try:
            with open(self.path, "a", newline="") as file:
                if file.tell() == 0:
                    file.write(",".join(COLUMNS) + "\n")
                rows = csv.DictWriter(file, COLUMNS, restval="", lineterminator="\n")
                while True:
                    stopping = self._stop.wait(self.interval)
                    values: dict[str, Any] = {"time": round(time.time(), 1), "phase": self._phase, "lead": self._lead}
                    for read in readers:
                        values |= {name: round(value, 2) for name, value in read().items()}
                    rows.writerow(values)
                    file.flush()
                    if stopping:
                        return
        except Exception:
            LOG.warning("%s: no more metrics of this member", self.path, exc_info=True)
