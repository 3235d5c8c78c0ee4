"""How long a forecast takes on which card: measured entries, estimates for other cards, corrections by past runs.

The table is data (config/throughput.json). An entry that was measured on the card asked for is taken as it is;
otherwise a card's forward pass is estimated from that of the nearest card that was measured in the same way of running:
a part by the ratio of arithmetic rates, the rest by the ratio of bandwidths (`planning.speeds`). Manifests of finished
members stand over both.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from aifs_ensemble.common.config import Config
from aifs_ensemble.common.errors import ConfigError, WorkflowError
from aifs_ensemble.common.files import read_json, write_bytes
from aifs_ensemble.common.manifest import MemberManifest, machine_name, read_member_manifest
from aifs_ensemble.common.names import FETCHED, Keys, member_name
from aifs_ensemble.common.yaml_tables import check_keys, number
from aifs_ensemble.planning.cards import CPU, gpu_name
from aifs_ensemble.planning.intervals import Intervals, length, union
from aifs_ensemble.planning.machines import Gpu
from aifs_ensemble.planning.speeds import WAYS, Key, Reference, Speed, estimated, way_of

TABLE = Path(__file__).parents[3] / "config" / "throughput.json"
SCHEMA = "aifs-ensemble/throughput/1"
RUNS_READ = 50


@dataclass(frozen=True)
class OutputSize:
    """What a model's output weighs and what encoding it costs; `bytes_per_value` is of a packed field."""

    model: str
    bytes_per_value: float
    encode_core_seconds_per_field: float
    restart_mb: float
    host_mb: float
    status: str
    date: str
    source: str


@dataclass(frozen=True)
class Baseline:
    """What users recorded of a past way of running: seconds, USD and GB (1e9 bytes) of a member."""

    machine: str
    members: int
    steps: int
    member_seconds: float
    member_usd: float
    member_gb: float
    ensemble_hours: tuple[float, float]
    ensemble_usd: tuple[float, float]
    source: str


@dataclass(frozen=True)
class Throughput:
    """The table. `specs` are cards by name, `runs` corrections from manifests, which stand over the entries."""

    reference: Reference
    sizes: tuple[OutputSize, ...]
    entries: tuple[Speed, ...]
    baseline: Baseline
    specs: Mapping[str, Gpu]
    runs: tuple[Speed, ...] = ()

    def size(self, model: str) -> OutputSize:
        """Return a model's size; of one not listed, that of the first listed."""
        for size in self.sizes:
            if size.model == model:
                return size
        first = self.sizes[0]
        return replace(first, model=model, status="estimated", source=f"as {first.model}")

    def speed(
        self,
        model: str,
        gpu: Gpu | None,
        precision: str,
        compiled: bool,
        deterministic: bool,
        accelerated: bool = True,
    ) -> Speed:
        """Return the speed of a model on a card (None: a processor), measured or estimated.

        A card that no table has is taken as the one that it is likened to, and its speed says so.
        """
        card = gpu or CPU
        key = (model, card.name, precision, way_of(compiled, accelerated), deterministic)
        found = self._find(key)
        if found is not None:
            return found
        if not card.like:
            return estimated(self.entries, key, card, self.specs, self.reference)
        like = self.speed(model, self.specs[card.like], precision, compiled, deterministic, accelerated)
        how = like.source if like.status == "estimated" else f"{like.status} {like.date}"
        source = f"estimated from {card.like}, the nearest known card by {card.like_by} ({how})"
        return replace(like, gpu=card.name, status="estimated", source=source)

    def for_config(self, config: Config, gpu: Gpu | None) -> Speed:
        """Return the speed of a configuration's model, precision and compilation on a card."""
        settings = config.forecast
        compiled, deterministic = bool(settings.compile), bool(settings.deterministic)
        return self.speed(config.model.name, gpu, str(settings.precision), compiled, deterministic)

    def _find(self, key: Key) -> Speed | None:
        for pool in (self.runs, self.entries):
            matching = [entry for entry in pool if entry.key == key]
            if matching:
                return max(matching, key=lambda entry: entry.date)
        return None


def load_throughput(specs: Mapping[str, Gpu], path: Path = TABLE) -> Throughput:
    """Return the table; `specs` are the cards' data sheets by name (`Machines.gpu_specs`).

    Raises ConfigError naming the file and the entry that is not one.
    """
    content = read_json(path)
    if not isinstance(content, Mapping) or content.get("schema") != SCHEMA:
        raise ConfigError(f"{path}: not a throughput table, expected schema {SCHEMA!r}")
    reference = _reference(content.get("reference"), specs, path)
    try:
        sizes = tuple(OutputSize(**item) for item in content["sizes"])
        baseline = Baseline(**content["baseline"])
    except (KeyError, TypeError) as error:
        raise ConfigError(f"{path}: sizes or baseline: {error}") from None
    return Throughput(reference, sizes, tuple(_entry(item, path) for item in content["entries"]), baseline, specs)


def _reference(item: Any, specs: Mapping[str, Gpu], path: Path) -> Reference:
    check_keys(item, f"{path}: reference", ("gpu", "bandwidth_share", "source"))
    if item["gpu"] not in specs:
        raise ConfigError(f"{path}: reference.gpu {item['gpu']!r} is not a card of machines.yaml")
    shares, where = item["bandwidth_share"], f"{path}: reference.bandwidth_share"
    check_keys(shares, where, WAYS)
    for way, share in shares.items():
        if number(share, f"{where}.{way}") > 1:
            raise ConfigError(f"{where}.{way}: {share!r}, expected a number from 0 to 1")
    return Reference(specs[item["gpu"]], shares, str(item["source"]))


_NUMBERS = ("step_seconds", "forward_seconds", "startup_seconds", "drain_seconds", "peak_gpu_mb", "cold_seconds")


def _entry(item: Mapping[str, Any], path: Path | str) -> Speed:
    known = {key: value for key, value in item.items() if key in Speed.__dataclass_fields__}
    missing = [key for key in Speed.__dataclass_fields__ if key not in (*known, "cold_seconds", "accelerated")]
    if missing:
        raise ConfigError(f"{path}: entry {item.get('gpu', '?')} {item.get('model', '?')}: {missing[0]} is missing")
    for key in _NUMBERS:
        number(known.get(key, 0.0), f"{path}: entry {known['gpu']}: {key}")
    return Speed(**known)


def engine_result(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the engine benchmark (benchmarks/forecast_engine.py) measured, as fields of `Speed`.

    Raises ConfigError when the result holds no run of the whole engine.
    """
    modes = content.get("modes", {})
    engine = modes.get("engine", {})
    if "step_seconds" not in engine:
        raise ConfigError("benchmark result: mode 'engine' is missing or failed, expected its step_seconds")
    forward = modes.get("forward", {})
    cold = modes.get("engine-cold", {}).get("startup_seconds")
    cards = [found["gpu"] for found in modes.values() if found.get("gpu")]
    # what the driver counts of the whole job has to fit on the card, not what torch has in use
    peak = engine.get("gpu_mem_mib_max", 0) * 1.048576 or forward.get("peak_gpu_mb", 0.0)
    on_card = content.get("device") == "cuda"
    model = str(content["model"])
    return {
        # the benchmark builds an untrained checkpoint of the released one's size
        "model": "aifs-ens-1.0" if model == "aifs-ens-size" else model,
        "gpu": cards[0] if cards else "cpu",
        "precision": str(content["precision"]),
        "compile": on_card,
        "deterministic": True,
        "step_seconds": engine["step_seconds"],
        "forward_seconds": engine.get("forward_seconds", forward.get("step_seconds", engine["step_seconds"])),
        "startup_seconds": engine.get("startup_seconds") or 0.0,
        "drain_seconds": engine.get("drain_seconds", 0.0),
        "peak_gpu_mb": peak if on_card else 0.0,
        "cold_seconds": max((cold or 0.0) - (engine.get("startup_seconds") or 0.0), 0.0),
    }


def add_result(result: Mapping[str, Any], specs: Mapping[str, Gpu], path: Path = TABLE) -> Speed:
    """Put a measurement into the table, in place of an entry with the same key, and return it.

    `result` has the fields of `Speed` (``status``, ``date`` and ``source`` may be left out), or is the file that the
    engine benchmark wrote. Raises ConfigError naming the field that is missing or wrong.
    """
    content = read_json(path)
    if "modes" in result:
        result = engine_result(result)
    today = datetime.now(UTC).date().isoformat()
    item = {"status": "measured", "date": today, "source": "aifs-ensemble benchmark", **result}
    item["gpu"] = gpu_name(str(item.get("gpu", "")), specs)
    speed = _entry(item, "benchmark result")
    keys = [_entry(old, path).key for old in content["entries"]]
    place = keys.index(speed.key) if speed.key in keys else len(keys)
    new = {name: round(value, 4) if isinstance(value, float) else value for name, value in asdict(speed).items()}
    content["entries"][place : place + 1] = [new]
    write_bytes(path, _as_table(content).encode())
    return speed


def _as_table(content: Mapping[str, Any]) -> str:
    """Return the table as JSON with a line for each entry, as people keep it."""
    parts = []
    for key, value in content.items():
        if isinstance(value, list):
            text = "[\n" + ",\n".join(f"  {json.dumps(item)}" for item in value) + "\n ]"
        elif isinstance(value, dict):
            text = "{\n" + ",\n".join(f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in value.items()) + "\n }"
        else:
            text = json.dumps(value)
        parts.append(f" {json.dumps(key)}: {text}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


PHASES = ("start_up", "compute", "wait_output", "between", "drain")


def phase_seconds(timings: Mapping[str, float], step_seconds: Sequence[float] = ()) -> dict[str, float]:
    """Return an attempt's seconds by `PHASES`; they add up to its total.

    `timings` are a manifest's: ``steps`` is the time of the stepping loop, which holds ``wait_output``; what is left
    of it after the forward passes (`step_seconds`) is ``between``: copies, forcings, restart states. Start-up is
    everything before the first step, also ``wait_turn``: waiting, ready, while another member has the card.
    """
    loop = max(float(timings.get("steps", sum(step_seconds))), 0.0)
    waited = min(max(float(timings.get("wait_output", 0.0)), 0.0), loop)
    compute = min(sum(step_seconds), loop - waited) if step_seconds else loop - waited
    drain = max(float(timings.get("drain", 0.0)), 0.0)
    known = sum(
        float(timings.get(name, 0.0))
        for name in ("verify", "import", "state", "encoders", "load", "prepare", "compile")
    )
    start = max(float(timings["total"]) - loop - drain, 0.0) if "total" in timings else known
    return {
        "start_up": start,
        "compute": compute,
        "wait_output": waited,
        "between": loop - waited - compute,
        "drain": drain,
    }


def own_start_up_seconds(manifest: MemberManifest) -> float:
    """Return the seconds that a member's start-up took, without those in which it waited for its turn on the card."""
    start_up = phase_seconds(manifest.timings, manifest.step_seconds)["start_up"]
    return max(start_up - float(manifest.timings.get("wait_turn", 0.0)), 0.0)


def card_step_seconds(manifests: Iterable[MemberManifest]) -> float:
    """Return the seconds of a card between two steps, output and waiting included; NaN without any step.

    Members that shared a card made their steps in the same time: the union of their stepping loops, machine by
    machine, over all steps made in it.
    """
    loops: dict[str, Intervals] = {}
    steps = 0
    for place, manifest in enumerate(manifests):
        if not manifest.step_seconds:
            continue
        steps += len(manifest.step_seconds)
        phases = phase_seconds(manifest.timings, manifest.step_seconds)
        last = manifest.attempts[-1] if manifest.attempts else {}
        began = datetime.fromisoformat(str(last["began"])).timestamp() if "began" in last else 0.0
        # without a start, whoever shared the card is not known
        machine = machine_name(manifest.machine) if "began" in last else f"unknown {place}"
        first = began + phases["start_up"]
        loop = phases["compute"] + phases["wait_output"] + phases["between"]
        loops.setdefault(machine, []).append((first, first + loop))
    return sum(length(union(parts)) for parts in loops.values()) / steps if steps else float("nan")


def with_runs(table: Throughput, manifests: Sequence[MemberManifest], specs: Iterable[str]) -> Throughput:
    """Return the table corrected by finished members: medians of their seconds, and what their output weighed."""
    groups: dict[Key, list[MemberManifest]] = {}
    specs = list(specs)
    for manifest in manifests:
        if manifest.step_seconds:
            settings = manifest.settings
            key = (
                manifest.model,
                gpu_name(manifest.device, specs),
                str(settings.get("precision", "32")),
                way_of(bool(settings.get("compile", False))),
                bool(settings.get("deterministic", True)),
            )
            groups.setdefault(key, []).append(manifest)
    runs = []
    for (model, gpu, precision, way, deterministic), members in groups.items():
        phases = [phase_seconds(manifest.timings, manifest.step_seconds) for manifest in members]
        step = card_step_seconds(members)
        runs.append(
            Speed(
                model=model,
                gpu=gpu,
                precision=precision,
                compile=way != "eager",
                deterministic=deterministic,
                step_seconds=step,
                forward_seconds=min(step, statistics.median(statistics.median(m.step_seconds) for m in members)),
                startup_seconds=statistics.median(own_start_up_seconds(member) for member in members),
                drain_seconds=statistics.median(phase["drain"] for phase in phases),
                peak_gpu_mb=max(float(member.machine.get("peak_gpu_mb", 0) or 0) for member in members),
                status="from runs",
                date=max(member.cycle for member in members),
                source=f"median of {len(members)} finished members",
            )
        )
    return replace(table, runs=tuple(runs))


def past_manifests(scratch_root: Path) -> list[MemberManifest]:
    """Return the newest member manifests under a scratch folder, or fetched; damaged ones are passed over."""
    patterns = (Keys("*").manifest("*"), f"history/*/{member_name('*')}.json")
    files = [file for pattern in patterns for file in scratch_root.glob(pattern)]
    files += Path(FETCHED).glob(f"*/{member_name('*')}.json")
    files.sort(key=lambda file: file.stat().st_mtime, reverse=True)
    found = []
    for file in files[:RUNS_READ]:
        try:
            found.append(read_member_manifest(file))
        except WorkflowError:
            continue
    return found
