"""Names that a bucket, a receipt, a journal or a status may hold: none of them is ever a path on this machine.

Whoever writes to the destination can seal what they write, so that the seal is no help here: the records are whole in
everything but the name.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aifs_ensemble.common.errors import WorkflowError
from aifs_ensemble.common.files import crc32c_bytes, json_bytes
from aifs_ensemble.common.manifest import MEMBER_SCHEMA
from aifs_ensemble.common.names import BENCHMARKS, sound_key
from aifs_ensemble.common.records import sealed
from aifs_ensemble.delivery.leftovers import find_orphans
from aifs_ensemble.delivery.restore import restore_member
from aifs_ensemble.delivery.streaming import StreamingDelivery
from aifs_ensemble.delivery.verify import check_ensemble
from aifs_ensemble.forecast.work_folder import WorkFolder

from delivery.corruptions import World, readers, run_again

CYCLE = "20250819_0000"
SECRET = b"s" * 3000
UP = "../" * 7
LEAD = f"aifs_ens_forecast_{CYCLE}_member001_h006.grib2"
EVIL = [
    "", ".", "..", "...", "/", "//", "a//b", "./a", "a/.", "a/..", "../a", f"{UP}secret.txt", "../../secret.txt",
    "/etc/passwd", "{root}/secret.txt", f"x/{UP}secret.txt", f"./{LEAD}", f"../leads/{LEAD}", f"{LEAD}/", f"{LEAD}/..",
    f"{LEAD}\n", f"\n{LEAD}", f"{LEAD}\0", f"{LEAD}\x1b[2J", f" {LEAD}", f"{LEAD} ", LEAD.upper(),
    LEAD.replace("001", "1"),
    LEAD.replace("001", "0001"), LEAD.replace("001", "002"), LEAD.replace("001", "..."), LEAD.replace("h006", "h6"),
    LEAD.replace("h006", "h0006"), LEAD.replace("0819", "0820"), LEAD.replace("h006", "h٠٠٦"), f"{LEAD}.part",
    "~/secret.txt", "$(touch evil)", "..\\secret.txt", "%2e%2e/secret.txt", "member..", "x" * 5000,
]  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A delivered ensemble in a bucket, deep in a folder with a secret at its root."""
    root = tmp_path_factory.mktemp("evil")
    world = World(root / "a" / "b" / "c", True, "leads", False)
    with world.opened():
        yield world


@pytest.fixture
def world(whole: World) -> World:
    whole.restore(whole.delivered)
    (root_of(whole) / "secret.txt").write_bytes(SECRET)
    return whole


def root_of(world: World) -> Path:
    return world.folder.parents[2]


def rewrite(world: World, key: str, change: Any) -> None:
    """Change a record at the destination, and seal it anew."""
    content = json.loads(world.memory.get_bytes(key))
    change(content)
    world.memory.put_bytes(json_bytes(sealed(content)), key, overwrite=True)


def secret_record(name: str) -> dict[str, Any]:
    return {"name": name, "size": len(SECRET), "crc32c": crc32c_bytes(SECRET)}


def outside(world: World) -> set[Path]:
    """Return everything that is not below the run's own folder."""
    kept = (world.folder, world.computed[0], world.delivered[0])
    return {path for path in root_of(world).rglob("*") if not any(path.is_relative_to(own) for own in kept)}


def look_at_everything(world: World) -> None:
    """Have every command and job look; each may end with one line and nothing else."""
    tasks = {**readers(world), "mend": lambda: check_ensemble(world.config, mend=True), "job": lambda: job(world),
             "run": lambda: run_again(world.config)}  # fmt: skip
    for what, task in tasks.items():
        try:
            task()
        except WorkflowError as error:
            assert str(error).isprintable(), what
            assert len(str(error)) < 3000, what


def job(world: World) -> None:
    """Take up member 1 as a rented machine does, with nothing of its own, and remove what is delivered."""
    shutil.rmtree(world.config.scratch.work(1), ignore_errors=True)
    restore_member(world.config, 1)
    delivery = StreamingDelivery(world.config, 1)
    try:
        delivery.__enter__().started(1, 4, 0)
        delivery._queue.wait(10)
        delivery._remove_delivered()
    finally:
        delivery._queue.close(wait=True)


@pytest.mark.parametrize("name", EVIL, ids=range(len(EVIL)))
def test_no_name_leads_out_of_scratch(name: str, world: World) -> None:
    name = name.format(root=root_of(world)) if "{root}" in name else name
    before, keys, memory = outside(world), world.config.objects, world.memory
    third = keys.resume_point(3, 12)

    def lead(content: dict[str, Any]) -> None:
        content["leads"][0]["grib"] = secret_record(name)

    def index(content: dict[str, Any]) -> None:
        content["leads"][0]["index"] = secret_record(name)

    def stored(content: dict[str, Any]) -> None:
        content["objects"][0] |= {"key": name, "size": len(SECRET), "crc32c": crc32c_bytes(SECRET)}

    def work(content: dict[str, Any]) -> None:
        content["work"][name] = "x"

    changes = [(keys.receipt(1), lead), (keys.receipt(1), index), (keys.receipt(1), stored), (keys.receipt(1), work),
               (keys.manifest(1), lead), (keys.manifest(1), index), (third, lead), (third, work)]  # fmt: skip
    for number, (key, change) in enumerate(changes):
        sound = dict(memory.objects)
        rewrite(world, key, change)
        if number < 4:
            memory.delete(keys.manifest(1))
        look_at_everything(world) if number in (0, 4) else (restored(world), job(world))
        memory.objects = sound
    sound = dict(memory.objects)
    for part in ("manifests", "receipts", "forecasts", "metrics", "status", "restarts", "restarts/member003"):
        memory.objects[f"{CYCLE}/{part}/{name}"] = (SECRET, 1)
    for key in (f"{BENCHMARKS}/{name}", f"{BENCHMARKS}/{name}/{CYCLE}/x.tsv", f"{BENCHMARKS}/x/{CYCLE}/{name}"):
        memory.objects[key] = (SECRET, 1)
    look_at_everything(world)
    memory.objects = sound
    journal_lines(world, name)
    assert (root_of(world) / "secret.txt").read_bytes() == SECRET
    assert outside(world) == before
    history = world.config.scratch.root / "history"
    assert not [path for path in history.rglob("*") if path.is_file() and path.read_bytes() == SECRET]


def restored(world: World) -> None:
    """Bring members back to a fresh machine: nothing of what is restored has another name than its own."""
    for member in (1, 3):
        root = world.all.scratch.work(member)
        shutil.rmtree(root, ignore_errors=True)
        for record in restore_member(world.all, member).leads:
            assert record.grib.name == world.config.objects.lead(member, record.lead).rpartition("/")[2]
        assert {path.name for path in root.rglob("*") if path.is_file()} <= {
            "fingerprint.json", "attempts.jsonl", "delivered.jsonl", "h012.safetensors"}  # fmt: skip


def journal_lines(world: World, name: str) -> None:
    """A journal with the name: no lead of the member is in it, and none is sent or removed."""
    work = WorkFolder(world.config.scratch.work(1), CYCLE, 1)
    work.root.mkdir(parents=True, exist_ok=True)
    line = {"lead": 6, "grib": secret_record(name), "index": secret_record(name), "messages": 1}
    for lines in (work.journal, work.delivered):
        lines._lines.path.write_bytes(json.dumps(line).encode() + b"\n")
        assert lines.read() == {}
        lines._lines.write([line])
        assert lines.read() == {}
    assert work.finished([6], local=False) == {}


def test_there_are_forty_of_them() -> None:
    assert len(set(EVIL)) >= 40
    assert sum(not sound_key(name) for name in EVIL) > 20


def test_the_receipt_that_once_sent_a_secret_counts_as_missing(world: World) -> None:
    keys = world.config.objects
    rewrite(world, keys.receipt(1), lambda content: content["leads"][0].update(grib=secret_record("../../secret.txt")))
    [check] = [check for check in check_ensemble(world.config, places=["destination"]).members if check.member == 1]
    assert "h006 names other files than those of member001 of 20250819_0000" in check.problems[0]


def test_gc_leaves_a_member_alone_whose_manifest_is_anothers(world: World) -> None:
    """Once it offered to remove every sound file of a member with the manifest of another."""
    from datetime import timedelta

    keys, memory = world.config.objects, world.memory
    memory.put_bytes(memory.get_bytes(keys.manifest(2)), keys.manifest(1), overwrite=True)
    found = [orphan.info.key for orphan in find_orphans(world.config, memory, timedelta(0))]
    assert not [key for key in found if "member001" in key]
    assert json.loads(memory.get_bytes(keys.manifest(1)))["schema"] == MEMBER_SCHEMA
