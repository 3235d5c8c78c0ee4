"""The whole job: one or more members at once, each in a process of its own as a rule runs it."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from aifs_ensemble.common.config import Config

from engine.setup import COMMAND, checkpoint_path, configuration


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
    if kind.endswith("-cold"):
        shutil.rmtree(cache, ignore_errors=True)
    config = configuration(args)
    made = [
        config.scratch.base / folder for folder in ("work", "forecasts", "coarse", "manifests", "receipts", "metrics")
    ]
    for folder in (*made, args.scratch / "delivered"):
        shutil.rmtree(folder, ignore_errors=True)
    environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(cache), "TRITON_CACHE_DIR": str(cache / "triton")}
    encoders = ["--encoders", str(max(1, args.encoders // members))]
    command = [sys.executable, str(COMMAND), *args.passed, *encoders, "--precision", args.precision, "--job"]
    if kind.endswith("-killed"):
        killed_halfway([*command, "1"], environment, config.scratch.work(1) / "journal.jsonl", args.steps)
    words = (("streaming", "streaming"), ("cuda-graph", "graph"), ("coarse", "coarse"))
    special = [f"--{word}" for word, mode in words if mode in kind]
    start = time.perf_counter()
    jobs = [subprocess.Popen([*command, str(member), *special], env=environment) for member in config.members[:members]]
    codes = [job.wait() for job in jobs]
    if any(codes):
        raise SystemExit(f"{kind}: a job failed")
    wall = time.perf_counter() - start
    manifests = [read_member_manifest(config.scratch.manifest(m)) for m in config.members[:members]]
    timings, acceleration = manifests[0].timings, manifests[0].acceleration
    recorded = manifests[0].attempts[-1].get("cuda_graph")
    if "graph" in kind and args.device == "cuda" and not recorded:
        raise SystemExit(f"{kind}: cuda_graph {recorded} in the manifest, expected True")
    step = card_step_seconds(manifests)
    size = sum(manifest.bytes for manifest in manifests)
    coarse = [record.coarse for manifest in manifests for record in manifest.leads if record.coarse]
    if ("coarse" in kind) != (len(coarse) == members * args.steps):
        raise SystemExit(f"{kind}: {len(coarse)} coarse leads")
    return {
        "members_at_once": members,
        "wall_seconds": wall,
        "step_seconds": step,
        "forward_seconds": statistics.median(s for manifest in manifests for s in manifest.step_seconds),
        "seconds_per_member": wall / members,
        "startup_seconds": wall - timings["steps"] - timings["drain"] if members == 1 else None,
        "drain_seconds": timings["drain"],
        "timings": timings,
        "precision": manifests[0].settings["precision"],
        "acceleration": acceleration,
        "steps": manifests[0].step_seconds,
        "crc32c": [lead.grib.crc32c for lead in manifests[0].leads],
        "bytes": size,
        "coarse_bytes": sum(file.size for record in coarse for file in record.files),
        "coarse_fields": sum(record.messages for record in coarse),
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
