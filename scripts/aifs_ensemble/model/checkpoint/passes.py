"""One step of a checked model by both forward passes, on a device: compared and timed."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from time import perf_counter
from typing import Any

from aifs_ensemble.model.checkpoint.check import NOT_LOADED, Report

LOG = logging.getLogger(__name__)
_STEPS = 5
_CHUNKS = 16


def tell_passes(report: Report, device: str) -> None:
    """Put down how long a step takes by each pass on a device, and how far the two are apart.

    The state is noise of the normalised variables' size, the same for both, as is the noise that the model draws.
    A pass that fails, for want of memory too, is told by its reason. Raises ConfigError where there is no such device.
    """
    if report.model is None:
        report.tell("passes", "compared", NOT_LOADED)
        return
    import torch

    from aifs_ensemble.model.stepper import resolve_device

    place = resolve_device(device)
    report.tell("passes", "device", torch.cuda.get_device_name(place) if place.type == "cuda" else "cpu")
    model: Any = report.model.to(place)
    own = _outcome(report, "own pass", lambda: _own_pass(model.model, place))
    fast = None
    if report.accelerated:
        fast = _outcome(report, "accelerated pass", lambda: _fast_pass(model.model, place))
    if own is not None and fast is not None:
        report.tell("passes", "difference", _compare(model, own, fast))


def _outcome(report: Report, name: str, run: Callable[[], tuple[Any, float]]) -> Any:
    """Run a pass and return its output, None where it fails; its seconds and memory, or the reason, are told."""
    import torch

    on_card = torch.cuda.is_initialized()
    if on_card:
        torch.cuda.reset_peak_memory_stats()
    try:
        output, seconds = run()
    except Exception as error:  # whatever a kernel or a compiler says is what the user is to read
        report.tell("passes", name, f"fails ({type(error).__name__}: {' '.join(str(error).split())[:300]})")
        return None
    memory = f", {torch.cuda.max_memory_allocated() / 1e6:,.0f} MB" if on_card else ""
    report.tell("passes", name, f"{seconds:.4f} s a step{memory}")
    return output


def _input(model: Any, place: Any) -> Any:
    """Return a normalised state ``(1, time, 1, node, variable)``, the same wherever it is made."""
    import torch

    shape = (1, model.multi_step, 1, model.node_attributes.num_nodes[model._graph_name_data], model.num_input_channels)
    return torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(place)


def _autocast(place: Any) -> AbstractContextManager[Any]:
    import torch

    return torch.autocast("cuda", dtype=torch.float16) if place.type == "cuda" else nullcontext()


def _timed(step: Callable[[], Any], place: Any) -> tuple[Any, float]:
    """Return the output of a step with noise of seed 1, and the seconds of a later one."""
    import torch

    from aifs_ensemble.model.noise import seed_device

    def wait() -> None:
        if place.type == "cuda":
            torch.cuda.synchronize(place)

    with torch.inference_mode():
        seed_device(place, 1)
        output = step().float().cpu()
        wait()
        begun = perf_counter()
        steps = _STEPS if place.type == "cuda" else 1
        for _ in range(steps):
            step()
        wait()
    return output, (perf_counter() - begun) / steps


def _own_pass(model: Any, place: Any) -> tuple[Any, float]:
    from aifs_ensemble.model.stepper import _set_chunks

    _set_chunks(_CHUNKS if place.type == "cuda" else 1)
    fields = _input(model, place)
    with _autocast(place):
        return _timed(lambda: model.forward(fields, fcstep=1), place)


def _fast_pass(model: Any, place: Any) -> tuple[Any, float]:
    import torch

    from aifs_ensemble.model.accelerated import AcceleratedForward

    if place.type != "cuda":
        raise RuntimeError("its kernels need a GPU")
    forward = AcceleratedForward(model, torch.float16, chunks=_CHUNKS)
    fields = _input(model, place)
    with _autocast(place):
        return _timed(lambda: forward(fields, fcstep=1), place)


def _compare(interface: Any, own: Any, fast: Any) -> str:
    """Return how far the accelerated output is from the model's own, in units of what the step changes.

    Both are normalised, float32 ``(1, 1, node, variable)``. For each variable the root mean square of the difference
    is divided by that of the change; the largest quotient counts. A diagnostic changes from nothing.
    """
    model = interface.model
    change = own.clone()
    before = _input(model, own.device)[0, -1, 0][:, model._internal_input_idx]
    change[0, 0][:, model._internal_output_idx] -= before

    def size(fields: Any) -> Any:
        return fields[0, 0].double().pow(2).mean(0).sqrt()

    quotients = size(fast - own) / size(change).clamp_min(1e-12)
    worst = int(quotients.argmax())
    names = {place: name for name, place in interface.data_indices.internal_model.output.name_to_index.items()}
    return f"{float(quotients[worst]):.1e} of what a step changes, at most ({names.get(worst, worst)})"
