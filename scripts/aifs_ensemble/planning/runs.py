"""What a finished run left behind: members' manifests, sampled metrics, Snakemake's benchmark files."""

from __future__ import annotations

import csv
import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import pandas as pd

from aifs_ensemble.common.config import Config
from aifs_ensemble.common.errors import InputError, WorkflowError
from aifs_ensemble.common.files import folder_problem
from aifs_ensemble.common.manifest import MemberManifest, machine_name, read_member_manifest
from aifs_ensemble.common.names import BENCHMARKS, FETCHED, member_name, parse_member_name
from aifs_ensemble.common.text import foreign
from aifs_ensemble.forecast.metrics import COLUMNS
from aifs_ensemble.forecast.work_folder import INTERRUPTED
from aifs_ensemble.planning.throughput import PHASES, phase_seconds

LOG = logging.getLogger(__name__)
_RULE = re.compile("[a-z_]+")
_TABLE = re.compile(r"[a-z_]+[0-9]*\.tsv")
_LONGEST = 1e9  # seconds of a job
_NAN = float("nan")


@dataclass(frozen=True)
class JobTime:
    """One job as Snakemake timed it; `member` is 0 where the rule has none."""

    rule: str
    member: int
    seconds: float


@dataclass(frozen=True)
class Attempt:
    """One process that worked on a member; times in seconds since 1970.

    `phases` are seconds by `throughput.PHASES`. An attempt that did not finish has none: its time is `lost` (what it
    published counts for the next attempt all the same). `type`, `region` and `spot` are what the
    machine said of itself, empty and None where it did not.
    """

    member: int
    number: int
    machine: str
    began: float
    ended: float
    outcome: str
    phases: Mapping[str, float]
    type: str = ""
    region: str = ""
    spot: bool | None = None

    @property
    def seconds(self) -> float:
        return self.ended - self.began

    @property
    def lost(self) -> float:
        return 0.0 if any(self.phases.values()) else self.seconds

    @property
    def interrupted(self) -> bool:
        """Whether it was killed or told to stop, as a preemption does, rather than failed."""
        return self.outcome in INTERRUPTED


@dataclass(frozen=True)
class RunRecord:
    """What was recorded of one cycle; `metrics` has a row a member and second."""

    manifests: tuple[MemberManifest, ...]
    metrics: pd.DataFrame
    jobs: tuple[JobTime, ...]

    def attempts(self) -> list[Attempt]:
        """Return the processes that worked on members, in order of their start."""
        found = [attempt for manifest in self.manifests for attempt in _attempts(manifest, self.metrics)]
        return sorted(found, key=lambda attempt: (attempt.began, attempt.member))


def history(config: Config) -> Path:
    """Return where manifests and metrics fetched from the destination are kept, outside what a run looks at.

    A coordinator may have no folder where its machines have scratch: then it is below the one it works in.
    """
    root = config.scratch_root / "history"
    return (root if root.is_dir() or folder_problem(root) is None else Path(FETCHED)) / config.cycle


def read_run(config: Config, benchmarks: Path | None = Path(BENCHMARKS)) -> RunRecord:
    """Return what scratch holds of the configuration's cycle; InputError when no member is finished there.

    Runs that left nothing here are fetched first with `fetch_run`.
    """
    folders = (config.scratch.base / "manifests", history(config))
    manifests: dict[int, MemberManifest] = {}
    for file in (file for folder in folders for file in sorted(folder.glob(f"{member_name('*')}.json"))):
        try:
            manifest = read_member_manifest(file, config.cycle)
        except WorkflowError as error:
            LOG.warning("account: %s, left out", error)
            continue
        if manifest.member in config.members:
            manifests.setdefault(manifest.member, manifest)
    if not manifests:
        raise InputError(f"{folders[0]}: no finished member, expected member manifests of {config.cycle}")
    sampled: dict[str, Path] = {}
    for folder in (folders[1], config.scratch.base / "metrics"):
        sampled |= {file.name: file for file in folder.glob(f"{member_name('*')}.csv")}
    names = [f"{member_name(member)}.csv" for member in sorted(manifests)]
    frames = [frame for name in names if name in sampled and not (frame := read_metrics(sampled[name])).empty]
    return RunRecord(
        manifests=tuple(manifests[member] for member in sorted(manifests)),
        metrics=pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(),
        jobs=_job_times((history(config) / "benchmarks", benchmarks), config.cycle) if benchmarks is not None else (),
    )


def fetch_run(config: Config) -> int:
    """Copy members' manifests and metrics, and benchmark files, into `history`; return how many members.

    Jobs on rented machines leave Snakemake's benchmark files at the destination, beside the cycles' folders.
    Raises StorageError when the destination does not answer.
    """
    from aifs_ensemble.common.storage import open_destination

    store, folder = open_destination(config), history(config)
    folder.mkdir(parents=True, exist_ok=True)
    count = 0
    for part in ("manifests", "metrics"):
        for info in store.list(config.objects.folder(part)):
            name = info.key.removeprefix(config.objects.folder(part))
            stem, _, kind = name.partition(".")
            if parse_member_name(stem) is not None and kind == {"manifests": "json", "metrics": "csv"}[part]:
                store.get_file(info.key, folder / name)
                count += kind == "json"
    for info in store.list(f"{BENCHMARKS}/"):
        parts = info.key.removeprefix(f"{BENCHMARKS}/").split("/")
        if len(parts) != 3:
            continue
        rule, cycle, name = parts
        if cycle == config.cycle and _RULE.fullmatch(rule) and _TABLE.fullmatch(name):
            store.get_file(info.key, folder / "benchmarks" / rule / cycle / name)
    return count


def _job_times(folders: Iterable[Path], cycle: str) -> tuple[JobTime, ...]:
    """Return the jobs that any of the folders knows, by the last that does."""
    found = {(job.rule, job.member): job for folder in folders for job in read_benchmarks(folder, cycle)}
    return tuple(found[key] for key in sorted(found))


def read_metrics(path: Path) -> pd.DataFrame:
    """Return a member's sampled metrics, a column `member` added; a line torn by a kill is left out.

    A file that holds no table at all gives no rows and one line in the log. So does a value that is no number: NaN.
    """
    # a file of another version has other columns: what it lacks is unknown, not an error
    frame = pd.DataFrame(columns=list(COLUMNS), dtype=float)
    try:
        table = pd.read_csv(path, on_bad_lines="skip", encoding_errors="replace", dtype=str)
        if "time" not in table:
            raise ValueError("no column time")
        frame = table.reindex(columns=list(COLUMNS))
        numbers = frame.columns.drop("phase")
        frame[numbers] = frame[numbers].map(_number).astype(float)
        frame = frame[np.isfinite(frame["time"])].copy()
    except (ValueError, TypeError, OSError) as error:  # an empty file is a ValueError, too
        LOG.warning("account: %s: no table of metrics (%s), left out", path, foreign(error))
    frame.insert(0, "member", parse_member_name(path.stem))
    return frame


def _number(text: object) -> float:
    try:
        return float(str(text))
    except ValueError:
        return _NAN


def read_benchmarks(folder: Path, cycle: str) -> list[JobTime]:
    """Return the jobs in Snakemake's benchmark files ``{rule}/{cycle}/*.tsv``; the last row of each counts."""
    found = []
    for file in sorted(folder.glob(f"*/{cycle}/*.tsv")):
        try:
            with open(file, newline="", errors="replace") as lines:
                *_, row = csv.DictReader(lines, delimiter="\t")
            seconds = float(row["s"])
            if not 0 <= seconds < _LONGEST:
                raise ValueError(f"{seconds} s")
        except (ValueError, KeyError, TypeError, OSError, csv.Error) as error:
            LOG.warning("account: %s: not a benchmark file (%s), left out", file, foreign(error))
            continue
        found.append(JobTime(file.parent.parent.name, parse_member_name(file.stem) or 0, seconds))
    return found


def _seconds(text: object) -> float:
    return datetime.fromisoformat(str(text)).timestamp()


def _attempts(manifest: MemberManifest, metrics: pd.DataFrame) -> list[Attempt]:
    told = [attempt for attempt in manifest.attempts if "began" in attempt]
    found = []
    for place, attempt in enumerate(told):
        last = place == len(told) - 1
        outcome = str(attempt.get("outcome", "")).split(":")[0]
        timings = attempt.get("timings") or (manifest.timings if last and outcome == "finished" else {})
        phases = phase_seconds(timings, manifest.step_seconds if last else ()) if timings else {}
        began = _seconds(attempt["began"])
        if "total" in timings:
            ended = began + sum(phases.values())  # exact, where the written times have whole seconds
        elif "ended" in attempt:
            ended = _seconds(attempt["ended"])
        else:
            limit = _seconds(told[place + 1]["began"]) if not last else float("inf")
            ended = _last_sign(manifest.member, began, limit, metrics)
        machine = attempt.get("machine") or manifest.machine
        found.append(
            Attempt(
                member=manifest.member,
                number=place + 1,
                machine=machine_name(machine),
                began=began,
                ended=max(ended, began),
                outcome=outcome,
                phases={name: float(phases.get(name, 0.0)) for name in PHASES},
                type=str(machine.get("type", "")),
                region=str(machine.get("region", "")),
                spot=machine.get("spot"),
            )
        )
    return found


def _last_sign(member: int, began: float, limit: float, metrics: pd.DataFrame) -> float:
    """Return when an attempt that was killed was last alive: its last metrics row before the next attempt."""
    if metrics.empty:
        return began
    times = metrics.loc[metrics["member"] == member, "time"]
    alive = times[(times >= began) & (times < limit)]
    return began if alive.empty else float(alive.max())
