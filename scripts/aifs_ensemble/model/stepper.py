"""The forward pass of a loaded model: one step, accelerated or compiled where it can be, in a settled environment."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch

from aifs_ensemble.common.acceleration import FLOAT8, Acceleration
from aifs_ensemble.common.errors import CheckpointError, ConfigError
from aifs_ensemble.common.models import Model
from aifs_ensemble.model.check_records import CheckRecords
from aifs_ensemble.model.determinism import set_deterministic
from aifs_ensemble.model.edges import choose_edges
from aifs_ensemble.model.imputers import without_waits
from aifs_ensemble.model.noise import seed_device
from aifs_ensemble.model.numerics import Numerics, why_no_float8
from aifs_ensemble.model.passes import FallBack, Passes
from aifs_ensemble.model.projection import with_ordered_sums
from aifs_ensemble.model.self_check import SelfCheck
from aifs_ensemble.model.truncation import HAS_TRITON

# what is not a product in float8 is as with 16
_AUTOCAST = {"16": torch.float16, "bf16": torch.bfloat16, FLOAT8: torch.float16, "32": None}


def resolve_device(name: str) -> torch.device:
    """Return the device that ``auto``, ``cpu`` or ``cuda`` means here; ConfigError where there is no such."""
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("forecast.device: cuda, expected auto or cpu: torch finds no GPU here")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name, torch.cuda.current_device()) if name == "cuda" else torch.device(name)


@dataclass(frozen=True)
class TensorPlaces:
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
    def of(cls, metadata: Any, model: Model) -> TensorPlaces:
        """Return the places that a checkpoint's metadata gives; CheckpointError if it does not fit `model`."""
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
    numerics : settings that decide the numbers; `compile` compiles encoder, processor and decoder with torch.compile
    cuda_graph : let `warm_up` record the accelerated pass as a CUDA graph
    own, known, on_fall_back : of `passes.Passes`, which decides whether steps are accelerated

    Raises ConfigError for float8 on a device that has none.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        device: torch.device,
        numerics: Numerics,
        *,
        cuda_graph: bool = False,
        own: str = "",
        known: SelfCheck | None = None,
        on_fall_back: FallBack | None = None,
    ):
        numerics.refuse(why_no_float8(device))
        self.device = device
        self._cuda_graph = cuda_graph
        self.model: Any = model.to(device).eval()
        without_waits(self.model)
        choose_edges(self.model, device.type)
        if device.type == "cuda" and HAS_TRITON:
            with_ordered_sums(self.model, device)
        self._dtype = _AUTOCAST[numerics.precision]
        set_deterministic(numerics.deterministic and device.type == "cuda")
        self._passes = Passes(self.model, device, numerics, own=own, known=known, on_fall_back=on_fall_back)

    @property
    def accelerated(self) -> bool:
        """Whether steps take the accelerated pass."""
        return self._passes.accelerated

    @property
    def acceleration(self) -> Acceleration:
        """Whether steps take the accelerated pass, and why or why not."""
        return self._passes.acceleration

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

    def warm_up(
        self,
        inputs: torch.Tensor,
        records: CheckRecords | None = None,
        measure: Callable[[Callable[[], torch.Tensor]], None] | None = None,
    ) -> None:
        """Compile whatever is compiled, by both kinds of step; the noise of later steps does not depend on it.

        An accelerated pass that fails, or differs from the model's own by what `records` knows or is compared now, is
        given up here. Else it is recorded as a CUDA graph, where `cuda_graph` asks for it. `measure` is called with a
        step of the model's own pass while the two are compared.
        """
        step = lambda first: self.forward(inputs, first=first, seed=0)  # noqa: E731
        if self.accelerated:
            self._passes.prove(step, inputs, records, measure)
        if not self.accelerated:
            for first in (True, False):
                step(first)
        if self.accelerated and self._cuda_graph:
            try:
                with torch.inference_mode(), self._autocast():
                    self._passes.record()
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:  # a broken recording leaves stream, memory and noise in no sure state
                raise ConfigError(
                    f"forecast.cuda_graph: true, expected false: the forward pass cannot be recorded ({error})"
                ) from error

    @property
    def recorded(self) -> bool:
        """Whether the forward pass is a CUDA graph."""
        return self._passes.recorded

    def _autocast(self) -> AbstractContextManager[Any]:
        return nullcontext() if self._dtype is None else torch.autocast(self.device.type, dtype=self._dtype)


def prepare_environment(*, device: str, deterministic: bool) -> None:
    """Set what CUDA reads once, when it starts: a cuBLAS workspace that keeps sums in one order."""
    if deterministic and device != "cpu":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
