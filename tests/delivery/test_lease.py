"""One run of a cycle at a time, at a folder and at a bucket: who has the lease, and when it passes on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from datetime import timedelta
from pathlib import Path

import pytest
from aifs_ensemble.common import clock
from aifs_ensemble.common.config import Config
from aifs_ensemble.common.errors import OtherRunError
from aifs_ensemble.common.files import json_bytes
from aifs_ensemble.common.records import sealed
from aifs_ensemble.common.storage import Storage, open_destination
from aifs_ensemble.delivery.lease import STALE_SECONDS, RunLease

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
