"""Runs made up to the second: manifests, metrics and benchmark files whose account is known beforehand."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from aifs_ensemble.common.config import Config
from aifs_ensemble.common.manifest import FileRecord, LeadRecord, MemberManifest, write_member_manifest
from aifs_ensemble.common.names import index_file, lead_file
from aifs_ensemble.forecast.metrics import COLUMNS

ORIGIN = datetime(2026, 11, 1, 12, tzinfo=UTC).timestamp()
CYCLE = "20250819_0000"


def config(scratch: Path, **over: Any) -> Config:
    """Return a configuration of the operational kind with everything under `scratch`."""
    raw = {
        "model": "aifs-ens-1.0",
        "cycle": CYCLE,
        "members": "1-50",
        "lead_hours": 792,
        "scratch": str(scratch),
        "keep_scratch": False,
        "declare_leads": False,
        "initial_conditions": {"source": "idealised"},
        "forecast": {"device": "cuda", "precision": "16", "compile": True, "encoders": 4, "gpu_mem_mb": 20000},
        "delivery": {"streaming": True},
        "cloud": {},
    }
    for key, value in over.items():
        if isinstance(value, Mapping):
            raw[key] = {**raw.get(key, {}), **value}  # type: ignore[dict-item]
        else:
            raw[key] = value
    return Config(raw)


@dataclass(frozen=True)
class Piece:
    """One attempt: when it began (seconds after the origin), its phases, how it ended."""

    began: float
    start_up: float = 60.0
    steps: float = 40.0
    compute: float = 36.0
    waited: float = 2.0
    drain: float = 10.0
    machine: str = "vm-1"
    outcome: str = "finished"
    ended: float | None = None
    kind: str = ""
    region: str = ""
    spot: bool | None = None

    @property
    def said(self) -> dict[str, Any]:
        """What the machine recorded of itself."""
        told = {"type": self.kind, "region": self.region, "spot": self.spot}
        return {"name": self.machine, **{key: value for key, value in told.items() if value not in ("", None)}}

    @property
    def total(self) -> float:
        return self.start_up + self.steps + self.drain


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(ORIGIN + seconds, UTC).isoformat(timespec="seconds")


def _attempt(piece: Piece) -> dict[str, Any]:
    told: dict[str, Any] = {"began": _iso(piece.began), "machine": piece.said, "outcome": piece.outcome}
    if piece.outcome == "finished":
        told["timings"] = {
            "load": piece.start_up,
            "steps": piece.steps,
            "wait_output": piece.waited,
            "drain": piece.drain,
            "total": piece.total,
        }
    elif piece.ended is not None:
        told["ended"] = _iso(piece.ended)
    return told


def manifest(cfg: Config, member: int, pieces: Sequence[Piece], lead_bytes: int = 70_000_000) -> MemberManifest:
    """Return the manifest of a member that took these attempts, the last of which finished."""
    leads = tuple(
        LeadRecord(
            lead,
            FileRecord(lead_file(cfg.cycle, member, lead), lead_bytes - 1000, "AAAAAA=="),
            FileRecord(index_file(lead_file(cfg.cycle, member, lead)), 1000, "AAAAAA=="),
            len(cfg.model.delivered),
        )
        for lead in cfg.leads
    )
    last = pieces[-1]
    told = _attempt(last)
    settings = cfg.forecast
    return MemberManifest(
        model=cfg.model.name,
        untrained=cfg.model.untrained,
        cycle=cfg.cycle,
        member=member,
        ensemble_size=50,
        grid=cfg.model.grid,
        leads=leads,
        settings={name: getattr(settings, name) for name in ("precision", "compile", "deterministic")},
        device="NVIDIA A100-SXM4-80GB" if settings.device == "cuda" else "cpu",
        machine=told["machine"],
        timings=told["timings"],
        step_seconds=tuple([last.compute / len(leads)] * len(leads)),
        attempts=tuple(_attempt(piece) for piece in pieces),
    )


def write_metrics(path: Path, pieces: Sequence[Piece], busy: Mapping[str, Sequence[tuple[float, float]]]) -> None:
    """Write a row a second of every attempt: the card at 92 % while any member of its machine steps, else at 3 %."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [",".join(COLUMNS)]
    for piece in pieces:
        end = piece.ended if piece.ended is not None else piece.began + piece.total
        for second in range(math.ceil(piece.began), math.floor(end) + 1):
            since = second - piece.began
            stepping = any(first <= second <= last for first, last in busy[piece.machine])
            own = piece.start_up <= since <= piece.start_up + piece.steps
            phase = "steps" if own else "start_up" if since < piece.start_up else "drain"
            wave = 4 * math.sin(second / 7)
            rows.append(
                f"{ORIGIN + second:.1f},{phase},,{92 + wave if stepping else 3:.1f},{19000 if since > 20 else 800},"
                f"81920,{380 if stepping else 90},{350 if own else 100},9000,{20 if since < 20 else 0},"
                f"{230 + 9 * wave if stepping else 5},1,{200 + 9 * wave if stepping else 2},300"
            )
    path.write_text("\n".join(rows) + "\n")


def write_run(cfg: Config, members: Mapping[int, Sequence[Piece]], *, metrics: bool = True) -> None:
    """Write manifests and metrics of a run to scratch."""
    busy: dict[str, list[tuple[float, float]]] = {}
    for piece in (piece for pieces in members.values() for piece in pieces):
        first = piece.began + piece.start_up
        last = first + piece.steps if piece.ended is None else piece.ended
        busy.setdefault(piece.machine, []).append((first, last))
    for member, pieces in members.items():
        write_member_manifest(cfg.scratch.manifest(member), manifest(cfg, member, pieces))
        if metrics:
            write_metrics(cfg.scratch.metrics(member), pieces, busy)


def write_benchmarks(folder: Path, seconds: Mapping[str, Mapping[int, float]], cycle: str = CYCLE) -> None:
    """Write Snakemake benchmark files; member 0 stands for a rule without one."""
    header = "s\th:m:s\tmax_rss\tmax_vms\tmax_uss\tmax_pss\tio_in\tio_out\tmean_load\tcpu_time"
    for rule, jobs in seconds.items():
        for member, value in jobs.items():
            path = folder / rule / cycle / (f"member{member:03d}.tsv" if member else f"{rule}.tsv")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{header}\n{value}\t0:00:00\t100\t200\t90\t95\t0\t0\t50\t{value}\n")


def ensemble(members: int = 50, machines: int = 8, at_once: int = 3) -> dict[int, list[Piece]]:
    """Return the attempts of an ensemble on several machines, one of which is preempted once."""
    size = math.ceil(members / machines)
    found: dict[int, list[Piece]] = {}
    for number in range(members):
        machine, place = divmod(number, size)
        lane = place % at_once
        piece = Piece(
            began=12.0 * machine + 16.0 * lane + 150.0 * (place // at_once),
            start_up=22.0 + 3.0 * lane,
            steps=118.0 + 2.5 * ((7 * number) % 5),
            compute=104.0,
            waited=4.0,
            drain=5.0,
            machine=f"aifs-gpu-{machine + 1}",
        )
        found[number + 1] = [piece]
        if machine == 2 and place // at_once == 1:
            lost = replace(piece, outcome="killed", ended=piece.began + 60 - 16 * lane)
            again = replace(piece, began=piece.began + 260, machine="aifs-gpu-3b")
            found[number + 1] = [lost, again]
    return found
