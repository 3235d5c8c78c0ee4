"""Forcings computed ahead of the rollout: position of the sun, time of day and year at every grid point.

The numbers are anemoi-inference's own (its ``ComputedForcings``), worked out by threads for the coming
steps while the device computes the current one, and already on the device when they are wanted.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch
    from anemoi.inference.metadata import Metadata


class ComputedForcings:
    """Forcings that follow from place and time alone, as anemoi-inference computes them.

    Attributes
    ----------
    constant, dynamic : names of the variables that do not, and do, change with time
    constant_index, dynamic_index : their places in the input tensor
    """

    def __init__(self, metadata: Metadata):
        self._coordinates: dict[str, Any] = {"latitudes": metadata.latitudes, "longitudes": metadata.longitudes}
        names, index = metadata.select_variables_and_masks(include=["computed+constant"])
        self.constant, self.constant_index = tuple(names), np.asarray(index, dtype=np.int64)
        names, index = metadata.select_variables_and_masks(include=["computed"], exclude=["constant"])
        self.dynamic, self.dynamic_index = tuple(names), np.asarray(index, dtype=np.int64)

    @property
    def points(self) -> int:
        """Number of grid points."""
        return len(self._coordinates["latitudes"])

    def compute(self, names: Sequence[str], time: datetime) -> npt.NDArray[np.float32]:
        """Return the forcings `names` at `time` (UTC), shape ``(variable, value)``."""
        from anemoi.inference import forcings

        if not names:
            return np.empty((0, self.points), np.float32)
        # anemoi works with naive times; an offset would change nothing but its comparisons
        source = forcings.ComputedForcings(None, list(names), None)  # type: ignore[arg-type]
        return source.load_forcings_array([time.replace(tzinfo=None)], self._coordinates)[:, 0]


@dataclass
class _Buffer:
    """One set of forcings: in host memory (pinned for a GPU), on the device, and the events between."""

    host: torch.Tensor
    device: torch.Tensor
    uploaded: Any = None
    used: Any = None


class ForcingsAhead:
    """The dynamic forcings of successive times, computed and uploaded ahead by threads of their own.

    Use as a context manager; `take` yields the forcings of each time in order.

    Parameters
    ----------
    forcings : what to compute
    times : valid times in order
    device : where they are wanted
    ahead : sets computed ahead, at once (each costs ``len(dynamic) * points * 4`` bytes twice)

    Attributes
    ----------
    waited : seconds spent waiting for forcings that were not ready
    """

    def __init__(self, forcings: ComputedForcings, times: Iterable[datetime], device: torch.device, ahead: int = 3):
        import torch

        self._forcings = forcings
        self._times: Iterator[datetime] = iter(times)
        self._cuda = device.type == "cuda"
        self._device = device
        self._stream = torch.cuda.Stream(device) if self._cuda else None
        self.waited = 0.0
        # one set takes most of a GPU's step, and longer on slow processors
        self._executor = ThreadPoolExecutor(ahead, thread_name_prefix="forcings")
        self._pending: deque[Future[_Buffer]] = deque()
        shape = (len(forcings.dynamic), forcings.points)
        for _ in range(ahead):
            host = torch.empty(shape, pin_memory=self._cuda)
            on_device = torch.empty(shape, device=device) if self._cuda else host
            self._order(_Buffer(host, on_device))

    def __enter__(self) -> ForcingsAhead:
        return self

    def __exit__(self, *_: object) -> None:
        self._executor.shutdown(wait=True, cancel_futures=True)

    def _order(self, buffer: _Buffer) -> None:
        time = next(self._times, None)
        if time is not None:
            self._pending.append(self._executor.submit(self._fill, buffer, time))

    def _fill(self, buffer: _Buffer, time: datetime) -> _Buffer:
        import torch

        values = self._forcings.compute(self._forcings.dynamic, time)
        if buffer.used is not None:
            buffer.used.synchronize()  # waits in this thread: the step that read the buffer is over
        buffer.host.numpy()[...] = values
        if self._stream is not None:
            with torch.inference_mode(), torch.cuda.stream(self._stream):  # both belong to a thread
                buffer.device.copy_(buffer.host, non_blocking=True)
                buffer.uploaded = self._stream.record_event()
        return buffer

    def copy_into(self, target: torch.Tensor, index: torch.Tensor) -> None:
        """Write the next time's forcings into columns `index` of `target`, shape ``(value, variable)``."""
        import torch

        from aifs_ensemble.model.determinism import places_written_once

        start = perf_counter()
        buffer = self._pending.popleft().result()
        self.waited += perf_counter() - start
        if buffer.uploaded is not None:
            torch.cuda.current_stream(self._device).wait_event(buffer.uploaded)
        with places_written_once():
            target.index_copy_(1, index, buffer.device.t())
        if self._cuda:
            buffer.used = torch.cuda.current_stream(self._device).record_event()
        self._order(buffer)
