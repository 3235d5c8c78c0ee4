"""One run of a cycle at a time, at a folder and at a bucket: who has the lease, and when it passes on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from aifs_ensemble.cli import main
from aifs_ensemble.common import clock
from aifs_ensemble.common.config import Config
from aifs_ensemble.common.errors import OtherRunError, StorageError, VerificationError
from aifs_ensemble.common.files import json_bytes
from aifs_ensemble.common.records import sealed
from aifs_ensemble.common.storage import Storage, open_destination
from aifs_ensemble.delivery.lease import STALE_SECONDS, RunLease, alone
from aifs_ensemble.delivery.member import deliver_member

from delivery.members import make_config, make_member

CYCLE = "20250819_0000"
KEY = f"{CYCLE}/run.json"
pytestmark = pytest.mark.cloud


@pytest.fixture
def config(destination: str, tmp_path: Path) -> Config:
    return Config(
        {
            "model": "demo", "cycle": CYCLE, "members": "1", "lead_hours": 6, "scratch": str(tmp_path / "scratch"),
            "destination": destination, "initial_conditions": {"source": "idealised"},
        }
    )  # fmt: skip


@pytest.fixture
def storage(config: Config) -> Storage:
    return open_destination(config)


def rewritten(storage: Storage, **keys: str) -> None:
    """Put a lease of another host there, with some keys of its own."""
    content = json.loads(storage.get_bytes(KEY)) | {"host": "elsewhere", "numbering": "other"} | keys
    content.pop("digest")
    storage.put_bytes(json_bytes(sealed(content)), KEY, overwrite=True)


def test_a_second_run_is_refused_in_one_line(config: Config, storage: Storage) -> None:
    first = RunLease(config, storage)
    first.take()
    with pytest.raises(OtherRunError) as refused:
        RunLease(config, open_destination(config)).take()
    said = str(refused.value)
    assert said.startswith(f"{CYCLE}: another run makes it (") and "\n" not in said
    assert str(Path.cwd()) in said and f"remove {storage.address(KEY)}, or wait 15 min" in said
    assert OtherRunError.exit_code == 14
    first.give_back()
    assert storage.stat(KEY) is None
    RunLease(config, storage).take()


def test_of_two_that_begin_together_one_has_it(config: Config) -> None:
    for _ in range(3):
        leases = [RunLease(config, open_destination(config)) for _ in range(4)]
        barrier, had = threading.Barrier(4), []

        def take(lease: RunLease, barrier: threading.Barrier = barrier, had: list[RunLease] = had) -> None:
            barrier.wait()
            try:
                lease.take()
                had.append(lease)
            except OtherRunError:
                pass

        threads = [threading.Thread(target=take, args=(lease,)) for lease in leases]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(had) == 1
        had[0].give_back()


def test_of_two_that_take_over_one_has_it(config: Config, storage: Storage) -> None:
    """The lease of a machine that is gone; both see it, and the object is replaced once."""
    left = RunLease(config, storage)
    left.take()
    rewritten(storage)
    seen = storage.stat(KEY)
    assert seen is not None
    done = storage.put_bytes(b"mine", KEY, replacing=seen)
    assert done.generation != seen.generation
    with pytest.raises(Exception, match="exists with other content"):
        storage.put_bytes(b"not yours", KEY, replacing=seen)
    assert storage.get_bytes(KEY) == b"mine"


def test_another_machines_lease_holds_until_it_is_stale(
    config: Config, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    RunLease(config, storage).take()
    rewritten(storage)
    now = clock.now()
    monkeypatch.setattr(clock, "now", lambda: now + timedelta(seconds=STALE_SECONDS - 60))
    with pytest.raises(OtherRunError, match=r"another run makes it \(elsewhere:"):
        RunLease(config, storage).take()
    monkeypatch.setattr(clock, "now", lambda: now + timedelta(seconds=STALE_SECONDS + 60))
    RunLease(config, storage).take()
    assert json.loads(storage.get_bytes(KEY))["host"] != "elsewhere"


def test_a_lease_that_is_refreshed_does_not_become_stale(config: Config, storage: Storage) -> None:
    mine = RunLease(config, storage)
    mine.take()
    before = storage.stat(KEY)
    assert mine.refresh()
    after = storage.stat(KEY)
    assert before and after and before.generation <= after.generation
    rewritten(storage)
    assert not mine.refresh(), "somebody else has it"
    mine.give_back()
    assert json.loads(storage.get_bytes(KEY))["host"] == "elsewhere", "another's lease is not removed"


def test_a_killed_run_of_this_machine_holds_nobody_up(config: Config, storage: Storage) -> None:
    child = f"""
import json, os, signal
from aifs_ensemble.common.config import Config
from aifs_ensemble.common.storage import open_destination
from aifs_ensemble.delivery.lease import RunLease
config = Config(json.loads({json.dumps(config.to_dict())!r}))
RunLease(config, open_destination(config)).take()
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", child], env=os.environ, check=False, timeout=120)
    assert done.returncode == -9 and storage.stat(KEY) is not None
    RunLease(config, storage).take()


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b'{"schema": "aifs-ensemble-run/1"}'])
def test_what_is_no_lease_holds_nobody_up(config: Config, storage: Storage, content: bytes) -> None:
    storage.put_bytes(content, KEY)
    RunLease(config, storage).take()
    assert json.loads(storage.get_bytes(KEY))["schema"] == "aifs-ensemble-run/1"


def test_cycles_that_are_there_are_known_by_their_folders(config: Config, storage: Storage) -> None:
    from aifs_ensemble.delivery.cycles_there import cycles_at

    for key in ("20250818_0000/manifest.json", "20250819_1200/forecasts/x", "checkpoints/demo.ckpt", "20251399_0000/x"):
        storage.put_bytes(b"x", key)
    assert [cycle[6:11] for cycle in cycles_at(storage)] == ["18_00", "19_12"]


def other_run(config: Config, storage: Storage) -> RunLease:
    """Have a run of another machine make the cycle."""
    lease = RunLease(config, storage)
    lease.take()
    content = json.loads(storage.get_bytes(config.objects.run)) | {"host": "elsewhere", "numbering": "other"}
    content.pop("digest")
    storage.put_bytes(json_bytes(sealed(content)), config.objects.run, overwrite=True)
    return lease


def in_forty_days() -> type[datetime]:
    """A clock that stands there."""
    then = datetime.now(UTC) + timedelta(days=40)

    class Clock(datetime):
        @classmethod
        def now(cls, tz: object = None) -> datetime:  # type: ignore[override]
            return then

    return Clock


BUSY, FREE = "20250103_0000", "20250110_0000"
CHANGES = {
    "gc": ["gc", "--delete", "--older-hours", "0"],
    "gc --finished": ["gc", "--delete", "--finished", "2"],
    "gc --plan": ["gc", "--delete", "--plan", "--cycles", f"{BUSY},{FREE}", "--older-hours", "0"],
    "verify --mend": ["verify", "--mend"],
}


@pytest.mark.parametrize("command", CHANGES)
def test_commands_that_change_a_cycle_leave_one_that_a_run_makes(
    command: str,
    destination: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One line says who has it; nothing of it changes, here or there, and the other cycle goes on."""
    monkeypatch.setattr("aifs_ensemble.cli.gc.datetime", in_forty_days())
    rules = {"all": {"what": ["leads", "restarts"], "days": 30}}
    both = make_config(tmp_path / "scratch", destination, cycle=None, cycles=[BUSY, FREE], keep=rules)
    storage = open_destination(both)
    for config in both.of_each_cycle:
        for member in (1, 2):
            make_member(config, member)
            deliver_member(config, member)
        storage.put_bytes(b"stray", config.objects.restart(1, 6))
        storage.delete(config.objects.lead(1, 6))  # damaged: there is something to mend
    file = tmp_path / "config.yaml"
    file.write_text(json.dumps({key: value for key, value in both.to_dict().items() if value is not None}))

    def everything(cycle: str) -> dict[str, object]:
        here = (tmp_path / "scratch" / cycle).rglob("*")
        there: dict[str, object] = {info.key: info.generation for info in storage.list(f"{cycle}/")}
        return there | {str(path): path.stat().st_mtime_ns for path in here if path.is_file()}

    lease = other_run(both.of_cycle(BUSY), storage)
    before = {cycle: everything(cycle) for cycle in both.cycles}
    assert main([*CHANGES[command], "--configfile", str(file)]) == 14
    said = [line for line in capsys.readouterr().err.splitlines() if "another run" in line]
    assert len(said) == 1 and said[0].startswith(f"error: {BUSY}: another run makes it (elsewhere:"), said
    assert everything(BUSY) == before[BUSY]
    after = everything(FREE)
    assert after != before[FREE] and f"{FREE}/run.json" not in after

    lease.give_back()
    storage.delete(both.of_cycle(BUSY).objects.run)
    code = VerificationError.exit_code if command == "verify --mend" else 0
    assert main([*CHANGES[command], "--configfile", str(file), "--json"]) == code
    assert everything(BUSY) != before[BUSY] and f"{BUSY}/run.json" not in everything(BUSY)


@pytest.mark.parametrize("command", ["gc", "verify --mend"])
def test_who_changes_a_cycle_that_is_not_there_writes_nothing(
    command: str, config: Config, storage: Storage, tmp_path: Path
) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(json.dumps({key: value for key, value in config.to_dict().items() if value is not None}))
    code = {"gc": 0, "verify --mend": VerificationError.exit_code}[command]
    assert main([*CHANGES[command], "--configfile", str(file)]) == code
    assert CYCLE not in set(storage.folders())


def test_where_nothing_can_be_written_a_command_still_asks(
    config: Config, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An archive that is read-only: nobody has it, so a command goes on and meets that itself."""

    def refuse(*_: object, **__: object) -> None:
        raise StorageError("read-only")

    storage.put_bytes(b"archived", f"{CYCLE}/manifest.json")
    read_only = open_destination(config)
    monkeypatch.setattr(read_only, "put_bytes", refuse)
    with alone(config, read_only):
        assert storage.stat(KEY) is None
    RunLease(config, storage).take()
    rewritten(storage)
    with pytest.raises(OtherRunError, match=r"another run makes it \(elsewhere:"), alone(config, read_only):
        raise AssertionError("not refused")


def test_a_command_asks_once_whether_another_has_the_cycle(
    config: Config, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage.put_bytes(b"there", f"{CYCLE}/manifest.json")
    asked: list[str] = []
    stat = storage.stat
    monkeypatch.setattr(storage, "stat", lambda key: (asked.append(key), stat(key))[1])
    run = RunLease(config, storage)
    run.take()
    of_run = list(asked)
    run.give_back()
    asked.clear()
    with alone(config, storage):
        assert asked == of_run and KEY in asked


def test_what_fails_of_one_of_two_models_is_said_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By model and cycle, with the exit code of what failed; the other model's cycle goes."""
    monkeypatch.chdir(tmp_path)
    rules = {"all": {"what": ["leads"], "days": 30}}
    both = make_config(tmp_path / "scratch", str(tmp_path / "out"), model=["demo", "demo-v2"], cycle=BUSY, keep=rules)
    for config in both.of_each_cycle:
        make_member(config, 1)
        deliver_member(config, 1)
    free, busy = both.of_each_cycle
    storage = open_destination(busy)
    other_run(busy, storage)
    file = tmp_path / "config.yaml"
    file.write_text(json.dumps({key: value for key, value in both.to_dict().items() if value is not None}))
    monkeypatch.setattr("aifs_ensemble.cli.gc.datetime", in_forty_days())
    command = ["gc", "--delete", "--plan", "--cycles", BUSY, "--older-hours", "0", "--configfile", str(file)]
    assert main(command) == OtherRunError.exit_code
    failed, closing = capsys.readouterr().err.splitlines()
    assert failed.startswith(f"error: demo-v2: demo-v2/{BUSY}: another run makes it (elsewhere:")
    assert closing == "error: 1 of 2 models: demo-v2: see above"
    leads = [config.objects.lead(1, 6) for config in (free, busy)]
    assert open_destination(free).stat(leads[0]) is None and storage.stat(leads[1]) is not None


def test_a_command_keeps_runs_out_while_it_works(config: Config, storage: Storage) -> None:
    storage.put_bytes(b"there", f"{CYCLE}/manifest.json")
    with alone(config, storage), pytest.raises(OtherRunError, match="another run makes it"):
        RunLease(config, storage).take()
    assert storage.stat(KEY) is None
