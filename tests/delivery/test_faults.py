"""Each kind of fault by itself, against the bucket."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from aifs_ensemble.common.errors import StorageError, VerificationError
from aifs_ensemble.common.files import crc32c_bytes
from aifs_ensemble.common.storage import TransferSettings, open_storage, uploads
from aifs_ensemble.common.storage import gcs as gcs_storage
from doubles.certificates import localhost_certificate
from doubles.gcs_fault_proxy import FaultProxy, Schedule

from delivery.campaign import run_campaign, summary

SETTINGS = TransferSettings(resumable_above=256 << 10, chunk=256 << 10, deadline=20, backoff=0.001, backoff_most=0.01)
KINDS = ("status", "reset", "lost", "cut", "gone", "part", "flip")


@pytest.mark.parametrize("size", [100_000, 1_300_000], ids=["one request", "session"])
@pytest.mark.parametrize("kind", KINDS)
def test_faults_do_not_reach_the_object(
    gcs: FaultProxy, bucket: Callable[[], str], tmp_path: Path, kind: str, size: int
) -> None:
    data = random.Random(size).randbytes(size)
    (tmp_path / "file").write_bytes(data)
    storage = open_storage(bucket(), SETTINGS)
    gcs.schedule = schedule = Schedule(seed=1, rate=1.0, kinds=(kind,), most=3)
    storage.put_file(tmp_path / "file", "a")
    assert storage.get_bytes("a") == data
    assert [info.key for info in storage.list("")] == ["a"]
    possible = kind not in ("gone", "part") or size > SETTINGS.resumable_above
    assert schedule.log[kind] == (3 if possible else 0)


def test_a_lost_answer_is_settled_by_checksum(gcs: FaultProxy, bucket: Callable[[], str]) -> None:
    storage = open_storage(bucket(), SETTINGS)
    assert storage.stat("a") is None
    gcs.schedule = Schedule(seed=1, rate=1.0, kinds=("lost",), most=2)
    storage.put_bytes(b"one", "a")
    assert storage.counts.retries == 2
    assert storage.get_bytes("a") == b"one"


def test_a_broken_session_goes_on_where_it_stopped(gcs: FaultProxy, bucket: Callable[[], str], tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(8 * 256 << 10))
    storage = open_storage(bucket(), SETTINGS)
    gcs.schedule = schedule = Schedule(seed=3, rate=0.4, kinds=("lost",), most=3)
    storage.put_file(tmp_path / "file", "a")
    assert schedule.log["lost"] == 3
    # one to open, eight chunks, and at most a question and a repeat for each lost answer
    assert schedule.log["requests"] <= 1 + 8 + 2 * 3
    assert storage.counts.sessions_renewed == 0


@pytest.mark.parametrize("size", [100, 600_000], ids=["one request", "session"])
def test_the_deadline_ends_it_in_one_line(
    gcs: FaultProxy, bucket: Callable[[], str], tmp_path: Path, size: int
) -> None:
    (tmp_path / "file").write_bytes(bytes(size))
    settings = TransferSettings(resumable_above=256 << 10, deadline=0.3, backoff=0.01, backoff_most=0.05)
    storage = open_storage(bucket(), settings)
    gcs.schedule = Schedule(seed=1, rate=1.0, kinds=("status",))
    with pytest.raises(StorageError, match=r"not done within 0\.3 s, last: ") as caught:
        storage.put_file(tmp_path / "file", "a")
    assert "\n" not in str(caught.value)


def test_a_server_that_compares_nothing_is_found_out(
    bucket_server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """fake-gcs-server itself stores whatever it gets through a session: the answer's checksum tells."""
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", bucket_server)
    (tmp_path / "file").write_bytes(bytes(600_000))
    storage = open_storage("gs://ensembles/compares-nothing", SETTINGS)
    with pytest.raises(Exception, match="expected AAAAAA=="):
        storage.put_file(tmp_path / "file", "a", crc32c="AAAAAA==")
    assert list(storage.list("")) == []


def test_a_bucket_that_is_not_there_is_named(gcs: FaultProxy) -> None:
    with pytest.raises(StorageError, match="no such bucket as nobody"):
        open_storage("gs://nobody/x", SETTINGS).put_bytes(b"one", "a")


@pytest.mark.parametrize("above", [64 << 20, 256 << 10], ids=["one request", "session"])
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
def test_a_slow_line_is_no_fault(
    gcs: FaultProxy, bucket: Callable[[], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, above: int, tls: bool
) -> None:
    """What takes long to send as a whole goes on for as long as it moves."""
    data = random.Random(1).randbytes(32 << 20)
    (tmp_path / "file").write_bytes(data)
    if tls:
        certificate = localhost_certificate(tmp_path)
        gcs.use_tls(certificate)
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", gcs.url)
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    storage = open_storage(bucket(), TransferSettings(resumable_above=above, deadline=60, backoff=0.01))
    monkeypatch.setattr(uploads, "TIMEOUT", (0.5, 10))
    gcs.seconds_per_mib = 0.05
    storage.put_file(tmp_path / "file", "a")
    assert storage.counts.retries == 0
    gcs.seconds_per_mib = 0.0
    info = storage.stat("a")
    assert info is not None
    assert info.crc32c == crc32c_bytes(data)


@pytest.mark.parametrize("size", [500_000, 3 << 20])
def test_a_file_that_becomes_shorter_while_it_is_sent_is_named(
    bucket: Callable[[], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(size))

    def truncate(self: uploads.PiecewiseStream, count: int) -> uploads.Pieces:
        os.truncate(path, size // 2)
        return uploads.Pieces(self._stream, 0, size)

    monkeypatch.setattr(uploads.PiecewiseStream, "read", truncate)
    storage = open_storage(bucket(), SETTINGS)
    with pytest.raises(VerificationError, match=r"file: crc32c .*, expected"):
        storage.put_file(path, "a", crc32c=crc32c_bytes(bytes(size)))
    assert storage.stat("a") is None


def test_a_destination_that_stays_away_is_spoken_of(
    gcs: FaultProxy, bucket: Callable[[], str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    storage = open_storage(bucket(), SETTINGS)
    gcs.schedule = Schedule(seed=1, rate=1.0, kinds=("reset",), most=3)
    storage.put_bytes(b"one", "a")
    assert caplog.text == ""  # a fault or two are nobody's concern
    monkeypatch.setattr(gcs_storage, "TELL_SECONDS", 0.0)
    gcs.schedule = Schedule(seed=1, rate=1.0, kinds=("status",), most=1)
    storage.put_bytes(b"two", "b")
    assert "trying again, for up to 20 s: " in caplog.text


def test_a_short_campaign_ends_with_destinations_equal_to_sources() -> None:
    """Seeds that draw kills, lost machines, folders and buckets, all layouts; the long one is a command."""
    results = run_campaign(range(1, 13))
    assert [line for result in results for line in result.differences] == []
    figures = summary(results)
    assert figures["kills"]
    assert figures["machines lost"]
    assert sum(figures["faults"].values()) > 50  # type: ignore[attr-defined]


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_the_long_campaign() -> None:
    results = run_campaign(range(1, 241))
    assert [line for result in results for line in result.differences] == []
