"""The job's loop under torch's profiler: kernels by device time, idle time, and what waits for the card."""

from __future__ import annotations

import argparse
import itertools
import time
import warnings
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from engine.setup import Loaded

WARM_STEPS = 2  # of a profiled loop, before what is counted


class Discard:
    """Encoders that take fields and do nothing, and the sink that sends fields to them as the job does."""

    def __init__(self, model: Loaded):
        import numpy as np
        from aifs_ensemble.forecast.device_copy import FieldTransfer

        outputs = model.request.model.outputs
        self.buffer = np.zeros((3, len(outputs), model.loaded.places.points), dtype=np.float32)
        self._turn = itertools.cycle(SimpleNamespace(array=part) for part in self.buffer)
        self.transfer = FieldTransfer(self, model.rollout, model.request.model, outputs, "profile")
        self.begin: Callable[[], None] | None = None
        self.settled = 0

    def acquire(self) -> Any:
        return next(self._turn)

    def submit(self, slot: Any, lead: int) -> None:
        """Leave the slot to be filled again."""

    def completed(self) -> list[Any]:
        return []

    drain = completed

    def close(self) -> None:
        """Nothing was opened."""

    def step(self, step: int, output: Any, seconds: Callable[[], float]) -> None:
        list(self.transfer.arrivals())
        self.transfer.send(6 * step, output, seconds)

    def advanced(self, step: int) -> bool:
        if self.settled == WARM_STEPS and self.begin is not None:
            list(self.transfer.arrivals())
            self.begin()
        self.settled += 1
        return True


def profile(args: argparse.Namespace, own: str = "") -> dict[str, Any]:
    """Return the device's time by kernel over steps of the job's loop, without encoders.

    `own` says why it takes the model's own pass.
    """
    import torch
    from aifs_ensemble.forecast.rollout import roll
    from torch.profiler import ProfilerActivity

    model = Loaded(args, compiled=True, deterministic=True, own=own)
    model.loaded.stepper.warm_up(model.rollout.inputs)

    def steps(first: int, count: int, begin: Callable[[], None] | None = None) -> float:
        """Make `count` steps after a few that are not counted; return the seconds of one of them."""
        sink = Discard(model)
        begun = 0.0

        def start() -> None:
            nonlocal begun
            torch.cuda.synchronize()
            if begin is not None:
                begin()
            begun = time.perf_counter()

        sink.begin = start
        with sink.transfer:
            roll(model.loaded.stepper, model.rollout, model.loaded.forcings, sink, start=model.request.start,
                 steps=range(first, first + count + WARM_STEPS + 1), seed=model.request.seed)  # fmt: skip
            list(sink.transfer.arrivals())
            torch.cuda.synchronize()
            return (time.perf_counter() - begun) / count

    plain = steps(1, 2 * args.repeats)
    with warnings.catch_warnings(record=True) as waits:
        warnings.simplefilter("always")
        steps(40, 2, lambda: torch.cuda.set_sync_debug_mode("warn"))
        torch.cuda.set_sync_debug_mode("default")
    found: dict[str, Any] = {
        "loop_step_seconds": plain,
        "accelerated": model.loaded.stepper.accelerated,
        "cuda_graph": model.loaded.stepper.recorded,
        "waits": sorted({f"{w.filename}:{w.lineno}" for w in waits if "called a synchronizing" in str(w.message)}),
    }
    profiler = torch.profiler.profile(activities=[ProfilerActivity.CUDA])
    steps(50, args.repeats, profiler.start)
    profiler.stop()
    on_card = torch.autograd.DeviceType.CUDA
    events = [e for e in profiler.events() or () if e.device_type == on_card]
    # copies from and to the host run beside the kernels, on streams of their own
    kernel = [e for e in events if not e.name.startswith(("Memcpy HtoD", "Memcpy DtoH"))]
    spans = sorted((e.time_range.start, e.time_range.end) for e in kernel)
    if not spans:
        return found
    busy, until = 0.0, spans[0][0]
    for begin, end in spans:
        busy += max(0.0, end - max(begin, until))
        until = max(until, end)
    kernels: dict[str, list[float]] = {}
    for event in events:
        total = kernels.setdefault(event.name[:90], [0.0, 0])
        total[0] += (event.time_range.end - event.time_range.start) / 1000 / args.repeats
        total[1] += 1 / args.repeats
    longest = sorted(kernels.items(), key=lambda item: -item[1][0])[:40]
    return found | {
        "busy_ms_per_step": busy / 1000 / args.repeats,
        "idle_ms_per_step": (until - spans[0][0] - busy) / 1000 / args.repeats,
        "kernels": {name: [round(ms, 4), round(count, 1)] for name, (ms, count) in longest},
    }
