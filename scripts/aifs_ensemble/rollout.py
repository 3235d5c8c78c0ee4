"""The rollout: the model's input tensor kept on the device, stepped in place.

Three pieces that the forecast puts together: `Layout` says where each variable sits in the model's tensors,
`Stepper` is the forward pass of one step, `Rollout` holds the state between steps. `roll` is the loop.
Nothing here waits for the device.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from time import perf_counter
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from aifs_ensemble.determinism import places_written_once, set_deterministic
from aifs_ensemble.errors import CheckpointError, ConfigError
from aifs_ensemble.forcings import ComputedForcings, ForcingsAhead
from aifs_ensemble.models import Model
from aifs_ensemble.noise import seed_device
from aifs_ensemble.state import State

LOG = logging.getLogger(__name__)
_AUTOCAST = {"16": torch.float16, "bf16": torch.bfloat16, "32": None}


def resolve_device(name: str) -> torch.device:
    """Return the device that ``auto``, ``cpu`` or ``cuda`` means here; ConfigError where there is no such."""
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("forecast.device: cuda, expected auto or cpu: torch finds no GPU here")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name, torch.cuda.current_device()) if name == "cuda" else torch.device(name)


@dataclass(frozen=True)
class Layout:
    """Places of variables in the model's tensors, by name of the catalogue.

    Attributes
    ----------
    times, points, inputs : sizes of the input tensor ``(1, time, value, variable)``
    step : length of a step
    state_index : input places of the variables of an initial state, ordered as `Model.inputs`
    prognostic_in, prognostic_out : places of the prognostic variables, ordered as `Model.prognostic`
    output_index : output places of the variables of a lead, ordered as `Model.outputs`
    accumulated_out : output places of the accumulated variables, ordered as `Model.accumulated`
    accumulated_row : their places among `Model.outputs`
    """

    times: int
    points: int
    inputs: int
    step: timedelta
    state_index: tuple[int, ...]
    prognostic_in: tuple[int, ...]
    prognostic_out: tuple[int, ...]
    output_index: tuple[int, ...]
    accumulated_out: tuple[int, ...]
    accumulated_row: tuple[int, ...]

    @classmethod
    def of(cls, metadata: Any, model: Model) -> Layout:
        """Return the layout that a checkpoint's metadata gives; CheckpointError if it does not fit `model`."""
        read, made = metadata.variable_to_input_tensor_index, metadata.variable_to_output_tensor_index
        _same("reads", set(read), {*model.inputs, *model.computed}, model)
        _same("makes", set(made), set(model.outputs), model)
        for what, found, expected in (
            ("step", metadata.timestep, timedelta(hours=model.timestep_hours)),
            ("steps made at once", metadata.multi_step_output, 1),
            ("times read", [-(lag // metadata.timestep) for lag in metadata.lagged], [1, 0]),
        ):
            if found != expected:
                raise CheckpointError(f"checkpoint: {what}: {found}, expected {expected} for model {model.name}")
        return cls(
            times=metadata.multi_step_input,
            points=metadata.number_of_grid_points,
            inputs=len(read),
            step=metadata.timestep,
            state_index=tuple(read[name] for name in model.inputs),
            prognostic_in=tuple(read[name] for name in model.prognostic),
            prognostic_out=tuple(made[name] for name in model.prognostic),
            output_index=tuple(made[name] for name in model.outputs),
            accumulated_out=tuple(made[name] for name in model.accumulated),
            accumulated_row=tuple(model.outputs.index(name) for name in model.accumulated),
        )


def _same(verb: str, found: set[str], expected: set[str], model: Model) -> None:
    """Raise CheckpointError, naming the difference, unless the two sets of variables are equal."""
    pieces = [f"lacks {', '.join(sorted(expected - found))}"] if expected - found else []
    pieces += [f"has {', '.join(sorted(found - expected))} besides"] if found - expected else []
    if pieces:
        raise CheckpointError(f"checkpoint: what it {verb} differs from model {model.name}: {'; '.join(pieces)}")


class Stepper:
    """The forward pass of one step on one device: the place for compiled parts, CUDA graphs and fused kernels.

    Whatever replaces it keeps `forward` and `device`, draws its noise from the device's default generator
    in the same order, and does not wait for the device.

    Parameters
    ----------
    model : an anemoi-models interface, whose ``predict_step`` normalises, steps and denormalises
    precision : ``16``, ``bf16`` or ``32``, the autocast type of the forward pass
    compiled : compile encoder, processor and decoder with torch.compile
    deterministic : ask torch for algorithms that give the same bits every time
    chunks : pieces in which mappers work, to save memory
    cuda_graph : let `warm_up` record the accelerated pass as a CUDA graph
    """

    def __init__(
        self,
        model: torch.nn.Module,
        device: torch.device,
        *,
        precision: str = "32",
        compiled: bool = False,
        deterministic: bool = True,
        chunks: int = 1,
        cuda_graph: bool = False,
    ):
        self.device = device
        self._cuda_graph = cuda_graph
        self.model: Any = model.to(device).eval()
        self._dtype = _AUTOCAST[precision]
        set_deterministic(deterministic and device.type == "cuda")
        _set_chunks(chunks)
        self.accelerated = compiled and self._dtype is not None and device.type == "cuda" and self._accelerate(chunks)
        if compiled and not self.accelerated:
            for part in ("encoder", "processor", "decoder"):
                setattr(self.model.model, part, torch.compile(getattr(self.model.model, part), dynamic=False))

    def _accelerate(self, chunks: int) -> bool:
        """Put the faster forward pass in place of the model's own; return whether it knows the model."""
        from aifs_ensemble.accelerate import AcceleratedForward, NotAcceleratedError

        try:
            forward = AcceleratedForward(self.model.model, self._dtype or torch.float16, chunks=chunks)
        except NotAcceleratedError as reason:
            LOG.warning("forward pass not accelerated, compiling the model's own: %s", reason)
            return False
        self.model.forward = forward
        # the faster pass holds its own weights: the originals only take memory
        for part in ("encoder", "processor", "decoder"):
            getattr(self.model.model, part).to("meta")
        return True

    def forward(self, inputs: torch.Tensor, *, first: bool, seed: int) -> torch.Tensor:
        """Return the fields one step on.

        Parameters
        ----------
        inputs : float32 ``(1, time, value, variable)``, left as it is
        first : the model is told that this is the first step of the forecast (``fcstep`` 0, else 1)
        seed : of the noise drawn in this step

        Returns
        -------
        float32 ``(value, variable)``, places as in the checkpoint's output
        """
        seed_device(self.device, seed)
        with torch.inference_mode(), self._autocast():
            result = self.model.predict_step(inputs, fcstep=0 if first else 1)
        return result.reshape(result.shape[-2:])

    def warm_up(self, inputs: torch.Tensor) -> None:
        """Compile whatever is compiled, by both kinds of step; the noise of later steps does not depend on it.

        The accelerated pass is then recorded as a CUDA graph, where `cuda_graph` asks for it.
        """
        for first in (True, False):
            self.forward(inputs, first=first, seed=0)
        if self.accelerated and self._cuda_graph:
            try:
                with torch.inference_mode(), self._autocast():
                    self.model.forward.record()
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:  # a broken recording leaves stream, memory and noise in no sure state
                raise ConfigError(
                    f"forecast.cuda_graph: true, expected false: the forward pass cannot be recorded ({error})"
                ) from error

    @property
    def recorded(self) -> bool:
        """Whether the forward pass is a CUDA graph."""
        return self.accelerated and self.model.forward.recorded

    def _autocast(self) -> AbstractContextManager[Any]:
        return nullcontext() if self._dtype is None else torch.autocast(self.device.type, dtype=self._dtype)


def prepare_environment(*, device: str, deterministic: bool) -> None:
    """Set what CUDA reads once, when it starts: a cuBLAS workspace that keeps sums in one order."""
    if deterministic and device != "cpu":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def _set_chunks(chunks: int) -> None:
    """Set the mappers' chunks, which anemoi-models reads from the environment only when it is imported."""
    from anemoi.models.layers import block

    block.NUM_CHUNKS_INFERENCE_MAPPER = chunks


class Rollout:
    """The model's input on the device, and the running accumulations.

    Parameters
    ----------
    layout : places of the variables
    forcings : computed forcings of the checkpoint
    device : where the tensors live
    accumulate : keep sums of the accumulated variables since the start
    """

    def __init__(self, layout: Layout, forcings: ComputedForcings, device: torch.device, *, accumulate: bool):
        def index(values: Any) -> torch.Tensor:
            return torch.as_tensor(np.asarray(values, dtype=np.int64), device=device)

        places = [*layout.state_index, *forcings.constant_index, *forcings.dynamic_index]
        if sorted(places) != list(range(layout.inputs)):
            raise CheckpointError(
                "checkpoint: some inputs are neither in an initial state nor computed forcings, or both"
            )
        self.layout = layout
        self._forcings = forcings
        self._device = device
        self.forcing_index = index(forcings.dynamic_index)
        self._prognostic_in, self._prognostic_out = index(layout.prognostic_in), index(layout.prognostic_out)
        self._output, self._in_order = (
            index(layout.output_index),
            layout.output_index == tuple(range(len(layout.output_index))),
        )
        self._accumulated_out, self._accumulated_row = index(layout.accumulated_out), index(layout.accumulated_row)
        self.inputs = torch.full((1, layout.times, layout.points, layout.inputs), torch.nan, device=device)
        shape = (len(layout.accumulated_out), layout.points)
        self.sums = torch.zeros(shape, device=device) if accumulate else None

    def load(self, initial: State, restart: State | None = None) -> None:
        """Fill the input from an initial state and, where the forecast goes on from one, a restart state.

        Both hold `Layout.times` times. `initial` has the variables of `Model.inputs`, `restart` those of
        `Model.prognostic` and, when sums are kept, ``accumulated`` of shape ``(variable, value)``.
        """
        state = self.inputs[0]
        self._put(state, self.layout.state_index, initial.fields)
        if restart is not None:
            self._put(state, self.layout.prognostic_in, restart.fields)
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

    def _put(self, state: torch.Tensor, places: Any, fields: npt.NDArray[np.float32]) -> None:
        """Write fields ``(time, variable, value)`` to columns of the input ``(time, value, variable)``."""
        columns = torch.as_tensor(np.asarray(places, dtype=np.int64), device=self._device)
        state.index_copy_(2, columns, torch.as_tensor(fields, device=self._device).transpose(1, 2))

    def accumulate(self, output: torch.Tensor) -> None:
        """Add a step's output ``(value, variable)`` to the sums, negative amounts counting as none.

        As anemoi-inference's ``accumulate_from_start_of_forecast``: float32 sums in step order.
        """
        if self.sums is not None:
            self.sums.add_(output.index_select(1, self._accumulated_out).t().clamp_min(0))

    def gather(self, output: torch.Tensor, fields: torch.Tensor) -> None:
        """Write a step's output to `fields` ``(variable, value)``, ordered as `Model.outputs`, with sums where kept."""
        by_variable = output.t()
        if self._in_order:
            fields.copy_(by_variable)
        else:
            torch.index_select(by_variable, 0, self._output, out=fields)
        if self.sums is not None:
            with places_written_once():
                fields.index_copy_(0, self._accumulated_row, self.sums)

    def advance(self, output: torch.Tensor) -> None:
        """Make a step's output the newest time of the input; its dynamic forcings are still to be written."""
        for old in range(1, self.layout.times):
            self.inputs[0, old - 1].copy_(self.inputs[0, old])
        newest = output.index_select(1, self._prognostic_out)
        with places_written_once():
            self.inputs[0, -1].index_copy_(1, self._prognostic_in, newest)

    def snapshot(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return copies on the device of what a restart needs: prognostic fields and sums.

        Shapes ``(time, variable, value)`` and ``(variable, value)``.
        """
        fields = self.inputs[0].index_select(2, self._prognostic_in).transpose(1, 2).contiguous()
        return fields, None if self.sums is None else self.sums.clone()


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


class AnyStepper(Protocol):
    """What `roll` needs of a stepper."""

    device: torch.device

    def forward(self, inputs: torch.Tensor, *, first: bool, seed: int) -> torch.Tensor: ...


def roll(
    stepper: AnyStepper,
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
        return (start + step * rollout.layout.step for step in steps[:-1])

    clock = StepClock(stepper.device)
    with torch.inference_mode(), ForcingsAhead(forcings, times(), stepper.device) as ahead:
        for step in steps:
            output, seconds = clock.measure(partial(stepper.forward, rollout.inputs, first=step == 1, seed=seed(step)))
            rollout.accumulate(output)
            sink.step(step, output, seconds)
            rollout.advance(output)
            if not sink.advanced(step) or step == steps[-1]:
                break
            ahead.copy_into(rollout.inputs[0, -1], rollout.forcing_index)
        return ahead.waited
