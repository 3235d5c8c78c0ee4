"""The rollout: the model's input tensor kept on the device, stepped in place.

`Rollout` holds the state between steps, `roll` is the loop over steps. `aifs_ensemble.model.stepper` has the forward
pass of one step and the places of the variables. Nothing here waits for the device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from functools import partial
from time import perf_counter
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from aifs_ensemble.common.errors import CheckpointError
from aifs_ensemble.fields.state import State
from aifs_ensemble.forecast.daily_fields import DailyFields
from aifs_ensemble.model.determinism import places_written_once
from aifs_ensemble.model.forcings import ComputedForcings, ForcingsAhead
from aifs_ensemble.model.stepper import Stepper, TensorPlaces

Snapshot = tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]


class Rollout:
    """The model's input on the device, and the running accumulations.

    Parameters
    ----------
    places : places of the variables
    forcings : computed forcings of the checkpoint
    device : where the tensors live
    accumulate : keep sums of the accumulated variables since the start
    kept : places among `Model.outputs` of the variables that are delivered, in order; all by default
    daily : statistics of days, None for none
    """

    def __init__(
        self,
        places: TensorPlaces,
        forcings: ComputedForcings,
        device: torch.device,
        *,
        accumulate: bool,
        kept: Sequence[int] | None = None,
        daily: DailyFields | None = None,
    ):
        def index(values: Any) -> torch.Tensor:
            return torch.as_tensor(np.asarray(values, dtype=np.int64), device=device)

        inputs = [*places.state_index, *forcings.constant_index, *forcings.dynamic_index]
        if sorted(inputs) != list(range(places.inputs)):
            raise CheckpointError(
                "checkpoint: some inputs are neither in an initial state nor computed forcings, or both"
            )
        self.places = places
        self._forcings = forcings
        self._device = device
        self.forcing_index = index(forcings.dynamic_index)
        self._prognostic_in, self._prognostic_out = index(places.prognostic_in), index(places.prognostic_out)
        rows = range(len(places.output_index)) if kept is None else kept
        self.plain, self.daily = len(rows), daily
        self._output = index([places.output_index[row] for row in rows])
        self._in_order = [places.output_index[row] for row in rows] == list(range(len(places.output_index)))
        self._accumulated_out = index(places.accumulated_out)
        row_of = {row: place for place, row in enumerate(rows)}
        sums = [number for number, row in enumerate(places.accumulated_row) if row in row_of]
        self._accumulated_row = index([row_of[places.accumulated_row[number]] for number in sums])
        self._kept_sums = None if len(sums) == len(places.accumulated_row) else index(sums)
        self.inputs = torch.full((1, places.times, places.points, places.inputs), torch.nan, device=device)
        shape = (len(places.accumulated_out), places.points)
        self.sums = torch.zeros(shape, device=device) if accumulate else None

    @property
    def newest(self) -> torch.Tensor:
        """The newest time of the input, ``(value, variable)``."""
        return self.inputs[0, -1]

    def load(self, initial: State, restart: State | None = None) -> None:
        """Fill the input from an initial state and, where the forecast goes on from one, a restart state.

        Both hold `TensorPlaces.times` times. `initial` has the variables of `Model.inputs`, `restart` those of
        `Model.prognostic` and, when sums are kept, ``accumulated`` of shape ``(variable, value)``; with daily
        statistics also ``daily``, those of the running day.
        """
        state = self.inputs[0]
        self._put(state, self.places.state_index, initial.fields)
        if restart is not None:
            self._put(state, self.places.prognostic_in, restart.fields)
        times = (restart or initial).times
        for names, places in (
            (self._forcings.constant, self._forcings.constant_index),
            (self._forcings.dynamic, self._forcings.dynamic_index),
        ):
            self._put(state, places, np.stack([self._forcings.compute(names, time) for time in times]))
        if self.sums is not None:
            if restart is None:
                self.sums.zero_()
            else:
                self.sums.copy_(torch.from_numpy(np.array(restart.extra["accumulated"])))
        if self.daily is not None and restart is not None:
            self.daily.values.copy_(torch.from_numpy(np.array(restart.extra["daily"])))

    def _put(self, state: torch.Tensor, places: Any, fields: npt.NDArray[np.float32]) -> None:
        """Write fields ``(time, variable, value)`` to columns of the input ``(time, value, variable)``."""
        columns = torch.as_tensor(np.asarray(places, dtype=np.int64), device=self._device)
        state.index_copy_(2, columns, torch.as_tensor(fields, device=self._device).transpose(1, 2))

    def accumulate(self, output: torch.Tensor, step: int) -> None:
        """Add the output ``(value, variable)`` of a step, counted from 1, to sums and daily statistics.

        Negative amounts count as none. As anemoi-inference's ``accumulate_from_start_of_forecast``: float32 sums in
        step order.
        """
        if self.daily is not None:
            self.daily.update(output, step)
        if self.sums is not None:
            self.sums.add_(output.index_select(1, self._accumulated_out).t().clamp_min(0))

    def gather(self, output: torch.Tensor, fields: torch.Tensor) -> None:
        """Write the delivered variables of a step's output to `fields` ``(row, value)``, with sums where kept.

        Where `fields` has more rows, `plain` are followed by the statistics of the day that the step ends.
        """
        if self.daily is not None and len(fields) > self.plain:
            self.daily.gather(fields[self.plain :])
        fields = fields[: self.plain]
        by_variable = output.t()
        if self._in_order:
            fields.copy_(by_variable)
        else:
            torch.index_select(by_variable, 0, self._output, out=fields)
        if self.sums is not None:
            sums = self.sums if self._kept_sums is None else self.sums.index_select(0, self._kept_sums)
            with places_written_once():
                fields.index_copy_(0, self._accumulated_row, sums)

    def advance(self, output: torch.Tensor) -> None:
        """Make a step's output the newest time of the input; its dynamic forcings are still to be written."""
        for old in range(1, self.places.times):
            self.inputs[0, old - 1].copy_(self.inputs[0, old])
        newest = output.index_select(1, self._prognostic_out)
        with places_written_once():
            self.inputs[0, -1].index_copy_(1, self._prognostic_in, newest)

    def snapshot(self) -> Snapshot:
        """Return copies on the device of what a restart needs: prognostic fields, sums, statistics of the running day.

        Shapes ``(time, variable, value)``, ``(variable, value)`` and ``(statistic, value)``.
        """
        fields = self.inputs[0].index_select(2, self._prognostic_in).transpose(1, 2).contiguous()
        sums = None if self.sums is None else self.sums.clone()
        return fields, sums, None if self.daily is None else self.daily.values.clone()


class StepClock:
    """Seconds that steps take on the device, known only once they are over."""

    def __init__(self, device: torch.device):
        self._device = device

    def measure(self, work: Callable[[], torch.Tensor]) -> tuple[torch.Tensor, Callable[[], float]]:
        """Do `work` and return its result, and what gives its seconds once the device is past it."""
        if self._device.type != "cuda":
            start = perf_counter()
            result = work()
            seconds = perf_counter() - start
            return result, lambda: seconds
        stream = torch.cuda.current_stream(self._device)
        before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        before.record(stream)
        result = work()
        after.record(stream)
        return result, lambda: before.elapsed_time(after) / 1000


class StepSink(Protocol):
    """What takes the steps that `roll` makes."""

    def step(self, step: int, output: torch.Tensor, seconds: Callable[[], float]) -> None:
        """Take the output ``(value, variable)`` of a step (counted from 1), before the input moves on."""

    def advanced(self, step: int) -> bool:
        """The input holds `step` as its newest time; return whether to go on."""


def roll(
    stepper: Stepper,
    rollout: Rollout,
    forcings: ComputedForcings,
    sink: StepSink,
    *,
    start: datetime,
    steps: range,
    seed: Callable[[int], int],
) -> float:
    """Make `steps` (counted from 1) of the forecast that began at `start`, handing each to `sink`.

    `rollout` holds the input of the first of them. The loop waits for nothing but the sink and, where the
    device is faster than they are, the forcings: the seconds that this took are returned.
    """

    def times() -> Iterator[datetime]:
        return (start + step * rollout.places.step for step in steps[:-1])

    clock = StepClock(stepper.device)
    with torch.inference_mode(), ForcingsAhead(forcings, times(), stepper.device) as ahead:
        for step in steps:
            output, seconds = clock.measure(partial(stepper.forward, rollout.inputs, first=step == 1, seed=seed(step)))
            rollout.accumulate(output, step)
            sink.step(step, output, seconds)
            rollout.advance(output)
            if not sink.advanced(step) or step == steps[-1]:
                break
            ahead.copy_into(rollout.inputs[0, -1], rollout.forcing_index)
        return ahead.waited
