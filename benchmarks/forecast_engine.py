"""Seconds of a forecast step: the forward pass alone, our whole job, and anemoi-inference writing GRIB.

    python benchmarks/forecast_engine.py --model aifs-ens-size --out engine.json        # a GPU machine, full size
    python benchmarks/forecast_engine.py --model demo --steps 4 --reference-steps 2     # any machine, no meaning

Everything runs side by side on one machine in one call. Each mode is a process of its own, so that nothing of one
stays in the memory of another; what a mode measures is written as JSON and printed as a table at the end.

forward-eager       anemoi-models' forward pass, autocast
forward-compiled    the same, encoder, processor and decoder through torch.compile
forward-compiled-deterministic   the same with torch's deterministic algorithms
forward-own         what a job takes that is not accelerated: of the model's own parts what torch.compile speeds up
forward             ours (aifs_ensemble.model.accelerated): GPU only
forward-untruncated the same, the skip connection left whole: what truncation costs: GPU only
forward-flex        the same with flex_attention in the window, whatever the card: GPU only
forward-graph       the same as a CUDA graph, and whether it gives the same bits: GPU only
self-check          both passes over one step, by variable, with their time and memory: GPU only
profile             kernels of the job's loop by device time, how long the card idles, what waits for it: GPU only
profile-own         the same of a job that is not accelerated: GPU only
drift               ours against the eager forward pass, rolled out over 1, 12 and 132 steps, beside what a step
                    changes and what other noise does: GPU only
engine-cold, engine the whole job, GRIB files, indexes and checksums included; without and with the compile cache
engine-graph        the whole job with its forward pass as a CUDA graph
engine-killed       killed halfway and started again: its bytes must be those of the others
engine-streaming    the same, delivering to a folder as it goes
engine-2, engine-3  two and three members at once, the encoder processes divided among them; they share the card,
                    or spread over the cards of the machine
engine-2-graph, engine-3-graph   the same with CUDA graphs
engine-coarse, engine-3-coarse   the whole job that also makes coarse leads of all variables at 1.5 degrees
precisions          the forward pass by precision, compilation and chunks: seconds and peak memory: GPU only
anemoi-serial, anemoi-parallel   anemoi-inference with GribFileOutput, and with ParallelOutput and 8 writers

What --modes must name:
forward-fp8, engine-fp8-cold, engine-fp8, engine-fp8-graph, engine-fp8-killed
                    as those without fp8, in forecast.precision fp8: GPU only
float8-layers       the forward pass in 16 bits and with more and more kinds of layers in float8: GPU only
float8-products     one step with a single product in float8, a model of middle size on the grid of --model: GPU only
rollout-32, rollout-16, rollout-fp8, rollout-16-other            a rollout each, the last with another member's noise
drift-precisions    those four compared after 1, 12 and 132 steps
ensemble-precisions ten members in each precision, a model of middle size: spread, mean and CRPS
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import subprocess
import sys
import time
import warnings
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))

from aifs_ensemble.common.gpu import benchmark_problem
from aifs_ensemble.common.models import get_model
from aifs_ensemble.common.overlays import use_packages
from engine.forward import drift, forward, precisions, self_check
from engine.job import engine, job
from engine.precision import drift_precisions, ensemble_precisions, float8_layers, float8_products, rollout
from engine.profiled import profile
from engine.reference import anemoi
from engine.report import same_bytes, table
from engine.setup import prepare

TOY = "python benchmarks/forecast_engine.py --model demo --steps 4 --reference-steps 2"
MODES = (
    "forward-eager", "forward-compiled", "forward-compiled-deterministic", "forward-own", "forward",
    "forward-untruncated", "forward-flex", "forward-graph",
    "engine-cold", "engine", "engine-graph", "engine-streaming", "engine-killed",
    "engine-2", "engine-3", "engine-2-graph", "engine-3-graph", "engine-coarse", "engine-3-coarse",
    "anemoi-serial", "anemoi-parallel",
    "precisions", "drift", "profile", "profile-own", "self-check",
)  # fmt: skip
NAMED_ONLY = (
    "forward-fp8", "engine-fp8-cold", "engine-fp8", "engine-fp8-graph", "engine-fp8-killed",
    "float8-layers", "float8-products",
    "rollout-32", "rollout-16", "rollout-fp8", "rollout-16-other", "drift-precisions", "ensemble-precisions",
)  # fmt: skip
GPU_ONLY = {
    "forward", "forward-untruncated", "forward-flex", "forward-graph", "drift", "profile", "profile-own", "precisions",
    "forward-compiled", "forward-compiled-deterministic", "self-check",
    "forward-fp8", "engine-fp8-cold", "engine-fp8", "engine-fp8-graph", "engine-fp8-killed",
    "float8-layers", "float8-products", "rollout-fp8",
}  # fmt: skip


def run_mode(args: argparse.Namespace, mode: str) -> dict[str, Any]:
    use_packages(get_model(args.model))
    alone = {"drift": drift, "precisions": precisions, "profile": profile, "self-check": self_check}
    alone["profile-own"] = partial(profile, own="the benchmark asks for it")
    alone |= {
        "float8-layers": float8_layers, "float8-products": float8_products, "drift-precisions": drift_precisions,
        "ensemble-precisions": ensemble_precisions,
    }  # fmt: skip
    if mode in alone:
        return alone[mode](args)
    if mode.startswith("rollout"):
        return rollout(args, kind=mode)
    if "fp8" in mode:
        args.precision = "fp8"
    if mode.startswith("forward"):
        return forward(args, kind=mode)
    return engine(args, kind=mode) if mode.startswith("engine") else anemoi(args, kind=mode)


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="aifs-ens-size")
    parser.add_argument("--checkpoint", type=Path, help="instead of one that is built")
    parser.add_argument("--scratch", type=Path, default=Path("scratch/benchmark"))
    parser.add_argument("--device", choices=("cuda", "cpu"), help="cuda where there is a GPU")
    parser.add_argument("--precision", choices=("16", "bf16", "fp8", "32"), help="16 on a GPU, 32 on the CPU")
    parser.add_argument("--steps", type=int, default=132)
    parser.add_argument("--reference-steps", type=int, default=10, help="steps of the anemoi-inference modes")
    parser.add_argument("--repeats", type=int, default=10, help="forward passes timed")
    parser.add_argument("--encoders", type=int, default=max(1, min(14, (os.cpu_count() or 2) - 2)))
    parser.add_argument("--chunks", type=int, default=10)
    parser.add_argument("--modes", nargs="+", choices=(*MODES, *NAMED_ONLY), default=list(MODES))
    parser.add_argument("--mode-seconds", type=float, default=600, help="a mode that takes longer is given up")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--job", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--streaming", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--cuda-graph", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--coarse", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--mode", help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.device is None:
        if problem := benchmark_problem(args.model, TOY):
            parser.error(problem)
        import torch

        args.device = "cuda" if torch.cuda.is_available() else "cpu"
    args.precision = args.precision or ("16" if args.device == "cuda" else "32")
    names = ("model", "scratch", "device", "precision", "steps", "reference_steps", "repeats", "encoders", "chunks")
    args.passed = [str(x) for name in names for x in (f"--{name.replace('_', '-')}", getattr(args, name))]
    if args.checkpoint:
        args.passed += ["--checkpoint", str(args.checkpoint)]
    return args


def in_a_process(command: list[str], limit: float) -> tuple[int, str, str]:
    """Run a mode with all processes that it starts, for `limit` seconds; return exit code, output and errors."""
    mode = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        output, errors = mode.communicate(timeout=limit)
        return mode.returncode, output, errors
    except subprocess.TimeoutExpired:
        os.killpg(mode.pid, signal.SIGKILL)
        output, errors = mode.communicate()
        return 1, output, f"{errors}\nnot over after {limit:.0f} s"
    finally:
        with suppress(ProcessLookupError):
            os.killpg(mode.pid, signal.SIGKILL)


def main() -> None:
    warnings.filterwarnings("ignore")
    args = parse(sys.argv[1:])
    logging.basicConfig(level=logging.WARNING)
    logging.getLogger("anemoi").setLevel(logging.ERROR)
    if args.job:
        return job(args)
    if args.mode:
        print("RESULT " + json.dumps(run_mode(args, args.mode)))
        return None
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # takes the mode that runs with it
    results: dict[str, Any] = {"schema": "aifs-ensemble/engine-benchmark/1", "model": args.model, "steps": args.steps,
                               "precision": args.precision, "encoders": args.encoders, "chunks": args.chunks,
                               "device": args.device, "cores": os.cpu_count(), "modes": {}}  # fmt: skip
    results["prepare"] = prepare(args)
    for mode in args.modes:
        if mode in GPU_ONLY and args.device != "cuda":
            continue
        command = [sys.executable, __file__, *args.passed, "--mode", mode]
        start = time.perf_counter()
        code, output, errors = in_a_process(command, args.mode_seconds)
        line = next((x for x in output.splitlines() if x.startswith("RESULT ")), None)
        if code or line is None:
            print(f"{mode}: failed\n{output[-500:]}\n{errors}", file=sys.stderr, flush=True)
            results["modes"][mode] = {"failed": errors.strip()[-1000:]}
            continue
        results["modes"][mode] = json.loads(line.removeprefix("RESULT "))
        print(f"{mode} ({time.perf_counter() - start:.0f} s): {line[7:900]}", file=sys.stderr, flush=True)
        if args.out:
            args.out.write_text(json.dumps(results, indent=1) + "\n")
    print("\n".join(table(results, (*MODES, *NAMED_ONLY))))
    print(same_bytes(results["modes"]))
    failed = [mode for mode, found in results["modes"].items() if "failed" in found]
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")
    return None


if __name__ == "__main__":
    main()
