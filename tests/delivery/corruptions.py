"""The corruption campaign: whatever lies on scratch or at the destination is damaged in every way, one thing at a time.

Each seed draws a place (scratch before the delivery, scratch after it, the destination), an object there, and a kind of
damage: flipped bits, cuts, nothing left, removed, exchanged for another of its kind, a value of an odd type in JSON.
Every reader then looks at it: a reader may end with one line and nothing else. `verify` must name what matters, and
`verify --mend` and a run, as often as the lines say, must lead back to the same bytes. A command too:

    PYTHONPATH=scripts:tests python -m delivery.corruptions --seeds 1000 --first 5000
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import random
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

from aifs_ensemble.common.config import Config
from aifs_ensemble.common.errors import WorkflowError
from aifs_ensemble.common.files import json_bytes
from aifs_ensemble.common.names import lead_name
from aifs_ensemble.common.storage import Storage, open_destination
from aifs_ensemble.delivery.ensemble import write_ensemble_manifest
from aifs_ensemble.delivery.leftovers import find_orphans
from aifs_ensemble.delivery.member import MemberDelivery, deliver_member
from aifs_ensemble.delivery.restore import restore_member, resume_point
from aifs_ensemble.delivery.status import SCHEMA, MemberStatus, read_statuses, with_scratch
from aifs_ensemble.delivery.verify import check_ensemble
from aifs_ensemble.forecast.work_folder import WorkFolder
from aifs_ensemble.planning.outstanding import outstanding
from aifs_ensemble.planning.runs import fetch_run, read_run
from aifs_ensemble.workflow.closing import closing_lines
from aifs_ensemble.workflow.outdated import outdated
from doubles.memory_storage import MemoryStorage

from delivery.members import finish_member, make_config, publish_lead

LAYOUTS = ("leads", "blocks", "both")
PLACES = ("computed", "delivered", "destination", "destination")
KINDS = ("bit", "bit", "bits", "cut", "empty", "removed", "exchanged", "odd", "odd", "odd")
ODD = (
    None,
    True,
    -1,
    5,
    1e300,
    "x",
    "",
    "../../../secret.txt",
    [],
    [5],
    {},
    {"a": []},
    10**400,
    "9" * 5000,
    [[[]]] * 3,
)
LONGEST = 20.0  # seconds that one reader may take
LINE = 3000  # characters of an error
THIRD = 3  # a member that is under way: leads and a resume point at the destination


@dataclass
class Result:
    """What a seed came to; `lines` are the errors that were said on the way."""

    seed: int
    what: str
    silent: list[str] = field(default_factory=list)
    stacks: list[str] = field(default_factory=list)
    hangs: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    named: bool = False
    harmless: bool = False


class World:
    """An ensemble of two members (and one under way) on scratch and at a destination, whole, to be damaged."""

    def __init__(self, folder: Path, bucket: bool, layout: str, keep: bool):
        self.folder, self.bucket = folder, bucket
        destination = "gs://memory/x" if bucket else str(folder / "there")
        over = {"keep_scratch": keep, "delivery": {"layout": layout, "block_hours": 12, "threads": 1}}
        self.config = make_config(folder / "scratch", destination, **over)
        self.all = make_config(folder / "scratch", destination, members="1-3", **over)
        self.memory = MemoryStorage()
        with self.opened():
            for member in (1, 2):
                forecast(self.config, member)
            self.computed = self._kept("computed")
            for member in (1, 2):
                deliver_member(self.config, member)
            write_ensemble_manifest(self.config)
            self._begin_third()
            self.delivered = self._kept("delivered")
            self.truth = normal(open_destination(self.config))
            self.files = self.all_files()

    def _begin_third(self) -> None:
        storage, keys = open_destination(self.all), self.all.objects
        work = WorkFolder(self.all.scratch.work(THIRD), self.all.cycle, THIRD)
        with work.lock():
            work.adopt({"member": THIRD}, {})
        self.third = [publish_lead(self.all, THIRD, lead) for lead in (6, 12)]
        delivery = MemberDelivery(self.all, THIRD, storage)
        for record in self.third:
            delivery.send_lead(record)
        storage.put_bytes(b"state", keys.restart(THIRD, 12))
        point = resume_point(12, self.third, delivery.carried())
        storage.put_bytes(json_bytes(point), keys.resume_point(THIRD, 12))
        status = MemberStatus(THIRD, "running", 2, 4, 12, 1.0, 1.0, 1.0, "host", "job")
        storage.put_bytes(json_bytes({"schema": SCHEMA, **asdict(status)}), keys.status(THIRD))
        storage.put_bytes(b"time,phase,lead,gpu_util_percent\n1.0,steps,6,50\n", keys.metrics(1))
        shutil.rmtree(self.all.scratch.work(THIRD))

    def _kept(self, name: str) -> tuple[Path, dict[str, tuple[bytes, int]]]:
        target = self.folder.parent / f"{self.folder.name}-{name}"
        shutil.copytree(self.folder, target)
        return target, dict(self.memory.objects)

    def restore(self, kept: tuple[Path, dict[str, tuple[bytes, int]]]) -> None:
        """Put everything back as it was."""
        shutil.rmtree(self.folder)
        shutil.copytree(kept[0], self.folder)  # times as they were
        self.memory.objects = dict(kept[1])

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Open the storage in memory where a bucket is asked for."""
        if not self.bucket:
            yield
            return
        with patch("aifs_ensemble.common.storage.open.open_storage", lambda *_, **__: self.memory):
            yield

    def all_files(self) -> dict[str, list[str]]:
        """Return what can be damaged, by place."""
        found = {}
        for place, kept in (("computed", self.computed), ("delivered", self.delivered)):
            scratch = kept[0] / "scratch"
            found[place] = sorted(str(path.relative_to(scratch)) for path in scratch.rglob("*") if path.is_file())
        found["destination"] = sorted(info.key for info in open_destination(self.config).list(""))
        return found


def forecast(config: Config, member: int) -> None:
    """Bring a member to its end as the forecast does: what is whole stays, the rest is made again."""
    work = WorkFolder(config.scratch.work(member), config.cycle, member)
    with work.lock(5):
        work.adopt({"member": member}, {})
        whole = work.finished(config.leads, local=False)
        work.remove_leftovers(work.journal.read().values())
        missing = [lead for lead in config.leads if lead not in whole]
        if missing:
            number = work.begin_attempt({"began": "2025-08-19T00:00:00+00:00"})
            whole |= {lead: publish_lead(config, member, lead) for lead in missing}
            work.record_attempt(number, {"outcome": "finished"})
        work.attempts()
    finish_member(config, member, [whole[lead] for lead in config.leads])


def run_again(config: Config) -> None:
    """Do what Snakemake would do: what is missing or outdated, forecasts first, the ensemble last."""
    storage, keys, scratch = open_destination(config), config.objects, config.scratch
    base = "" if config.cloud_destination else f"{config.destination}/"
    there = {base + keys.manifest(member): base + keys.receipt(member) for member in config.members}
    here = {member: str(scratch.manifest(member)) for member in config.members}
    where = storage if config.cloud_destination else None
    again = set(outdated(config, [*here.values()]))
    again |= set(outdated(config, [*there, base + keys.ensemble_manifest], where, receipts=there))
    made = False
    for member, path in zip(config.members, there, strict=True):
        wanted = path in again or storage.stat(keys.manifest(member)) is None
        if here[member] in again or not scratch.manifest(member).exists():
            if not wanted and not scratch.manifest(member).exists():
                continue  # Snakemake makes nothing that nobody needs
            forecast(config, member)
            wanted = True
        if wanted:
            deliver_member(config, member)
            made = True
    if made or base + keys.ensemble_manifest in again or storage.stat(keys.ensemble_manifest) is None:
        write_ensemble_manifest(config).require()


def normal(storage: Storage) -> dict[str, Any]:
    """Return what a destination must hold: everything but generations, and what nothing vouches for."""
    found: dict[str, Any] = {}
    for info in storage.list(""):
        if any(f"/{part}/" in info.key for part in ("restarts", "status", "metrics")) or f"member00{THIRD}" in info.key:
            continue
        data = storage.get_bytes(info.key)
        if "/receipts/" in info.key or info.key.endswith("/manifest.json"):
            found[info.key] = lasting(json.loads(data))
        else:
            found[info.key] = data
    return found


def lasting(value: Any) -> Any:
    """Return JSON content without what differs when the same is delivered or written again."""
    if isinstance(value, dict):
        return {key: lasting(item) for key, item in value.items() if key not in ("generation", "digest", "work")}
    return [lasting(item) for item in value] if isinstance(value, list) else value


def damage(rng: random.Random, kind: str, data: bytes, other: bytes) -> bytes | None:
    """Return damaged content, None for nothing at all."""
    if kind == "removed" or kind == "empty":
        return None if kind == "removed" else b""
    if kind == "exchanged":
        return other
    if kind == "cut":
        return data[: rng.randrange(len(data))] if data else data
    if kind == "odd":
        try:
            return odd(rng, data)
        except ValueError:
            kind = "bit"
    bad = bytearray(data or b"\0")
    for _ in range(1 if kind == "bit" else rng.randint(2, 40)):
        bad[rng.randrange(len(bad))] ^= 1 << rng.randrange(8)
    return bytes(bad)


def odd(rng: random.Random, data: bytes) -> bytes:
    """Return JSON, or one line of JSON lines, with one value of an odd type or one key less; ValueError for no JSON."""
    lines = data.split(b"\n") if data.startswith(b"{") and data.count(b"\n}") == 0 else [data]
    at = rng.randrange(max(len(lines) - 1, 1))
    content = json.loads(lines[at])
    places: list[tuple[Any, Any]] = []

    def walk(node: Any) -> None:
        for key in list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ():
            places.append((node, key))
            walk(node[key])

    walk(content)
    if not places or rng.random() < 0.1:
        content = rng.choice((5, [], "x", None, [[]]))
    else:
        node, key = rng.choice(places)
        if rng.random() < 0.2:
            del node[key]
        else:
            node[key] = rng.choice(ODD)
    if content == json.loads(lines[at]):  # the same in other words
        return data
    lines[at] = json.dumps(content).encode()
    return b"\n".join(lines)


def readers(world: World) -> dict[str, Callable[[], object]]:
    """Return everything that looks at scratch or the destination."""
    config, everyone = world.config, world.all
    storage = open_destination(config)
    keys = config.objects
    base = "" if world.bucket else f"{config.destination}/"
    there = {base + keys.manifest(member): base + keys.receipt(member) for member in config.members}
    where = storage if world.bucket else None
    return {
        "outdated": lambda: outdated(config, [*there, base + keys.ensemble_manifest], where, receipts=there),
        "status": lambda: with_scratch(everyone, read_statuses(everyone)),
        "plan": lambda: outstanding(config, destination=True),
        "gc": lambda: vouched_orphans(world, storage),
        "account --fetch": lambda: fetch_run(config),
        "account": lambda: read_run(config).attempts(),
        "closing lines": lambda: list(closing_lines(config, finished=True)),
        "resume": lambda: resumed(world),
        "restore": lambda: restore_member(config, 1),
    }


def vouched_orphans(world: World, storage: Storage) -> None:
    """Look for orphans: none is an object that the sound ensemble has."""
    found = [orphan.info.key for orphan in find_orphans(world.all, storage, timedelta(hours=0))]
    wrong = [key for key in found if "/forecasts/" in key and key in world.truth and "member003" not in key]
    keys = world.config.objects
    gone = {f"member{m:03d}" for m in (1, 2) if not (storage.stat(keys.manifest(m)) or storage.stat(keys.receipt(m)))}
    if wrong := [key for key in wrong if not any(name in key for name in gone)]:
        raise AssertionError(f"gc would remove {wrong[0]}")


def resumed(world: World) -> None:
    """Take up the third member on a fresh machine: whatever is taken back is as it was made."""
    shutil.rmtree(world.all.scratch.work(THIRD), ignore_errors=True)
    restored = restore_member(world.all, THIRD)
    assert set(restored.leads) <= set(world.third), f"restored {restored.leads}"
    assert restored.restart in (None, 12), lead_name(restored.restart or 0)
    shutil.rmtree(world.all.scratch.work(THIRD), ignore_errors=True)


def attempt(result: Result, what: str, task: Callable[[], object]) -> str | None:
    """Do something; return the line with which it ended, None when it ended well."""
    began = time.monotonic()
    line = None
    try:
        task()
    except WorkflowError as error:
        line = str(error)
        if len(line) > LINE or "\n" in line or not line.isprintable():
            result.stacks.append(f"{what}: a line of {len(line)} characters")
    except Exception as error:
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "aifs_ensemble" in frame.filename]
        at = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
        result.stacks.append(f"{what}: {type(error).__name__}: {error}{at}"[:300])
    if time.monotonic() - began > LONGEST:
        result.hangs.append(what)
    return line


def run_seed(world: World, seed: int) -> Result:
    """Damage one thing, look, mend, run again, and compare."""
    rng = random.Random(f"corruption {seed}")
    place, kind = rng.choice(PLACES), rng.choice(KINDS)
    name = rng.choice(world.files[place])
    alike = [other for other in world.files[place] if other != name and Path(other).suffix == Path(name).suffix]
    other = rng.choice(alike or [name])
    layout = world.config.delivery.layout
    result = Result(seed, f"{'bucket' if world.bucket else 'folder'} {layout} {place} {name}: {kind}")
    with world.opened():
        world.restore(world.computed if place == "computed" else world.delivered)
        storage = open_destination(world.config)
        if not apply(rng, world, storage, place, kind, name, other):
            result.harmless = True
            return result
        matters = place == "destination" and _normal_or_none(storage) != world.truth
        if place != "computed":
            for what, task in readers(world).items():
                attempt(result, what, task)
        said = attempt(result, "verify", lambda: verify(world.config))
        result.named = said is not None
        if matters and not said:
            result.silent.append("verify says nothing")
        for _ in range(3):
            attempt(result, "verify --mend", lambda: check_ensemble(world.config, mend=True))
            line = attempt(result, "run", lambda: run_again(world.config))
            if line is None:
                break
            result.lines.append(line)
        left = attempt(result, "verify at the end", lambda: verify(world.config))
        if left:
            result.lines.append(left)
        now = _normal_or_none(storage)
        if now != world.truth:
            wrong = sorted(key for key in {*world.truth, *(now or {})} if (now or {}).get(key) != world.truth.get(key))
            result.silent.append(f"differs in the end: {wrong[:3]}; said: {result.lines[-1:] or left}")
    return result


def flip(world: World, seed: int) -> Result:
    """Flip one bit of any JSON at the destination (of a bucket: nothing but the object is put back), and look."""
    rng = random.Random(f"flip {seed}")
    with world.opened():
        storage = open_destination(world.config)
        name = rng.choice([key for key in world.files["destination"] if key.endswith(".json")])
        before = storage.get_bytes(name)
        result = Result(seed, f"{name}: bit")
        bad = bytearray(before)
        bad[rng.randrange(len(bad))] ^= 1 << rng.randrange(8)
        storage.put_bytes(bytes(bad), name, overwrite=True)
        vouched = f"member00{THIRD}" not in name  # nothing vouches for what is under way
        for what, task in readers(world).items():
            attempt(result, what, task)
        result.named = attempt(result, "verify", lambda: verify(world.config)) is not None
        if vouched and not result.named:
            result.silent.append("verify says nothing")
        storage.put_bytes(before, name, overwrite=True)
        scratch = world.config.scratch
        shutil.rmtree(scratch.root)
        shutil.copytree(world.delivered[0] / "scratch", scratch.root)
    return result


def run_flips(seeds: range, folder: Path) -> list[Result]:
    """Flip one bit a seed, in a bucket of each layout in turn."""
    logging.disable(logging.CRITICAL)
    try:
        worlds = [World(folder / layout, True, layout, False) for layout in LAYOUTS]
        return [flip(worlds[seed % len(worlds)], seed) for seed in seeds]
    finally:
        logging.disable(logging.NOTSET)


def verify(config: Config) -> None:
    """Compare as the command does, without mending."""
    check = check_ensemble(config)
    check.require_sound(mended=False)
    check.require_members(config)


def _normal_or_none(storage: Storage) -> dict[str, Any] | None:
    try:
        return normal(storage)
    except (ValueError, WorkflowError, RecursionError):
        return None


def apply(rng: random.Random, world: World, storage: Storage, place: str, kind: str, name: str, other: str) -> bool:
    """Damage a file or an object; return False when it has the same bytes as before."""
    if place == "destination":
        before = storage.get_bytes(name)
        after = damage(rng, kind, before, storage.get_bytes(other))
        storage.delete(name) if after is None else storage.put_bytes(after, name, overwrite=True)
        return after != before
    path = world.config.scratch.root / name
    before = path.read_bytes()
    after = damage(rng, kind, before, (world.config.scratch.root / other).read_bytes())
    path.unlink() if after is None else path.write_bytes(after)
    return after != before


def run_campaign(seeds: range, folder: Path) -> list[Result]:
    """Run seeds over folder and bucket, the layouts, and local copies kept or not, a world for each of these."""
    logging.disable(logging.CRITICAL)
    worlds: dict[tuple[bool, str, bool], World] = {}
    results = []
    try:
        for seed in seeds:
            rng = random.Random(f"world {seed}")
            which = (rng.random() < 0.5, rng.choice(LAYOUTS), rng.random() < 0.5)
            if which not in worlds:
                worlds[which] = World(folder / f"world{len(worlds)}", *which)
            results.append(run_seed(worlds[which], seed))
    finally:
        logging.disable(logging.NOTSET)
    return results


def summary(results: list[Result]) -> dict[str, object]:
    """Return the figures of a campaign."""
    damaged = [result for result in results if not result.harmless]
    kinds = Counter(result.what.rpartition(" ")[2] for result in damaged)
    return {
        "corruptions": len(damaged),
        "by kind": dict(sorted(kinds.items())),
        "named by verify": sum(result.named for result in damaged),
        "silent": sum(bool(result.silent) for result in damaged),
        "stacks": sum(bool(result.stacks) for result in damaged),
        "hangs": sum(bool(result.hangs) for result in damaged),
        "lines on the way": sum(bool(result.lines) for result in damaged),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--seeds", type=int, default=int(os.environ.get("AIFS_CORRUPTIONS", "500")))
    parser.add_argument("--first", type=int, default=int(os.environ.get("AIFS_SEED", "1")))
    parser.add_argument("--flips", action="store_true", help="one flipped bit of any JSON at a bucket a seed")
    args = parser.parse_args()
    warnings.simplefilter("ignore", RuntimeWarning)  # means of no samples, in the account of members without any
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        campaign = run_flips if args.flips else run_campaign
        results = campaign(range(args.first, args.first + args.seeds), Path(folder))
    for name, value in summary(results).items():
        print(f"{name}: {value}")
    print(f"seconds: {time.monotonic() - began:.0f}")
    for result in results:
        for line in result.lines:
            print(f"seed {result.seed}: {result.what}: said: {line}")
    wrong = [result for result in results if result.silent or result.stacks or result.hangs]
    for result in wrong:
        print(f"seed {result.seed}: {result.what}: {result.silent} {result.stacks} {result.hangs}", file=sys.stderr)
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
