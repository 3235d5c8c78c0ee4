"""How much of the time a card computes while `snakemake --profile local` makes several members on it.

    python benchmarks/card_busy.py --out card_busy.json                       # a GPU machine, AIFS ENS v1's size
    python benchmarks/card_busy.py --model demo --steps 160 --simulated-step 0.1 --encoders 1     # any machine

Checkpoint and initial states are made first, and one lead of one member, which fills the compile cache; none of it is
timed. Then all members are made once for each of `--compute-at-once`: 1 is what members that share a card do by
themselves, as many as run at once is no taking of turns. The bytes must be the same.

The card computes while any member is between its first step and the end of its last, as the members' manifests say;
beside it stands NVML's utilisation, sampled here. Both are of three spans: the whole call of snakemake, from the first
member's start to the last one's end, and from the first step to the last.

With `--simulated-step` a processor stands for the card (simulated_card/sitecustomize.py): it shows how start-ups and
computing lie beside one another, and nothing of a real card's speed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))

from aifs_ensemble.common.config import Config, read_files
from aifs_ensemble.common.gpu import benchmark_problem
from aifs_ensemble.common.manifest import MemberManifest, read_member_manifest
from aifs_ensemble.planning.intervals import Intervals, length, union
from aifs_ensemble.planning.throughput import own_start_up_seconds, phase_seconds

ROOT = Path(__file__).resolve().parents[1]
CYCLE = "20250819_0000"
TOY = "python benchmarks/card_busy.py --model demo --steps 160 --simulated-step 0.1 --encoders 1"


class Utilisation(threading.Thread):
    """Samples of the first card's utilisation, percent; none without a card."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.samples: list[tuple[float, float]] = []
        self._over = threading.Event()

    def run(self) -> None:
        with suppress(Exception):  # no driver, no card
            import pynvml

            pynvml.nvmlInit()
            card = pynvml.nvmlDeviceGetHandleByIndex(0)
            while not self._over.wait(0.2):
                self.samples.append((time.time(), float(pynvml.nvmlDeviceGetUtilizationRates(card).gpu)))

    def stop(self) -> None:
        self._over.set()
        self.join()

    def mean(self, begin: float, end: float) -> float | None:
        inside = [value for when, value in self.samples if begin <= when <= end]
        return round(sum(inside) / len(inside), 1) if inside else None


def settings(args: argparse.Namespace, at_once: int | None, **over: Any) -> dict[str, Any]:
    """Return what is put over config/config.yaml."""
    gpu = args.simulated_step is None
    numerics = {"device": "cuda", "precision": "16", "compile": True, "chunks": 10} if gpu else {"device": "cpu"}
    forecast = {
        **numerics, "encoders": args.encoders, "restart_hours": 72, "gpu_mem_mb": args.gpu_mem_mb,
        "compute_at_once": at_once, "progress": False,
    }  # fmt: skip
    return {
        "model": args.model, "cycle": CYCLE, "members": f"1-{args.members}", "lead_hours": 6 * args.steps,
        "scratch": str(args.folder / "scratch"), "destination": str(args.folder / "results"),
        "declare_leads": False, "keep_scratch": False, "forecast": forecast, **over,
    }  # fmt: skip


def snakemake(args: argparse.Namespace, asked: dict[str, Any], *targets: str) -> float:
    """Run snakemake with the local profile and return its seconds; SystemExit with its last words if it fails."""
    file = args.folder / "config.yaml"
    file.write_text(yaml.safe_dump(asked))
    environment = dict(os.environ)
    if args.simulated_step is not None:
        environment["SIMULATED_STEP_SECONDS"] = str(args.simulated_step)
        environment["SIMULATED_CARD"] = str(args.folder / "card")
        environment["PYTHONPATH"] = str(ROOT / "benchmarks" / "simulated_card")
        environment["OMP_NUM_THREADS"] = "1"
    memory = max(args.at_once * args.gpu_mem_mb, 1)
    command = [
        sys.executable, "-m", "snakemake", "--profile", "local", "--configfile", str(file),
        "--cores", str(args.at_once * args.encoders), "--resources", f"gpu_mem_mb={memory}", "--", *targets,
    ]  # fmt: skip
    start = time.perf_counter()
    with open(args.folder / "snakemake.log", "a") as log:
        code = subprocess.run(command, cwd=ROOT, env=environment, stdout=log, stderr=log, check=False).returncode
    if code:
        raise SystemExit(f"snakemake ended with {code}\n" + (args.folder / "snakemake.log").read_text()[-3000:])
    return time.perf_counter() - start


def clear(config: Config) -> None:
    for folder in ("work", "forecasts", "manifests", "receipts", "metrics"):
        shutil.rmtree(config.scratch.base / folder, ignore_errors=True)
    shutil.rmtree(config.destination, ignore_errors=True)


def spans(manifests: list[MemberManifest]) -> tuple[Intervals, tuple[float, float]]:
    """Return when each member computed, and when the first one started and the last one ended."""
    computing, whole = [], []
    for manifest in manifests:
        begin, end = (datetime.fromisoformat(moment).timestamp() for moment in manifest.attempts[-1]["computing"])
        computing.append((begin, end))
        start = begin - phase_seconds(manifest.timings, manifest.step_seconds)["start_up"]
        whole.append((start, start + manifest.timings["total"]))
    return computing, (min(begin for begin, _ in whole), max(end for _, end in whole))


def measured(args: argparse.Namespace, at_once: int) -> dict[str, Any]:
    """Make all members and return what the card did meanwhile."""
    asked = settings(args, at_once)
    config = Config(read_files(ROOT / "config" / "config.yaml") | asked)
    clear(config)
    card = Utilisation()
    card.start()
    before = time.time()
    seconds = snakemake(args, asked, "all" if args.deliver else "forecasts")
    card.stop()
    manifests = [read_member_manifest(config.scratch.manifest(member)) for member in config.members]
    computing, (begin, end) = spans(manifests)
    busy, first, last = length(union(computing)), min(b for b, _ in computing), max(e for _, e in computing)
    found = {
        "compute_at_once": at_once,
        "seconds": {"snakemake": seconds, "members": end - begin, "steps": last - first, "computing": busy},
        "busy_percent": {
            "snakemake": 100 * busy / seconds,
            "members": 100 * busy / (end - begin),
            "steps": 100 * busy / (last - first),
        },
        "utilisation_percent": {
            "snakemake": card.mean(before, before + seconds),
            "members": card.mean(begin, end),
            "steps": card.mean(first, last),
        },
        "step_seconds": busy / sum(len(manifest.step_seconds) for manifest in manifests),
        "start_up_seconds": [own_start_up_seconds(manifest) for manifest in manifests],
        "timings": [dict(manifest.timings) for manifest in manifests],
        "computing": [(b - begin, e - begin) for b, e in computing],
        "crc32c": [[lead.grib.crc32c for lead in manifest.leads] for manifest in manifests],
    }
    print(line(found), flush=True)
    return found


def line(found: dict[str, Any]) -> str:
    seconds, busy, used = found["seconds"], found["busy_percent"], found["utilisation_percent"]
    starts = found["start_up_seconds"]
    of = ", ".join(f"{name} {busy[name]:.1f} %" + (f" (NVML {used[name]} %)" if used[name] else "") for name in busy)
    return (
        f"compute_at_once {found['compute_at_once']}: computing {seconds['computing']:.1f} s of {of}; "
        f"snakemake {seconds['snakemake']:.1f} s, {found['step_seconds']:.4f} s a step, "
        f"start-ups {min(starts):.1f} to {max(starts):.1f} s"
    )


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="aifs-ens-size")
    parser.add_argument("--members", type=int, default=6)
    parser.add_argument("--steps", type=int, default=132)
    parser.add_argument("--at-once", type=int, default=3, help="members that run at once")
    parser.add_argument("--compute-at-once", type=int, nargs="+", default=[1, 3])
    parser.add_argument("--encoders", type=int, default=5, help="processors of a member")
    parser.add_argument("--gpu-mem-mb", type=int, default=12000)
    parser.add_argument("--folder", type=Path, default=Path("scratch/card-busy"))
    parser.add_argument("--deliver", action="store_true", help="to a folder too; without it leads stay on scratch")
    parser.add_argument("--simulated-step", type=float, help="seconds of a step; a processor stands for the card")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if args.simulated_step is None and (problem := benchmark_problem(args.model, TOY)):
        parser.error(problem)
    args.folder = args.folder.absolute()
    args.folder.mkdir(parents=True, exist_ok=True)
    return args


def main() -> None:
    args = parse()
    start = time.perf_counter()
    snakemake(args, settings(args, None), "initial_members", "checkpoint_prepare")
    first = settings(args, None, members="1", lead_hours=6)
    snakemake(args, first, "forecasts")
    print(f"prepared in {time.perf_counter() - start:.1f} s", flush=True)
    runs = [measured(args, at_once) for at_once in args.compute_at_once]
    same = all(run["crc32c"] == runs[0]["crc32c"] for run in runs)
    print(f"the same bytes: {'yes' if same else 'NO'}")
    if args.out:
        args.out.write_text(json.dumps({"schema": "aifs-ensemble/card-busy/1", "same_bytes": same, "runs": runs}))
    if not same:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
