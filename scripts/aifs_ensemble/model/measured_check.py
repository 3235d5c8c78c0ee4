"""Both passes of a checkpoint compared and timed on a device, for ``aifs-ensemble checkpoint check``."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import torch

from aifs_ensemble.common.acceleration import Acceleration
from aifs_ensemble.model.check_records import CheckRecords
from aifs_ensemble.model.numerics import Numerics
from aifs_ensemble.model.self_check import PeakMemory
from aifs_ensemble.model.stepper import Stepper


@dataclass(frozen=True)
class MeasuredCheck:
    """What a checkpoint's passes are on a device.

    Attributes
    ----------
    acceleration : whether the accelerated pass is used, why or why not, and how far it is from the model's own
    seconds : of a step by pass: ``accelerated``, or ``own, compiled`` where that is what a forecast takes, and ``own``,
        not compiled, where the two were compared
    gpu_mb : torch's peak of memory in a step of each, MB of 1e6 bytes; empty on a CPU
    """

    acceleration: Acceleration
    seconds: dict[str, float]
    gpu_mb: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        """Return the result, JSON-compatible."""
        return {**self.acceleration.to_json(), "seconds": self.seconds, "gpu_mb": self.gpu_mb}


def usual_input(interface: Any, device: torch.device, seed: int = 0) -> torch.Tensor:
    """Return an input ``(1, time, value, variable)`` of the variables' means and deviations, without any structure.

    It serves to compare two passes, not as a state of the atmosphere. What is never negative stays so.
    """
    names = interface.data_indices.model.input.name_to_index
    of_statistics = interface.data_indices.data.input.name_to_index
    rows = [of_statistics[name] for name in sorted(names, key=lambda name: names[name])]
    mean, deviation, least, most = (
        torch.as_tensor(interface.statistics[key][rows], dtype=torch.float32)
        for key in ("mean", "stdev", "minimum", "maximum")
    )
    nodes = interface.model.node_attributes.num_nodes[interface.model._graph_name_data]
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn((interface.multi_step, nodes, len(rows)), generator=generator)
    return torch.minimum(torch.maximum(mean + deviation * noise, least), most)[None].to(device)


def measure_check(interface: Any, device: torch.device, numerics: Numerics, *, repeats: int = 3) -> MeasuredCheck:
    """Compare and time both passes of a loaded checkpoint; whatever fails of the accelerated one is in the result.

    Parameters
    ----------
    interface : as `load_model` returns it; of no use afterwards, for its parts are given up or compiled
    repeats : steps of each of which the median counts

    Raises torch's OutOfMemoryError where not even the model's own pass fits.
    """
    stepper = Stepper(interface, device, numerics)
    inputs = usual_input(interface, device)
    seconds: dict[str, float] = {}
    gpu_mb: dict[str, float] = {}

    def measured(kind: str, step: Callable[[], object]) -> None:
        with PeakMemory(device) as memory:
            step()  # compiles what is left to compile
            times = [_seconds(step, device) for _ in range(repeats)]
        seconds[kind] = round(statistics.median(times), 4)
        if memory.peak_mb is not None:
            gpu_mb[kind] = memory.peak_mb

    stepper.warm_up(inputs, CheckRecords(None, {}), lambda own_step: measured("own", own_step))
    step = lambda: stepper.forward(inputs, first=False, seed=0)  # noqa: E731
    measured("accelerated" if stepper.accelerated else "own, compiled", step)
    return MeasuredCheck(stepper.acceleration, seconds, gpu_mb)


def _seconds(step: Callable[[], object], device: torch.device) -> float:
    start = perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return perf_counter() - start
