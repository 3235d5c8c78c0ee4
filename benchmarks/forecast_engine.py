"""Seconds of a forecast step: the forward pass alone, our whole job, and anemoi-inference writing GRIB.

    python benchmarks/forecast_engine.py --model aifs-ens-size --out engine.json        # a GPU machine, full size
    python benchmarks/forecast_engine.py --model demo --steps 4 --reference-steps 2     # any machine, no meaning

Everything runs side by side on one machine in one call. Each mode is a process of its own, so that nothing of one
stays in the memory of another; what a mode measures is written as JSON and printed as a table at the end.

forward-eager       anemoi-models' forward pass, autocast
forward-compiled    the same, encoder, processor and decoder through torch.compile
forward-compiled-deterministic   the same with torch's deterministic algorithms
forward             ours (aifs_ensemble.model.accelerated): GPU only
forward-graph       the same as a CUDA graph, and whether it gives the same bits: GPU only
profile             kernels of the job's loop by device time, how long the card idles, what waits for it: GPU only
drift               ours against the eager forward pass, rolled out over 1, 12 and 132 steps, beside what a step
                    changes and what other noise does: GPU only
engine-cold, engine the whole job, GRIB files, indexes and checksums included; without and with the compile cache
engine-graph        the whole job with its forward pass as a CUDA graph
engine-killed       killed halfway and started again: its bytes must be those of the others
engine-streaming    the same, delivering to a folder as it goes
engine-2, engine-3  two and three members at once, the encoder processes divided among them; they share the card,
                    or spread over the cards of the machine
engine-2-graph, engine-3-graph   the same with CUDA graphs
precisions          the forward pass by precision, compilation and chunks: seconds and peak memory: GPU only
anemoi-serial, anemoi-parallel   anemoi-inference with GribFileOutput, and with ParallelOutput and 8 writers
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import logging
import math
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

from aifs_ensemble.common.config import Config, read_files  # noqa: E402

MODES = (
    "forward-eager", "forward-compiled", "forward-compiled-deterministic", "forward", "forward-graph", "engine-cold",
    "engine", "engine-graph", "engine-streaming", "engine-killed", "engine-2", "engine-3",
    "engine-2-graph", "engine-3-graph", "anemoi-serial", "anemoi-parallel", "precisions", "drift", "profile",
)  # fmt: skip
GPU_ONLY = {
    "forward", "forward-graph", "drift", "profile", "precisions", "forward-compiled", "forward-compiled-deterministic",
}  # fmt: skip
CYCLE = "20250819_0000"
WARM_STEPS = 2  # of a profiled loop, before what is counted


def configuration(args: argparse.Namespace, **over: Any) -> Config:
    """Return the configuration of the benchmarked job."""
    raw = read_files(ROOT / "config" / "config.yaml")
    raw |= {"model": args.model, "members": "1-3", "lead_hours": 6 * args.steps, "cycle": CYCLE}
    raw |= {"scratch": str(args.scratch), "destination": str(args.scratch / "delivered")}
    raw["forecast"] = {
        "device": args.device, "precision": args.precision, "compile": args.device == "cuda",
        "encoders": args.encoders, "chunks": args.chunks, "restart_hours": 72, "progress": False,
        "cuda_graph": args.cuda_graph,
    }  # fmt: skip
    for key, value in over.items():
        raw[key] = value
    return Config(raw)


def prepare(args: argparse.Namespace) -> dict[str, Any]:
    """Make the checkpoint and the initial states that all modes share."""
    from aifs_ensemble.initial.build import build_member
    from aifs_ensemble.model.checkpoint.fetch import provide_checkpoint

    start = time.perf_counter()
    config = configuration(args)
    missing = [member for member in config.members if not config.scratch.initial(member).exists()]
    with ProcessPoolExecutor(len(config.members), get_context("spawn")) as pool:
        states = [pool.submit(build_member, config, m, config.scratch.initial(m)) for m in missing]
        provide_checkpoint(config.model, checkpoint_path(args))
        for state in states:
            state.result()
    return {"seconds": time.perf_counter() - start}


def checkpoint_path(args: argparse.Namespace) -> Path:
    return args.checkpoint or args.scratch / "checkpoints" / f"{args.model}.ckpt"


class Loaded:
    """A model and the input of its first step."""

    def __init__(self, args: argparse.Namespace, *, compiled: bool = False, deterministic: bool = False):
        from aifs_ensemble.forecast import engine
        from aifs_ensemble.forecast.request import ForecastRequest, read_initial
        from aifs_ensemble.model.stepper import prepare_environment, resolve_device

        config = configuration(args)
        settings = dict(config["forecast"])
        settings |= {"compile": compiled, "deterministic": deterministic}
        raw = dict(config)
        raw["forecast"] = settings
        self.request = ForecastRequest.from_config(Config(raw), 1, checkpoint=checkpoint_path(args))
        prepare_environment(device=args.device, deterministic=deterministic)
        self.device = resolve_device(args.device)
        self.loaded = engine.load(self.request, self.device)
        self.initial = read_initial(self.request)
        self.rollout = engine.start_rollout(self.request, self.loaded, self.initial, None)

    def forward(self) -> Any:
        return self.loaded.stepper.forward(self.rollout.inputs, first=False, seed=self.request.seed(2))


def timed(work: Callable[[], Any], device: Any, repeats: int) -> tuple[Any, float]:
    """Return the result and the median seconds of `work`, the device's own time where it has a clock."""
    import torch

    result, seconds = None, []
    for _ in range(repeats):
        if device.type == "cuda":
            before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            before.record()
            result = work()
            after.record()
            torch.cuda.synchronize()
            seconds.append(before.elapsed_time(after) / 1000)
        else:
            start = time.perf_counter()
            result = work()
            seconds.append(time.perf_counter() - start)
    return result, statistics.median(seconds)


def forward(args: argparse.Namespace, *, kind: str) -> dict[str, Any]:
    """Time the forward pass alone."""
    import torch

    deterministic = kind not in ("forward-compiled", "forward-eager")
    args.cuda_graph = kind == "forward-graph"
    if kind.startswith("forward-compiled"):
        args.chunks = 1  # chunks of unequal sizes would be compiled one by one, up to torch's limit
    model = Loaded(args, compiled=kind in ("forward", "forward-graph"), deterministic=deterministic)
    if kind.startswith("forward-compiled"):
        inner = model.loaded.stepper.model.model
        for part in ("encoder", "processor", "decoder"):
            setattr(inner, part, torch.compile(getattr(inner, part), dynamic=False))
    launched, first = timed(model.forward, model.device, 1)
    if kind == "forward-graph":
        model.loaded.stepper.warm_up(model.rollout.inputs)
    timed(model.forward, model.device, 2)
    if model.device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    result, seconds = timed(model.forward, model.device, args.repeats)
    again, _ = timed(model.forward, model.device, 1)
    found = {"step_seconds": seconds, "first_call_seconds": first, "repeatable": bool(torch.equal(result, again))}
    if kind == "forward-graph":
        if not model.loaded.stepper.recorded:
            raise SystemExit("forward-graph: the pass is not recorded, expected a CUDA graph")
        found |= {"same_as_launched": bool(torch.equal(result, launched))}
    if model.device.type == "cuda":
        peak = torch.cuda.max_memory_allocated()
        found["sm_mhz"], found["watts"] = clock_and_power(model)
        if kind == "forward-graph":  # a graph's memory is not allocated again by what replays it
            torch.cuda.empty_cache()
            peak = torch.cuda.memory_reserved()
        found |= {"peak_gpu_mb": peak / 1e6, "gpu": torch.cuda.get_device_name()}
    return found


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
        std = torch.as_tensor(model.loaded.stepper.model.statistics["stdev"])
        names = model.loaded.stepper.model.data_indices.data.input.name_to_index
        scale = std[[names[name] for name in model.request.model.prognostic]].float().to(model.device)
        del model
        gc.collect()
        torch.cuda.empty_cache()
    found = {}
    for step in wanted:
        eager, ours, other = (fields[step][:, places] for fields in kept.values())

        def rms(difference: Any) -> float:
            return float((difference / scale).square().mean().sqrt())

        apart, change, spread = rms(ours - eager), rms(eager - start), rms(other - ours)
        found[f"steps_{step}"] = {
            "of_change": apart / change,
            "of_spread": apart / spread,
            "rms_standard_deviations": apart,
            "change_standard_deviations": change,
            "spread_standard_deviations": spread,
        }
    return found


class Discard:
    """Encoders that take fields and do nothing, and the sink that sends fields to them as the job does."""

    def __init__(self, model: Loaded):
        import numpy as np
        from aifs_ensemble.forecast.device_copy import FieldTransfer

        outputs = model.request.model.outputs
        self.buffer = np.zeros((3, len(outputs), model.loaded.places.points), dtype=np.float32)
        self._turn = itertools.cycle(SimpleNamespace(array=part) for part in self.buffer)
        self.transfer = FieldTransfer(self, model.rollout, outputs, "profile")
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


def profile(args: argparse.Namespace) -> dict[str, Any]:
    """Return the device's time by kernel over steps of the job's loop, without encoders."""
    import torch
    from aifs_ensemble.forecast.rollout import roll
    from torch.profiler import ProfilerActivity

    model = Loaded(args, compiled=True, deterministic=True)
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
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    seconds = timed(model.forward, model.device, 1 if precision == "32" else args.repeats)[1]
    return {
        "step_seconds": seconds,
        "peak_gpu_mb": torch.cuda.max_memory_allocated() / 1e6,
        "reserved_mb": torch.cuda.memory_reserved() / 1e6,
    }


def killed_halfway(command: list[str], environment: dict[str, str], journal: Path, steps: int) -> None:
    """Start a job and kill it once it has published half of its leads."""

    def published() -> int:
        return journal.read_bytes().count(b"\n") if journal.exists() else 0

    job = subprocess.Popen(command, env=environment, start_new_session=True)
    while job.poll() is None and published() < steps // 2:
        time.sleep(0.01)
    if job.poll() is None:
        os.killpg(job.pid, signal.SIGKILL)
        job.wait()
    if published() >= steps:
        raise SystemExit("engine-killed: the job was done before it was killed, expected more --steps")


def engine(args: argparse.Namespace, *, kind: str) -> dict[str, Any]:
    """Run the whole job for one or more members at once, each in a process of its own."""
    from aifs_ensemble.common.manifest import read_member_manifest
    from aifs_ensemble.planning.throughput import card_step_seconds

    members = next((int(part) for part in kind.split("-") if part.isdigit()), 1)
    cache = args.scratch / "inductor"
    if kind == "engine-cold":
        shutil.rmtree(cache, ignore_errors=True)
    config = configuration(args)
    made = [config.scratch.base / folder for folder in ("work", "forecasts", "manifests", "receipts", "metrics")]
    for folder in (*made, args.scratch / "delivered"):
        shutil.rmtree(folder, ignore_errors=True)
    environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(cache), "TRITON_CACHE_DIR": str(cache / "triton")}
    encoders = ["--encoders", str(max(1, args.encoders // members))]
    command = [sys.executable, __file__, *args.passed, *encoders, "--job"]
    if kind == "engine-killed":
        killed_halfway([*command, "1"], environment, config.scratch.work(1) / "journal.jsonl", args.steps)
    special = [f"--{word}" for word, mode in (("streaming", "streaming"), ("cuda-graph", "graph")) if mode in kind]
    start = time.perf_counter()
    jobs = [subprocess.Popen([*command, str(member), *special], env=environment) for member in config.members[:members]]
    codes = [job.wait() for job in jobs]
    if any(codes):
        raise SystemExit(f"{kind}: a job failed")
    wall = time.perf_counter() - start
    manifests = [read_member_manifest(config.scratch.manifest(m)) for m in config.members[:members]]
    timings = manifests[0].timings
    recorded = manifests[0].attempts[-1].get("cuda_graph")
    if "graph" in kind and args.device == "cuda" and not recorded:
        raise SystemExit(f"{kind}: cuda_graph {recorded} in the manifest, expected True")
    step = card_step_seconds(manifests)
    size = sum(manifest.bytes for manifest in manifests)
    return {
        "members_at_once": members,
        "wall_seconds": wall,
        "step_seconds": step,
        "forward_seconds": statistics.median(s for manifest in manifests for s in manifest.step_seconds),
        "seconds_per_member": wall / members,
        "startup_seconds": wall - timings["steps"] - timings["drain"] if members == 1 else None,
        "drain_seconds": timings["drain"],
        "timings": timings,
        "steps": manifests[0].step_seconds,
        "crc32c": [lead.grib.crc32c for lead in manifests[0].leads],
        "bytes": size,
        "fields": sum(lead.messages for manifest in manifests for lead in manifest.leads),
        "gigabytes_per_second": size / members / args.steps / step / 1e9,
    } | metrics(config, members)


def metrics(config: Config, members: int) -> dict[str, Any]:
    """Return what the sampler saw while steps were made: the card's use and the memory's peaks."""
    import pandas as pd

    frames = []
    for member in config.members[:members]:
        path = config.scratch.base / "metrics" / f"member{member:03d}.csv"
        if path.exists():
            frames.append(pd.read_csv(path, comment="#"))
    found: dict[str, Any] = {}
    for frame in frames:
        busy = frame[frame["lead"] > 0] if "lead" in frame else frame
        for column in frame.columns:
            if "gpu" in column and frame[column].notna().any():
                name = f"{column}_mean" if "util" in column else f"{column}_max"
                value = busy[column].mean() if "util" in column else frame[column].max()
                found[name] = max(float(value), found.get(name, 0.0))
    return found


def job(args: argparse.Namespace) -> None:
    """Run one member as a rule's job does."""
    from aifs_ensemble.workflow.member_job import run_member

    over = {"delivery": {"streaming": True}} if args.streaming else {}
    config = configuration(args, **over)
    run_member(
        config, args.job, initial_state=config.scratch.initial(args.job), checkpoint=checkpoint_path(args),
        manifest=config.scratch.manifest(args.job),
    )  # fmt: skip


def anemoi(args: argparse.Namespace, *, kind: str) -> dict[str, Any]:
    """Time anemoi-inference's own loop with its GRIB output, in 24 bits CCSDS as it comes."""
    from datetime import datetime

    from aifs_ensemble.fields.state import read_state
    from aifs_ensemble.model import attention
    from anemoi.inference.outputs.gribfile import GribFileOutput
    from anemoi.inference.outputs.parallel import ParallelOutput
    from anemoi.inference.runners.simple import SimpleRunner

    attention.ensure_flash_attention()
    config = configuration(args)
    runner = SimpleRunner(str(checkpoint_path(args)), device=args.device, precision=args.precision)
    metadata = next(iter(runner.tensor_handlers.values())).metadata
    initial = read_state(config.scratch.initial(1))
    fields = {name: initial.variable(name).copy() for name in initial.variables}
    date = datetime(2025, 8, 19)
    lead = 6 * args.reference_steps
    runner.reference_date, runner.time_step, runner.lead_time, runner.write_initial_state = date, 6, lead, False
    state = {"date": date, "fields": fields}
    for _ in runner.run(lead_time=6, input_states=state):
        pass
    path = args.scratch / "anemoi.grib"
    templates = [{"file": str(grib_template(config.model.grid, args.scratch / "template.grib2"))}]
    output, opened, start = None, False, time.perf_counter()
    for made in runner.run(lead_time=lead, input_states=state):
        if output is None:
            if kind == "anemoi-serial":
                output = GribFileOutput(
                    runner, metadata, path=str(path), templates=templates, write_initial_state=False
                )
            else:
                inner = {"grib": {"path": str(path), "templates": templates, "write_initial_state": False}}
                output = ParallelOutput(runner, metadata, num_writers=8, output=inner)
        if not opened:
            output.open(made)
            opened = True
        output.write_state(made)
    looped = time.perf_counter() - start
    output.close()
    seconds = time.perf_counter() - start
    return {"step_seconds": looped / args.reference_steps, "closing_seconds": seconds - looped,
            "steps": args.reference_steps}  # fmt: skip


def grib_template(grid: str, path: Path) -> Path:
    """Write a message for anemoi-inference to copy: the grid, CCSDS, 24 bits."""
    import eccodes

    handle = eccodes.codes_grib_new_from_samples(f"reduced_gg_pl_{grid.lstrip('N')}_grib2")
    eccodes.codes_set(handle, "packingType", "grid_ccsds")
    eccodes.codes_set(handle, "bitsPerValue", 24)
    with path.open("wb") as file:
        eccodes.codes_write(handle, file)
    eccodes.codes_release(handle)
    return path


def run_mode(args: argparse.Namespace, mode: str) -> dict[str, Any]:
    if mode in ("drift", "precisions", "profile"):
        return {"drift": drift, "precisions": precisions, "profile": profile}[mode](args)
    if mode.startswith("forward"):
        return forward(args, kind=mode)
    return engine(args, kind=mode) if mode.startswith("engine") else anemoi(args, kind=mode)


def same_bytes(modes: dict[str, Any]) -> str:
    """Return which modes made the same files of member 1, byte for byte; ValueError naming those that did not."""
    made = {mode: found["crc32c"] for mode, found in modes.items() if "crc32c" in found}
    different = [mode for mode, crc32c in made.items() if crc32c != next(iter(made.values()))]
    if different:
        raise ValueError(f"member 1 differs between {next(iter(made))} and {', '.join(different)}")
    return (
        f"member 1 is the same to the byte in {', '.join(made)}"
        if len(made) > 1
        else "fewer than two modes made members"
    )


def table(results: dict[str, Any]) -> list[str]:
    """Return the table of all modes."""
    lines = [f"{'mode':32} {'s/step':>8} {'s/member':>9} {'GB/s':>6} {'GPU MB':>8} {'GPU %':>6}"]
    for mode in MODES:
        found = results["modes"].get(mode)
        if not found or "step_seconds" not in found:
            continue
        memory = found.get("peak_gpu_mb") or max((v for k, v in found.items() if k.startswith("gpu_mem")), default=0)
        used = next((v for k, v in found.items() if "util" in k), float("nan"))
        lines.append(
            f"{mode:32} {found['step_seconds']:8.4f} {found.get('seconds_per_member') or float('nan'):9.1f} "
            f"{found.get('gigabytes_per_second') or float('nan'):6.2f} {memory:8.0f} {used:6.0f}"
        )
    return lines


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="aifs-ens-size")
    parser.add_argument("--checkpoint", type=Path, help="instead of one that is built")
    parser.add_argument("--scratch", type=Path, default=Path("scratch/benchmark"))
    parser.add_argument("--device", choices=("cuda", "cpu"), help="cuda where there is a GPU")
    parser.add_argument("--precision", choices=("16", "bf16", "32"), help="16 on a GPU, 32 on the CPU")
    parser.add_argument("--steps", type=int, default=132)
    parser.add_argument("--reference-steps", type=int, default=10, help="steps of the anemoi-inference modes")
    parser.add_argument("--repeats", type=int, default=10, help="forward passes timed")
    parser.add_argument("--encoders", type=int, default=max(1, min(14, (os.cpu_count() or 2) - 2)))
    parser.add_argument("--chunks", type=int, default=10)
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument("--mode-seconds", type=float, default=600, help="a mode that takes longer is given up")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--job", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--streaming", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--cuda-graph", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--mode", help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.device is None:
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
    print("\n".join(table(results)))
    print(same_bytes(results["modes"]))
    failed = [mode for mode, found in results["modes"].items() if "failed" in found]
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")
    return None


if __name__ == "__main__":
    main()
