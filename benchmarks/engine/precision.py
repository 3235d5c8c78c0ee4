"""What float8 products bring and cost: the forward pass by kinds of layers, drift, an ensemble's statistics."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from engine.setup import Loaded, deviations, rms, timed

# Kinds of layers, each with those of the line before.
KINDS = ("16 bits", "processor: MLP", "+ processor: all", "+ mappers", "+ what stays in 16 bits, where it can")
DRIFT_STEPS = (1, 12, 132)
ENSEMBLE_MEMBERS = 10
# A model between the demonstration and the full size, whose steps change enough for members to part.
MIDDLE = {"hidden": "O16", "channels": 512, "layers": 8, "heads": 8, "window": 128, "update": 0.05}


def layers_of(kind: str) -> frozenset[str]:
    """Return the products that are in float8 with a kind of `KINDS`."""
    from aifs_ensemble.model.float8 import LAYERS, PRODUCTS

    processor = {name for name in LAYERS if name.startswith("processor.")} & PRODUCTS
    # what the model makes is no multiple of 16
    able = {*LAYERS} - {"decoder.extraction"}
    return frozenset([set(), {"processor.mlp"}, processor, PRODUCTS, able][KINDS.index(kind)])


@contextmanager
def pass_with(model: Loaded, float8: Collection[str], *, compiled: bool = True) -> Iterator[None]:
    """While it lasts steps take an accelerated pass of these products in float8, the others in float16."""
    import torch
    from aifs_ensemble.model.accelerated import AcceleratedForward
    from aifs_ensemble.model.forms import network_class

    interface = model.loaded.stepper.model
    entrance = network_class().entrance(interface)
    own = entrance.forward
    entrance.forward = AcceleratedForward(
        interface.model, torch.float16, chunks=model.request.settings.chunks, compiled=compiled, float8=float8
    )
    try:
        yield
    finally:
        entrance.forward = own


def own_forward(model: Loaded, precision: str) -> Any:
    """Return a step of the model's own pass, not compiled: in float32, or under autocast to float16."""
    import torch

    kept, stepper = model.loaded.stepper._dtype, model.loaded.stepper
    stepper._dtype = None if precision == "32" else torch.float16
    try:
        return model.forward()
    finally:
        stepper._dtype = kept


def _apart(model: Loaded, found: Any, right: Any) -> float:
    """Return the rms difference over the rms change of the step: prognostic variables, in standard deviations."""
    places, scale = list(model.loaded.places.prognostic_out), deviations(model)
    before = model.rollout.newest[:, list(model.loaded.places.prognostic_in)]
    change = (right[:, places] - before) / scale
    return rms((found[:, places] - right[:, places]) / scale) / rms(change)


def float8_layers(args: argparse.Namespace) -> dict[str, Any]:
    """Time the forward pass in float16 and with more and more layers in float8, and compare each over one step."""
    import torch
    from aifs_ensemble.model.self_check import compare_passes

    from engine.forward import clock_and_power, digest

    args.precision = "16"
    model = Loaded(args, deterministic=True)  # its own pass, whose parts stay
    exact, half = own_forward(model, "32"), own_forward(model, "16")
    rows = []
    for kind in KINDS:
        torch.cuda.empty_cache()
        with pass_with(model, layers_of(kind)):
            timed(model.forward, model.device, 3)
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            found, seconds = timed(model.forward, model.device, args.repeats)
            peak = torch.cuda.max_memory_allocated()
            again = timed(model.forward, model.device, 1)[0]
            mhz, watts = clock_and_power(model)
            check = compare_passes(model.rollout.newest, half, found, model.loaded.stepper.model, precision="fp8")
        rows.append({
            "float8": kind, "step_seconds": seconds, "peak_gpu_mb": peak / 1e6, "sm_mhz": mhz, "watts": watts,
            "repeatable": digest(found) == digest(again), "of_change_against_32": _apart(model, found, exact),
            "self_check": check.largest, "worst": dict(check.worst),
        })  # fmt: skip
        print(f"float8-layers: {rows[-1]}", file=sys.stderr, flush=True)
        torch._dynamo.reset()
    return {"rows": rows, "own_16_against_32": _apart(model, half, exact), "gpu": torch.cuda.get_device_name()}


def middle_checkpoint(args: argparse.Namespace) -> Path:
    """Return the checkpoint of a model of middle size on the grid of ``--model``, built where it is not there."""
    from aifs_ensemble.common.models import get_model
    from aifs_ensemble.model.checkpoint.build import build_checkpoint

    path = args.scratch / "checkpoints" / f"middle-{args.model}.ckpt"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        build_checkpoint(get_model(args.model), path, **MIDDLE)  # type: ignore[arg-type]
    return path


def float8_products(args: argparse.Namespace) -> dict[str, Any]:
    """Compare one step against float32, a single kind of product in float8, with a model of middle size."""
    from aifs_ensemble.model.float8 import LAYERS, PRODUCTS

    args.precision, args.checkpoint = "16", middle_checkpoint(args)
    model = Loaded(args, deterministic=True)
    exact = own_forward(model, "32")
    found: dict[str, Any] = {}
    sets: dict[str, Iterable[str]] = {"none": (), **{name: (name,) for name in LAYERS}, "all of fp8": PRODUCTS}
    for name, layers in sets.items():
        try:
            with pass_with(model, frozenset(layers), compiled=False):
                found[name] = _apart(model, model.forward(), exact)
        except Exception as error:  # of a shape that has no product in float8
            found[name] = str(error)[:200]
    return {"of_change_against_32": found}


class _Keep:
    """Keeps the prognostic variables of some steps, in standard deviations."""

    def __init__(self, model: Loaded, wanted: Collection[int]):
        self._places, self._scale = list(model.loaded.places.prognostic_out), deviations(model)
        self._wanted, self.fields = wanted, {}  # type: ignore[var-annotated]
        self.seconds: list[Any] = []

    def step(self, step: int, output: Any, seconds: Any) -> None:
        self.seconds.append(seconds)
        if step in self._wanted:
            self.fields[step] = (output[:, self._places] / self._scale).cpu()

    def advanced(self, step: int) -> bool:
        return True


def _rolled(model: Loaded, member: int, wanted: Collection[int]) -> _Keep:
    """Return what a member's rollout gives at some steps."""
    from aifs_ensemble.forecast.rollout import roll

    keep, request = _Keep(model, wanted), replace(model.request, member=member)
    roll(
        model.loaded.stepper, model.rollout, model.loaded.forcings, keep, start=request.start,
        steps=range(1, max(wanted) + 1), seed=request.seed,
    )  # fmt: skip
    return keep


def rollout(args: argparse.Namespace, kind: str) -> dict[str, Any]:
    """Roll out in the precision that the mode names, and keep some steps: ``-other`` with another member's noise."""
    import torch

    args.precision = kind.split("-")[1]
    exact = args.precision == "32"
    model = Loaded(args, compiled=not exact and args.device == "cuda", deterministic=not exact)
    wanted = [step for step in DRIFT_STEPS if step <= args.steps]
    keep = _rolled(model, 2 if kind.endswith("other") else 1, wanted)
    torch.save(keep.fields, args.scratch / f"{kind}.pt")
    took = sorted(seconds() for seconds in keep.seconds)
    return {"steps": len(took), "median_seconds": took[len(took) // 2], "accelerated": model.loaded.stepper.accelerated}


def drift_precisions(args: argparse.Namespace) -> dict[str, Any]:
    """Compare the rollouts that are there: float16 and float8 against float32, and in units of another member's noise.

    Root mean squares over all points and prognostic variables, in standard deviations.
    """
    import torch

    kinds = ("rollout-32", "rollout-16", "rollout-fp8", "rollout-16-other")
    exact, half, eight, other = (torch.load(args.scratch / f"{kind}.pt") for kind in kinds)
    found = {}
    for step, right in exact.items():
        spread = rms(half[step] - other[step])
        drifts = {"16": rms(half[step] - right), "fp8": rms(eight[step] - right)}
        found[f"steps_{step}"] = {
            "noise_standard_deviations": spread,
            **{f"{name}_standard_deviations": value for name, value in drifts.items()},
            **{f"{name}_of_noise": value / spread for name, value in drifts.items()},
            "fp8_over_16": drifts["fp8"] / drifts["16"],
        }
    return found


def ensemble_precisions(args: argparse.Namespace) -> dict[str, Any]:
    """Compare ensembles of a model of middle size: its mean, spread and CRPS in float32, float16 and float8.

    The truth of the scores is another member in float32. Beside the ensembles of the same members stands one of other
    members in float32: what chance does.
    """
    import numpy as np
    from aifs_ensemble.products.evaluation.scores import fair_crps

    args.checkpoint = middle_checkpoint(args)
    wanted = sorted({max(1, args.steps // 2), args.steps})
    precisions = ("32", "16", "fp8") if args.device == "cuda" else ("32", "bf16")
    first, last = 2, 1 + ENSEMBLE_MEMBERS
    made: dict[str, Any] = {}
    truth: dict[int, Any] = {}
    for precision in precisions:
        args.precision = precision
        model = Loaded(args, compiled=precision != "32" and args.device == "cuda", deterministic=True)
        sets = {precision: range(first, last + 1)}
        if precision == "32":
            sets |= {"32, other members": range(last + 1, last + 1 + ENSEMBLE_MEMBERS)}
            truth = _member(model, 1, wanted)
        for name, members in sets.items():
            fields = [_member(model, member, wanted) for member in members]
            made[name] = {step: np.stack([field[step] for field in fields]) for step in wanted}
        print(f"ensemble-precisions: {precision} made", file=sys.stderr, flush=True)
    found: dict[str, Any] = {"members": ENSEMBLE_MEMBERS}
    for step in wanted:
        exact = made["32"][step]
        for name, ensemble in made.items():
            mean = ensemble[step].mean(0, dtype=np.float64)
            found[f"steps_{step}, {name}"] = {
                "spread": math.sqrt(float(ensemble[step].var(0, ddof=1, dtype=np.float64).mean())),
                "crps": float(fair_crps(ensemble[step].copy(), truth[step]).mean()),
                "error_of_mean": math.sqrt(float(((mean - truth[step]) ** 2).mean())),
                "mean_apart_from_32": math.sqrt(float(((mean - exact.mean(0, dtype=np.float64)) ** 2).mean())),
                "members_apart_from_32": math.sqrt(float(np.square(ensemble[step] - exact).mean())),
            }
    return found


def _member(model: Loaded, member: int, wanted: Collection[int]) -> dict[int, Any]:
    """Return a member's fields at some steps: from the first member's initial state, with its own noise."""
    model.rollout.load(model.initial)
    return {step: field.numpy() for step, field in _rolled(model, member, wanted).fields.items()}
