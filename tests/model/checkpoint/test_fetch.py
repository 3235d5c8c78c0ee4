"""Fetching checkpoints through the real hub client and over HTTP, against a hub on loopback that misbehaves."""

from __future__ import annotations

import hashlib
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aifs_ensemble.common.errors import CheckpointError, DiskFullError
from aifs_ensemble.common.http import Policy
from aifs_ensemble.common.models import Model
from aifs_ensemble.model.checkpoint.digest import read_record, record_path
from aifs_ensemble.model.checkpoint.fetch import fetch_checkpoint, provide_checkpoint
from doubles.gcs_server import gcs_server
from doubles.huggingface_server import COMMIT, Fault, Hub, huggingface_hub_server
from waiting import wait_until

REPOSITORY, FILE = "ecmwf/aifs-ens-1.0", "aifs-ens-crps-1.0.ckpt"
QUICK = Policy(deadline_seconds=20, stall_seconds=0.5, first_wait=0.05, attempts=3)
HALF = 1_000_000


@pytest.fixture
def content(demo_path: Path) -> bytes:
    return demo_path.read_bytes()


@pytest.fixture
def hub(content: bytes, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with huggingface_hub_server({(REPOSITORY, FILE): content, ("ecmwf/other", FILE): content[:-1]}) as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        yield running


@pytest.fixture
def entry(demo: Model, content: bytes) -> Model:
    """The demonstration model as if it were released on the hub."""
    checkpoint = {
        "repository": REPOSITORY,
        "revision": "main",
        "file": FILE,
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    return replace(demo, name="released", checkpoint=checkpoint)


def changed(entry: Model, **values: Any) -> Model:
    return replace(entry, checkpoint={**entry.checkpoint, **values})


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.endswith((".part", ".download.json")))


def test_fetched_whole_with_its_commit_recorded(hub: Hub, entry: Model, content: bytes, tmp_path: Path) -> None:
    record = fetch_checkpoint(entry, tmp_path / "c.ckpt", policy=QUICK)
    assert (tmp_path / "c.ckpt").read_bytes() == content
    assert record.source == f"{REPOSITORY}@{COMMIT}/{FILE}"
    assert record.sha256 == entry.checkpoint["sha256"]
    assert read_record(tmp_path / "c.ckpt") == record
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("sound", [True, False])
def test_the_hubs_shared_cache_is_looked_at_first(
    hub: Hub, entry: Model, content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, sound: bool
) -> None:
    """What another program has fetched is copied by its digest; other content there is fetched anew."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    kept = tmp_path / "hub" / f"models--{REPOSITORY.replace('/', '--')}" / "snapshots" / COMMIT / FILE
    kept.parent.mkdir(parents=True)
    kept.write_bytes(content if sound else content[:-1])
    record = fetch_checkpoint(entry, tmp_path / "c.ckpt", policy=QUICK)
    assert (tmp_path / "c.ckpt").read_bytes() == content
    assert record.source == f"{REPOSITORY}@{COMMIT}/{FILE}"
    assert bool(hub.sent()) != sound


@pytest.mark.parametrize(
    ("faults", "resumed"),
    [
        ([Fault("stall", HALF)], True),
        ([Fault("reset", HALF)], True),
        ([Fault("truncate", HALF)], True),
        ([Fault("trickle", HALF)], True),
        ([Fault("truncate", HALF), Fault("reset", 2 * HALF), Fault("stall", 2 * HALF + 1)], True),
        ([Fault("truncate", HALF), Fault("ignore-range")], True),
        ([Fault("status", status=503)], False),
        ([Fault("status", status=429, headers=(("Retry-After", "1"),))], False),
        ([Fault("status", status=500), Fault("truncate", HALF)], True),
        ([Fault("stall", 0)], False),
    ],
    ids=lambda value: "-".join(fault.kind for fault in value) if isinstance(value, list) else None,
)
def test_faults_are_overcome(
    hub: Hub, entry: Model, content: bytes, tmp_path: Path, faults: list[Fault], resumed: bool
) -> None:
    hub.faults = list(faults)
    fetch_checkpoint(entry, tmp_path / "c.ckpt", policy=QUICK)
    assert (tmp_path / "c.ckpt").read_bytes() == content
    assert hub.faults == []
    assert any(seen.range for seen in hub.sent()) == resumed


def test_retry_after_is_obeyed(hub: Hub, entry: Model, tmp_path: Path) -> None:
    hub.faults = [Fault("status", status=429, headers=(("Retry-After", "2"),))]
    start = time.monotonic()
    fetch_checkpoint(entry, tmp_path / "c.ckpt", policy=QUICK)
    assert time.monotonic() - start >= 2


@pytest.mark.parametrize("fault", [Fault("status", status=503), Fault("stall", 1)], ids=["503", "silent"])
def test_a_hub_that_fails_once_is_asked_again(hub: Hub, entry: Model, tmp_path: Path, fault: Fault) -> None:
    hub.lookup_faults = [fault]
    fetch_checkpoint(entry, tmp_path / "c.ckpt", policy=QUICK)
    assert (tmp_path / "c.ckpt").exists()


@pytest.mark.parametrize(
    ("change", "setting", "expected"),
    [
        (
            {"repository": "ecmwf/nothing"},
            {},
            "ecmwf/nothing@main.*no such repository, or it is private .HF_TOKEN is not set",
        ),
        ({"revision": "v9"}, {}, "no such revision, see checkpoint.revision"),
        ({"file": "other.ckpt"}, {}, "no such file there, see checkpoint.file"),
        (
            {},
            {"gated": {REPOSITORY}},
            "accept its licence on the page of ecmwf/aifs-ens-1.0 first.*HF_TOKEN is not set",
        ),
        ({}, {"lookup_faults": [Fault("status", status=403)]}, "hub answers HTTP 403 .HF_TOKEN is not set"),
        ({}, {"lookup_faults": [Fault("status", status=503)] * 3}, "hub answers HTTP 503; run again to go on"),
        ({}, {"faults": [Fault("status", status=403)]}, "HTTP 403$"),
        ({}, {"faults": [Fault("status", status=404)]}, "HTTP 404$"),
        ({}, {"faults": [Fault("status", status=502)] * 3}, "HTTP 502; run again"),
        (
            {},
            {"faults": [Fault("corrupt", HALF)]},
            f"{REPOSITORY}@{COMMIT}/{FILE}: sha256 .*, expected .* as the source says",
        ),
        ({"sha256": "0" * 64}, {}, f"sha256 .*, expected {'0' * 64} .released in models.yaml"),
        ({"repository": None}, {}, "neither checkpoint.repository nor checkpoint.url"),
    ],
)
def test_what_cannot_be_had_is_said_in_one_line(
    hub: Hub, entry: Model, tmp_path: Path, change: dict[str, Any], setting: dict[str, Any], expected: str
) -> None:
    for name, value in setting.items():
        setattr(hub, name, value)
    with pytest.raises(CheckpointError, match=expected) as caught:
        fetch_checkpoint(changed(entry, **change), tmp_path / "c.ckpt", policy=QUICK)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "c.ckpt").exists()


def test_where_a_copy_may_be_had_is_said(hub: Hub, entry: Model, tmp_path: Path) -> None:
    hub.gated = {REPOSITORY}
    mirrored = changed(entry, mirror="https://example.org/c.ckpt")
    hint = r"; a copy may be had with --source https://example\.org/c\.ckpt$"
    with pytest.raises(CheckpointError, match=f"accept its licence.*{hint}"):
        fetch_checkpoint(mirrored, tmp_path / "c.ckpt", policy=QUICK)
    hub.lookup_faults = [Fault("status", status=503)] * 3
    with pytest.raises(CheckpointError, match=f"HTTP 503; run again to go on from there{hint}"):
        fetch_checkpoint(mirrored, tmp_path / "c.ckpt", policy=QUICK)


def test_a_file_altered_on_the_way_is_not_kept(hub: Hub, entry: Model, tmp_path: Path) -> None:
    hub.faults = [Fault("corrupt", HALF)]
    with pytest.raises(CheckpointError, match="sha256"):
        fetch_checkpoint(entry, tmp_path / "c.ckpt", policy=QUICK)
    assert leftovers(tmp_path) == []


def test_no_server_at_all(entry: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(CheckpointError, match=r"no answer from the hub \(ConnectError"):
        fetch_checkpoint(entry, tmp_path / "c.ckpt", policy=QUICK)


def test_the_deadline_holds_whatever_comes(hub: Hub, entry: Model, tmp_path: Path) -> None:
    hub.faults = [Fault("trickle", step) for step in range(1, 50)]
    policy = replace(QUICK, deadline_seconds=2, slowest=0, attempts=99)
    start = time.monotonic()
    with pytest.raises(CheckpointError, match="deadline of 2 s passed"):
        fetch_checkpoint(entry, tmp_path / "c.ckpt", policy=policy)
    assert time.monotonic() - start < 60  # 49 trickles of a second, and 99 attempts, would take longer


def test_the_token_goes_to_the_hub_and_nowhere_else(
    hub: Hub,
    entry: Model,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_very_secret")
    hub.gated = {REPOSITORY}
    hub.faults = [Fault("truncate", HALF)]
    with caplog.at_level("DEBUG"):
        fetch_checkpoint(entry, tmp_path / "c.ckpt", policy=QUICK)
    assert {seen.token for seen in hub.seen if not seen.path.startswith("/cdn/")} == {"Bearer hf_very_secret"}
    assert {seen.token for seen in hub.seen if seen.path.startswith("/cdn/")} == {None}
    ours = [record.getMessage() for record in caplog.records if record.name.startswith("aifs_ensemble")]
    assert ours
    assert "hf_very_secret" not in caplog.text
    assert not any("X-Signature" in line for line in ours)


def test_a_file_that_is_there_and_right_is_not_asked_for(hub: Hub, entry: Model, tmp_path: Path) -> None:
    fetch_checkpoint(entry, tmp_path / "c.ckpt", policy=QUICK)
    before = len(hub.seen)
    fetch_checkpoint(entry, tmp_path / "c.ckpt", policy=QUICK)
    assert len(hub.seen) == before


def test_another_file_in_its_place_is_not_overwritten(hub: Hub, entry: Model, tmp_path: Path) -> None:
    path = tmp_path / "c.ckpt"
    path.write_bytes(b"mine")
    with pytest.raises(CheckpointError, match="remove to fetch anew"):
        fetch_checkpoint(entry, path, policy=QUICK)
    assert path.read_bytes() == b"mine"


FETCH = """
    import dataclasses, sys
    sys.path.insert(0, {scripts!r})
    from pathlib import Path
    from aifs_ensemble.common.http import Policy
    from aifs_ensemble.model.checkpoint.fetch import fetch_checkpoint
    from aifs_ensemble.common.models import get_model
    entry = dataclasses.replace(get_model("demo"), name="released", checkpoint={checkpoint})
    fetch_checkpoint(entry, Path({to!r}), policy=Policy(deadline_seconds=30, stall_seconds={stall}, first_wait=0.05))
"""


@pytest.fixture
def fetching(entry: Model, root: Path) -> Callable[..., subprocess.Popen[str]]:
    """Start a fetch in another process."""

    def start(to: Path, stall: float) -> subprocess.Popen[str]:
        script = FETCH.format(scripts=str(root / "scripts"), checkpoint=dict(entry.checkpoint), to=str(to), stall=stall)
        command = [sys.executable, "-c", textwrap.dedent(script)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    return start


def test_a_killed_download_is_resumed_and_its_lock_stops_nobody(
    hub: Hub, entry: Model, content: bytes, tmp_path: Path, fetching: Callable[..., subprocess.Popen[str]]
) -> None:
    path, part = tmp_path / "c.ckpt", tmp_path / ".c.ckpt.download.part"
    hub.faults = [Fault("stall", HALF)]
    process = fetching(path, 60)
    wait_until(lambda: part.exists() and part.stat().st_size >= HALF // 2)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (tmp_path / ".c.ckpt.lock").exists()
    received = part.stat().st_size
    fetch_checkpoint(entry, path, policy=QUICK)
    assert path.read_bytes() == content
    assert hub.sent()[-1].range == f"bytes={received}-"


def test_two_processes_fetch_once(
    hub: Hub, entry: Model, content: bytes, tmp_path: Path, fetching: Callable[..., subprocess.Popen[str]]
) -> None:
    hub.faults = [Fault("stall", HALF)]
    processes = [fetching(tmp_path / "c.ckpt", 1) for _ in range(2)]
    for process in processes:
        output, _ = process.communicate(timeout=60)
        assert process.returncode == 0, output
    assert (tmp_path / "c.ckpt").read_bytes() == content
    assert [seen.range is None for seen in hub.sent()] == [True, False]


def test_bytes_left_of_another_version_are_not_used(hub: Hub, entry: Model, content: bytes, tmp_path: Path) -> None:
    other = changed(entry, repository="ecmwf/other", sha256=None)
    hub.faults = [Fault("truncate", HALF)] * 3
    with pytest.raises(CheckpointError, match="broke off at byte 1000000"):
        fetch_checkpoint(other, tmp_path / "c.ckpt", policy=QUICK)
    hub.seen.clear()
    fetch_checkpoint(entry, tmp_path / "c.ckpt", policy=QUICK)
    assert [seen.range for seen in hub.sent()] == [None]
    assert (tmp_path / "c.ckpt").read_bytes() == content


def test_bytes_that_went_bad_on_disk_are_fetched_anew(hub: Hub, entry: Model, content: bytes, tmp_path: Path) -> None:
    hub.faults = [Fault("truncate", HALF)] * 3
    with pytest.raises(CheckpointError, match="broke off"):
        fetch_checkpoint(entry, tmp_path / "c.ckpt", policy=QUICK)
    part = tmp_path / ".c.ckpt.download.part"
    part.write_bytes(b"\0" * part.stat().st_size)
    fetch_checkpoint(entry, tmp_path / "c.ckpt", policy=QUICK)
    assert (tmp_path / "c.ckpt").read_bytes() == content


def test_no_room(hub: Hub, entry: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A disk cannot be filled in a test; what is asked of the system is answered as if it were.
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(DiskFullError, match="1000 bytes free, the checkpoint needs"):
        fetch_checkpoint(entry, tmp_path / "c.ckpt", policy=QUICK)


@pytest.mark.parametrize("faults", [[], [Fault("reset", HALF)]], ids=["whole", "reset"])
def test_a_plain_url(hub: Hub, entry: Model, content: bytes, tmp_path: Path, faults: list[Fault]) -> None:
    url = f"{hub.url}/cdn/{entry.checkpoint['sha256']}?X-Signature=secret"
    hub.faults = list(faults)
    record = fetch_checkpoint(entry, tmp_path / "c.ckpt", source=url, policy=QUICK)
    assert (tmp_path / "c.ckpt").read_bytes() == content
    assert record.source == url.partition("?")[0]


def test_a_plain_url_must_be_https_elsewhere(entry: Model, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"http://example\.org/c\.ckpt: expected https"):
        fetch_checkpoint(entry, tmp_path / "c.ckpt", source="http://example.org/c.ckpt?key=1", policy=QUICK)


def test_a_path(entry: Model, demo_path: Path, content: bytes, tmp_path: Path) -> None:
    record = fetch_checkpoint(entry, tmp_path / "c.ckpt", source=str(demo_path), policy=QUICK)
    assert (tmp_path / "c.ckpt").read_bytes() == content
    assert record.source == str(demo_path)
    with pytest.raises(CheckpointError, match=r"nothing\.ckpt: no such file"):
        fetch_checkpoint(entry, tmp_path / "d.ckpt", source=str(tmp_path / "nothing.ckpt"), policy=QUICK)


@pytest.mark.cloud
def test_a_bucket_resumed(
    entry: Model, content: bytes, demo_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from aifs_ensemble.common.storage import open_storage

    monkeypatch.setattr("aifs_ensemble.model.checkpoint.fetch._BUCKET_PIECE", HALF)
    with gcs_server("models"):
        info = open_storage("gs://models/checkpoints").put_file(demo_path, "c.ckpt")
        begun = tmp_path / f".c.ckpt.download.{info.generation}.part"
        begun.write_bytes(b"\0" * HALF)
        with pytest.raises(CheckpointError, match="content differs from its crc32c"):
            fetch_checkpoint(entry, tmp_path / "c.ckpt", source="gs://models/checkpoints/c.ckpt", policy=QUICK)
        begun.write_bytes(content[:HALF])
        record = fetch_checkpoint(entry, tmp_path / "c.ckpt", source="gs://models/checkpoints/c.ckpt", policy=QUICK)
        assert (tmp_path / "c.ckpt").read_bytes() == content
        assert record.source == "gs://models/checkpoints/c.ckpt"
        with pytest.raises(CheckpointError, match=r"gs://models/checkpoints/d\.ckpt: no such object"):
            fetch_checkpoint(entry, tmp_path / "d.ckpt", source="gs://models/checkpoints/d.ckpt", policy=QUICK)
    assert leftovers(tmp_path) == []


def test_what_does_not_fit_the_entry_is_not_kept(hub: Hub, entry: Model, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=f"^{REPOSITORY}@{COMMIT}/{FILE}: 6114 grid points, expected the"):
        fetch_checkpoint(replace(entry, grid="N48"), tmp_path / "c.ckpt", policy=QUICK)
    assert not (tmp_path / "c.ckpt").exists()
    assert leftovers(tmp_path) == []


def test_provide_builds_what_can_be_built_and_keeps_it(demo: Model, demo_path: Path, tmp_path: Path) -> None:
    path = tmp_path / "demo.ckpt"
    record = provide_checkpoint(demo, path)
    assert record.sha256 == hashlib.sha256(demo_path.read_bytes()).hexdigest()
    made = path.stat().st_mtime_ns
    provide_checkpoint(demo, path)
    assert path.stat().st_mtime_ns == made
    assert record_path(path).exists()


def test_provide_refuses_at_once_what_could_not_be_loaded(hub: Hub, entry: Model, tmp_path: Path) -> None:
    unlisted = changed(entry, sha256=None)
    with pytest.raises(CheckpointError, match=r"lists no sha256 for released: run .*checkpoint fetch released"):
        provide_checkpoint(unlisted, tmp_path / "c.ckpt", policy=QUICK)
    assert hub.seen == []
    provide_checkpoint(unlisted, tmp_path / "c.ckpt", trust=True, policy=QUICK)
    provide_checkpoint(entry, tmp_path / "d.ckpt", policy=QUICK)
    assert (tmp_path / "c.ckpt").read_bytes() == (tmp_path / "d.ckpt").read_bytes()


@pytest.mark.parametrize(
    "endpoint", ["http://mirror.example", "http://me:secret@mirror.example/x", "ftp://localhost", "//x"]
)
def test_the_token_goes_to_no_mirror_in_clear(
    entry: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, endpoint: str
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with pytest.raises(CheckpointError, match=r"HF_ENDPOINT: .*: expected an https:// URL") as caught:
        fetch_checkpoint(entry, tmp_path / "c.ckpt", policy=QUICK)
    assert "secret" not in str(caught.value)
