"""The forward pass alone: by kind, by precision and chunks, and how far ours and the eager one drift apart."""

from __future__ import annotations

import argparse
import gc
import hashlib
import math
import sys
from dataclasses import replace
from typing import Any

from engine.setup import Loaded, deviations, rms, timed

REPEATED = 5  # calls whose bytes are compared with those of the timed ones


def forward(args: argparse.Namespace, *, kind: str) -> dict[str, Any]:
    """Time the forward pass alone."""
    import torch

    deterministic = kind not in ("forward-compiled", "forward-eager")
    args.cuda_graph = kind == "forward-graph"
    if kind.startswith("forward-compiled"):
        args.chunks = 1  # chunks of unequal sizes would be compiled one by one, up to torch's limit
    ours = kind in ("forward", "forward-graph", "forward-untruncated", "forward-flex", "forward-fp8")
    own = "the benchmark asks for it" if kind == "forward-own" else ""
    compiled, truncated = ours or bool(own), kind != "forward-untruncated"
    if kind == "forward-flex":
        from aifs_ensemble.model import banded_attention

        banded_attention.reason_against = lambda *_: "the benchmark asks for it"
    model = Loaded(args, compiled=compiled, deterministic=deterministic, truncated=truncated, own=own)
    if kind.startswith("forward-compiled"):
        inner = model.loaded.stepper.model.model
        for part in ("encoder", "processor", "decoder"):
            setattr(inner, part, torch.compile(getattr(inner, part), dynamic=False))
    launched, first = timed(model.forward, model.device, 1)
    if kind in ("forward", "forward-graph", "forward-fp8"):  # gives the model's own parts back, and records the graph
        model.loaded.stepper.warm_up(model.rollout.inputs)
    timed(model.forward, model.device, 2)
    if model.device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    result, seconds = timed(model.forward, model.device, args.repeats)
    made = digest(result)
    again = {digest(timed(model.forward, model.device, 1)[0]) for _ in range(REPEATED)}
    found = {"step_seconds": seconds, "first_call_seconds": first, "repeatable": again == {made}, "sha256": made}
    inner = model.loaded.stepper.model.model
    # in anemoi-models 0.11 a part of the network
    skip = type(inner.residual).__name__ if hasattr(inner, "residual") else ""
    found["truncated"] = skip == "TruncatedConnection" or getattr(inner, "A_down", None) is not None
    if ours:
        found["accelerated"] = model.loaded.stepper.accelerated
        found["attention"] = model.loaded.stepper.acceleration.attention
    if kind == "forward-graph":
        if not model.loaded.stepper.recorded:
            raise SystemExit("forward-graph: the pass is not recorded, expected a CUDA graph")
        found |= {"same_as_launched": digest(launched) == made}
    if model.device.type == "cuda":
        peak = torch.cuda.max_memory_allocated()
        found["sm_mhz"], found["watts"] = clock_and_power(model)
        if kind == "forward-graph":  # a graph's memory is not allocated again by what replays it
            torch.cuda.empty_cache()
            peak = torch.cuda.memory_reserved()
        found |= {"peak_gpu_mb": peak / 1e6, "gpu": torch.cuda.get_device_name()}
    return found


def digest(result: Any) -> str:
    """Return the SHA-256 of a tensor's bytes: whether two processes, or two calls, made the same."""
    return hashlib.sha256(result.cpu().numpy().tobytes()).hexdigest()


def clock_and_power(model: Loaded) -> tuple[float, float]:
    """Return the card's clock and power while it computes: cards that meet their power limit slow down."""
    import torch

    for _ in range(10):
        model.forward()
    try:
        return torch.cuda.clock_rate(), torch.cuda.power_draw() / 1000
    except Exception as error:  # a driver that does not tell must not cost the measurement
        print(f"clock and power not known: {error}", file=sys.stderr)
        return math.nan, math.nan
    finally:
        torch.cuda.synchronize()


def self_check(args: argparse.Namespace) -> dict[str, Any]:
    """Return what a forecast compares before it begins: both passes over one step; and the time and memory of each."""
    from aifs_ensemble.common.models import get_model
    from aifs_ensemble.model.checkpoint.load import load_model
    from aifs_ensemble.model.measured_check import measure_check
    from aifs_ensemble.model.numerics import Numerics
    from aifs_ensemble.model.stepper import prepare_environment, resolve_device

    from engine.setup import checkpoint_path

    prepare_environment(device=args.device, deterministic=True)
    device = resolve_device(args.device)
    interface = load_model(checkpoint_path(args), get_model(args.model), device=device, trust=True)
    return measure_check(interface, device, Numerics(args.precision, True, True, args.chunks)).to_json()


def drift(args: argparse.Namespace) -> dict[str, Any]:
    """Return how far our forward pass and the eager one are apart along a rollout.

    Root mean squares over all points and prognostic variables, each divided by its standard deviation: of the
    difference, of what changed since the start, and of the difference that another member's noise makes.
    """
    import torch
    from aifs_ensemble.forecast.rollout import roll

    wanted = [n for n in (1, 12, 132) if n <= args.steps]

    class Keep:
        def __init__(self) -> None:
            self.fields: dict[int, Any] = {}

        def step(self, step: int, output: Any, seconds: Any) -> None:
            if step in wanted:
                self.fields[step] = output.clone()

        def advanced(self, step: int) -> bool:
            return True

    kept = {}
    for kind in ("eager", "ours", "another member"):
        model = Loaded(args, compiled=kind != "eager")
        keep, seed = Keep(), model.request.seed
        if kind == "another member":
            seed = replace(model.request, member=2).seed
        steps = range(1, wanted[-1] + 1)
        roll(model.loaded.stepper, model.rollout, model.loaded.forcings, keep, start=model.request.start,
             steps=steps, seed=seed)  # fmt: skip
        kept[kind] = keep.fields
        places = list(model.loaded.places.prognostic_out)
        start = torch.from_numpy(model.initial.fields[-1].copy())
        rows = [model.request.model.inputs.index(name) for name in model.request.model.prognostic]
        start = start[rows].t().to(model.device)
        scale = deviations(model)
        del model
        gc.collect()
        torch.cuda.empty_cache()
    found = {}
    for step in wanted:
        eager, ours, other = (fields[step][:, places] for fields in kept.values())

        apart, change, spread = (rms(difference / scale) for difference in (ours - eager, eager - start, other - ours))
        found[f"steps_{step}"] = {
            "of_change": apart / change,
            "of_spread": apart / spread,
            "rms_standard_deviations": apart,
            "change_standard_deviations": change,
            "spread_standard_deviations": spread,
        }
    return found


def precisions(args: argparse.Namespace) -> dict[str, Any]:
    """Return seconds and peak GPU memory of the forward pass by precision, compilation and chunks."""
    import torch

    rows = []
    for precision, compiled, chunks in (
        ("16", True, 1), ("16", True, 4), ("16", True, 10), ("16", True, 16), ("bf16", True, 10),
        ("16", False, 1), ("16", False, 10), ("bf16", False, 1), ("32", False, 1),
    ):  # fmt: skip
        row: dict[str, Any] = {"precision": precision, "compile": compiled, "chunks": chunks}
        try:
            row |= _one_precision(args, precision, compiled, chunks)
        except Exception as error:  # one that does not fit or does not run must not cost the others
            row["failed"] = f"{type(error).__name__}: {error}"[:300]
        rows.append(row)
        print(f"precisions: {row}", file=sys.stderr, flush=True)
        gc.collect()
        torch.cuda.empty_cache()
        torch._dynamo.reset()
    return {"rows": rows}


def _one_precision(args: argparse.Namespace, precision: str, compiled: bool, chunks: int) -> dict[str, float]:
    import torch

    args.precision, args.chunks = precision, chunks
    model = Loaded(args, compiled=compiled, deterministic=True)
    timed(model.forward, model.device, 1)  # compiles; its result goes at once
    if model.loaded.stepper.accelerated:
        model.loaded.stepper.warm_up(model.rollout.inputs)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    seconds = timed(model.forward, model.device, 1 if precision == "32" else args.repeats)[1]
    return {
        "step_seconds": seconds,
        "peak_gpu_mb": torch.cuda.max_memory_allocated() / 1e6,
        "reserved_mb": torch.cuda.memory_reserved() / 1e6,
    }
