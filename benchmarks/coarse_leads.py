"""Seconds of a forecast step without coarse leads and with them.

    python benchmarks/coarse_leads.py --out coarse.json                                       # a GPU machine, full size
    python benchmarks/coarse_leads.py --model demo --steps 4 --encoders 1 --seconds 60        # any machine, no meaning

One process makes the same member again and again, with the model in place, each time another way; every round begins
with another way. So all ways see the same machine in the same minutes. What counts is how much longer a step takes than
without coarse leads in the same round.

Ways, each of which may end with the niceness of the encoders, as in ``all:19`` (5 without):
off     no coarse leads
all     all fields at 1.5 degrees (linear, precipitation by grid box)
ten     ten of the fields

loop    seconds from step to step, the wall clock's: mean over a run without its first steps
median  of the same; a step that waits shows in the mean alone
waits   of the loop's thread for a processor, milliseconds a step, where Linux tells
cpu     of all processors, the encoders' included: seconds a step, their start among it
Leads must be the same to the byte in all ways, and coarse leads in all ways of the same fields.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import math
import os
import resource
import shutil
import statistics
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))

from aifs_ensemble.common.config import Config
from engine.setup import checkpoint_path, configuration, prepare

WAYS = ("off", "all", "ten")
TEN = ["10u", "10v", "2d", "2t", "msl", "t_850", "tp", "u_850", "v_850", "z_500"]
FILLING = 5  # steps until slots and queues are as full as they get
MEMBER = 1


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="aifs-ens-size")
    parser.add_argument("--checkpoint", type=Path, help="instead of one that is built")
    parser.add_argument("--scratch", type=Path, default=Path("scratch/benchmark"))
    parser.add_argument("--ways", nargs="+", default=["off", "all", "ten"])
    parser.add_argument("--encoders", type=int, nargs="+", default=[10, 12])
    parser.add_argument("--steps", type=int, default=60, help="of one run")
    parser.add_argument("--seconds", type=float, default=440, help="no run begins that may last longer")
    parser.add_argument("--chunks", type=int, default=10)
    parser.add_argument("--cuda-graph", action="store_true", help="the forward pass as a CUDA graph")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    for way in args.ways:
        name, _, nice = way.partition(":")
        if name not in WAYS or (nice and not nice.isdigit()):
            parser.error(f"--ways {way}, expected one of {', '.join(WAYS)}, or such a one with :NICENESS")
    import torch

    args.device = "cuda" if torch.cuda.is_available() else "cpu"
    args.precision = "16" if args.device == "cuda" else "32"
    return args


def config_of(args: argparse.Namespace, way: str, encoders: int) -> Config:
    """Return the configuration of a run."""
    name = way.partition(":")[0]
    coarse = {"enabled": name != "off", "method": {"default": "linear", "tp": "grid-box-average"}}
    if name == "ten":
        coarse["variables"] = TEN
    given = argparse.Namespace(**{**vars(args), "encoders": encoders, "coarse": False})
    return configuration(given, products={"coarse": coarse})


class Clock:
    """The loop over steps, watched: when each step began to be sent, and how long its thread waited for a processor."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.waited = math.nan

    def roll(self, stepper: Any, rollout: Any, forcings: Any, sink: Any, **more: Any) -> float:
        """Do `forecast.rollout.roll`."""
        from aifs_ensemble.forecast.rollout import roll

        clock = self

        class Watched:
            advanced = staticmethod(sink.advanced)

            @staticmethod
            def step(*given: Any) -> None:
                clock.times.append(time.perf_counter())
                sink.step(*given)

        before = waits()
        forcings_waited = roll(stepper, rollout, forcings, Watched(), **more)
        self.waited = waits() - before
        return forcings_waited


def waits() -> float:
    """Return the seconds that this thread was ready and had no processor."""
    try:
        content = Path(f"/proc/self/task/{threading.get_native_id()}/schedstat").read_text()
        return int(content.split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        return math.nan


@contextmanager
def arranged(way: str, clock: Clock, kept: dict[str, Any]) -> Iterator[None]:
    """While it lasts a forecast is made this way, by the model of the forecast before it."""
    from aifs_ensemble.fields import encoder_pool
    from aifs_ensemble.forecast import engine

    nice = way.partition(":")[2]
    before = engine.load, engine.roll, encoder_pool._NICENESS

    def load(*given: Any) -> Any:
        if "loaded" in kept:
            kept["loaded"].stepper.warm_up = lambda *_: None
        else:
            kept["loaded"] = before[0](*given)
        return kept["loaded"]

    engine.load, engine.roll = load, clock.roll  # type: ignore[assignment]
    encoder_pool._NICENESS = int(nice or before[2])
    try:
        yield
    finally:
        engine.load, engine.roll, encoder_pool._NICENESS = before


def processor_seconds() -> float:
    """Return what this process and those that it has ended took."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(of.ru_utime + of.ru_stime for of in used)


def run(args: argparse.Namespace, way: str, encoders: int, kept: dict[str, Any]) -> dict[str, Any]:
    """Make the member once."""
    import torch
    from aifs_ensemble.planning.throughput import card_step_seconds
    from aifs_ensemble.workflow.member_job import run_member

    config, clock = config_of(args, way, encoders), Clock()
    for folder in ("work", "forecasts", "coarse", "manifests", "receipts", "metrics"):
        shutil.rmtree(config.scratch.base / folder, ignore_errors=True)
    gc.collect()
    if args.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    before = processor_seconds()
    with arranged(way, clock, kept):
        manifest = run_member(
            config, MEMBER, initial_state=config.scratch.initial(MEMBER), checkpoint=checkpoint_path(args),
            manifest=config.scratch.manifest(MEMBER),
        )  # fmt: skip
    coarse = [record.coarse for record in manifest.leads if record.coarse]
    if len(coarse) != (0 if way.startswith("off") else args.steps):
        raise SystemExit(f"{way}: {len(coarse)} coarse leads")
    between = [b - a for a, b in zip(clock.times[FILLING:], clock.times[FILLING + 1 :], strict=False)]
    between = between or [b - a for a, b in zip(clock.times, clock.times[1:], strict=False)]
    return {
        "way": way, "encoders": encoders, "loop": statistics.mean(between), "median": statistics.median(between),
        "job": card_step_seconds([manifest]), "forward": statistics.median(manifest.step_seconds),
        "waits": 1e3 * clock.waited / args.steps, "cpu": (processor_seconds() - before) / args.steps,
        "wait_output": manifest.timings["wait_output"], "drain": manifest.timings["drain"],
        "gpu_mb": torch.cuda.max_memory_allocated() / 1e6, "between": [round(s, 5) for s in between],
        "crc32c": [lead.grib.crc32c for lead in manifest.leads], "coarse_crc32c": [c.grib.crc32c for c in coarse],
    }  # fmt: skip


def machine() -> dict[str, Any]:
    """Return what decides how processors are shared here."""

    def text(path: str) -> str:
        try:
            return Path(path).read_text().strip()
        except OSError:
            return ""

    import torch

    card = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return {"card": card, "processors": os.cpu_count(), "kernel": " ".join(os.uname()[i] for i in (0, 2, 3)),
            "threads of one core": text("/sys/devices/system/cpu/cpu0/topology/thread_siblings_list"),
            "cpu.max": text("/sys/fs/cgroup/cpu.max"), "load": os.getloadavg()[0]}  # fmt: skip


def same_bytes(runs: list[dict[str, Any]]) -> str:
    """Return what was the same; ValueError for leads that differ between two runs."""
    leads = {tuple(made["crc32c"]) for made in runs}
    coarse: dict[str, set] = {}
    for made in runs:
        if made["coarse_crc32c"]:
            fields = made["way"].partition(":")[0]
            coarse.setdefault(fields, set()).add(tuple(made["coarse_crc32c"]))
    if len(leads) > 1 or any(len(found) > 1 for found in coarse.values()):
        raise ValueError(f"leads differ: {len(leads)} kinds; coarse leads: { {k: len(v) for k, v in coarse.items()} }")
    return f"leads are the same to the byte in {len(runs)} runs, coarse leads ({', '.join(coarse) or 'none'}) as well"


def table(args: argparse.Namespace, runs: list[dict[str, Any]]) -> list[str]:
    """Return a row for each way and number of encoders: means over its runs, and how much more than without."""
    head = ("loop", "median", "job", "forward", "waits", "cpu", "gpu_mb")
    lines = [f"{'encoders':>8} {'way':14} {'runs':>4} " + " ".join(f"{name:>8}" for name in head)
             + f" {'more':>8} {'+-':>7} {'median more':>12} {'+-':>7}"]  # fmt: skip
    for encoders in args.encoders:
        for way in args.ways:
            made = [x for x in runs if x["way"] == way and x["encoders"] == encoders]
            if not made:
                continue
            line = f"{encoders:8} {way:14} {len(made):4} "
            line += " ".join(f"{statistics.mean(x[name] for x in made):8.4g}" for name in head)
            for what, width in (("loop", 8), ("median", 12)):
                mean, error = more(runs, made, what)
                line += f" {mean:{width}.2%} {error:7.2%}"
            lines.append(line)
    return lines


def more(runs: list[dict[str, Any]], made: list[dict[str, Any]], what: str) -> tuple[float, float]:
    """Return how much longer runs take than those of their rounds without coarse leads, and the standard error."""
    without = {(x["round"], x["encoders"]): x[what] for x in runs if x["way"] == "off"}
    pairs = [(x[what], without.get((x["round"], x["encoders"]))) for x in made]
    ratios = [own / other - 1 for own, other in pairs if other]
    if not ratios:
        return math.nan, math.nan
    error = statistics.stdev(ratios) / len(ratios) ** 0.5 if len(ratios) > 1 else math.nan
    return statistics.mean(ratios), error


def main() -> None:
    warnings.filterwarnings("ignore")
    start = time.monotonic()
    args = parse()
    logging.basicConfig(level=logging.WARNING)
    logging.getLogger("anemoi").setLevel(logging.ERROR)
    cache = args.scratch / "inductor"
    os.environ |= {"TORCHINDUCTOR_CACHE_DIR": str(cache), "TRITON_CACHE_DIR": str(cache / "triton")}
    prepare(argparse.Namespace(**{**vars(args), "encoders": 1, "coarse": False}))
    result: dict[str, Any] = {"machine": machine(), "steps": args.steps, "cuda_graph": args.cuda_graph, "runs": []}
    print(result["machine"], f"ready after {time.monotonic() - start:.0f} s", flush=True)
    kept: dict[str, Any] = {}
    # not counted: it compiles, makes the weights of the interpolation, and touches memory for the first time
    run(args, "all", args.encoders[0], kept)
    print(f"first run over after {time.monotonic() - start:.0f} s", flush=True)
    cases = [(way, encoders) for encoders in args.encoders for way in args.ways]
    longest, number = 0.0, 0
    while True:
        way, encoders = cases[(number // len(cases) + number) % len(cases)]
        began = time.monotonic()
        if began - start + longest > args.seconds:
            break
        made = run(args, way, encoders, kept) | {"round": number // len(cases)}
        longest, number = max(longest, time.monotonic() - began), number + 1
        result["runs"].append(made)
        print(f"{time.monotonic() - start:4.0f} s {encoders:3} {way:14} loop {made['loop']:.4f} "
              f"median {made['median']:.4f} waits {made['waits']:.2f} ms cpu {made['cpu']:.2f} s",
              flush=True)  # fmt: skip
        if args.out:
            args.out.write_text(json.dumps(result) + "\n")
    print("\n".join(table(args, result["runs"])))
    print(same_bytes(result["runs"]))


if __name__ == "__main__":
    main()
