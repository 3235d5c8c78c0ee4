"""Members' states at the destination: what the observer leaves, what the reader makes of it."""

from __future__ import annotations

import io
import json
import time
from dataclasses import replace

import pytest
from aifs_ensemble.cli._status_table import table
from aifs_ensemble.cli.status import statuses_of
from aifs_ensemble.common.acceleration import Acceleration
from aifs_ensemble.common.config import Config, read_files
from aifs_ensemble.common.errors import StorageError
from aifs_ensemble.common.manifest import FileRecord, LeadRecord, MemberManifest, write_member_manifest
from aifs_ensemble.common.names import index_file, lead_file
from aifs_ensemble.common.storage import open_destination
from aifs_ensemble.delivery.member import deliver_member
from aifs_ensemble.delivery.status import MemberStatus, StatusObserver, read_statuses, summary
from aifs_ensemble.forecast.work_folder import WorkFolder
from aifs_ensemble.workflow.closing import not_accelerated
from rich.console import Console
from waiting import wait_until

from delivery.members import make_member


@pytest.fixture
def config(root, tmp_path):
    raw = read_files(root / "config" / "config.yaml")
    places = {"scratch": str(tmp_path / "scratch"), "destination": str(tmp_path / "out")}
    return Config({**raw, **places, "members": "1-3", "lead_hours": 24})


def deliver(config, member, **over):
    """Deliver a member from another scratch than the configuration's."""
    elsewhere = Config({**config.to_dict(), "scratch": f"{config.given.scratch}-{member}", **over})
    make_member(elsewhere, member)
    deliver_member(elsewhere, member)


def record(lead, member=1):
    name = lead_file("20250819_0000", member, lead)
    return LeadRecord(lead, FileRecord(name, 1, "AAAAAA=="), FileRecord(index_file(name), 1, "AAAAAA=="), 1)


def manifest(config, member=1):
    leads = tuple(record(lead, member) for lead in config.leads)
    return MemberManifest("demo", True, config.cycle, member, 50, "N32", leads)


def test_a_member_from_start_to_delivery(config):
    def state(member=1):
        return next(status for status in read_statuses(config) if status.member == member)

    assert state().state == "waiting"
    observer = StatusObserver(config, 1, interval=0.01).__enter__()
    wait_until(lambda: state().state == "starting")
    observer.started(1, 4, 1)
    observer.step(12, 0.5)
    observer.lead_published(record(12), None)
    wait_until(lambda: state().step == 2)
    assert state().text(time.time()) == "step 2 of 4" and state().step_seconds == 0.5
    observer.finished(manifest(config))
    assert state().state == "computed"
    deliver(config, 1)
    assert state().state == "delivered"
    assert summary(read_statuses(config)) == "3 members: 1 delivered, 2 waiting"


def test_failure_is_said(config):
    observer = StatusObserver(config, 2, interval=60).__enter__()
    observer.started(2, 4, 0)
    observer.failed(StorageError("bucket\nis gone"))
    found = read_statuses(config)[1]
    assert (found.state, found.error) == ("failed", "StorageError: bucket is gone")


def test_writes_are_few_and_the_last_counts(config):
    storage = open_destination(config)
    written = []
    put = storage.put_bytes
    storage.put_bytes = lambda data, key, **more: (written.append(json.loads(data)), put(data, key, **more))[1]
    observer = StatusObserver(config, 1, storage, interval=30).__enter__()
    observer.started(1, 1000, 0)
    for lead in range(1000):
        observer.step(lead, 0.1)
    observer.finished(manifest(config))
    assert len(written) <= 3 and written[-1]["state"] == "computed"


def test_a_destination_that_fails_harms_nobody(config, caplog):
    class Broken:
        def put_bytes(self, *_, **__):
            raise StorageError("no answer")

    observer = StatusObserver(config, 1, Broken(), interval=0.01).__enter__()
    observer.started(1, 4, 0)
    for lead in range(20):
        observer.step(lead, 0.1)
        time.sleep(0.01)
    observer.finished(manifest(config))
    assert caplog.text.count("not at the destination") == 1


def test_silence_is_shown():
    status = MemberStatus(1, "running", step=3, steps=132, updated=1000.0)
    assert status.text(1000.0 + 720) == "step 3 of 132, silent for 12 min"


def test_table(config, capsys, root):
    from aifs_ensemble.cli import main

    deliver(config, 1)
    places = [f"destination={config.destination}", f"scratch={config.given.scratch}"]
    settings = [*places, "members=1-3", "lead_hours=24"]
    arguments = ["status", "--configfile", str(root / "config" / "config.yaml"), "--config", *settings]
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    assert "3 members: 1 delivered, 2 waiting" in shown
    assert main([*arguments, "--json"]) == 0
    assert [item["state"] for item in json.loads(capsys.readouterr().out)] == ["delivered", "waiting", "waiting"]


def damaged_by(config, key, content=None):
    """Deliver member 1, remove an object or give it other `content`, and return what the table says of the member."""
    storage = open_destination(config)
    deliver(config, 1)
    key = key(config.objects)
    storage.delete(key)
    if content is not None:
        storage.put_bytes(content, key)
    return next(status for status in read_statuses(config) if status.member == 1)


@pytest.mark.parametrize(
    ("key", "content", "says"),
    [
        (lambda objects: objects.lead(1, 24), None, "damaged: h024 missing"),
        (lambda objects: objects.published(index_file(lead_file(objects.cycle, 1, 12))), None, "h012 index missing"),
        (lambda objects: objects.lead(1, 24), b"GRIB", "damaged: h024: 4 bytes, expected 3000"),
        (lambda objects: objects.receipt(1), None, "damaged: receipt missing"),
        (lambda objects: objects.manifest(1), b"?", "damaged: manifest: not JSON"),
    ],
)
def test_damage_is_said_in_short(config, key, content, says):
    """Within 80 columns, on one line; for programs the object's whole name stays."""
    status = damaged_by(config, key, content)
    assert status.state == "damaged" and "member001" in status.error
    console = Console(width=80, file=io.StringIO())
    console.print(table({"20250819_0000": [status]}, time.time()))
    assert says in console.file.getvalue().splitlines()[1]


def test_a_long_word_is_not_cut_off(config):
    name = "a-very-long-name-of-a-machine-that-somebody-chose.europe-west4-b.c.project.internal"
    status = MemberStatus(1, "failed", updated=time.time(), host=name, error=f"InputError: {'x' * 90}")
    console = Console(width=80, file=io.StringIO())
    console.print(table({"20250819_0000": [status]}, time.time()))
    assert "\u2026" not in console.file.getvalue()


def test_a_local_run_is_read_from_scratch(config, tmp_path):
    here = Config({**config.to_dict(), "scratch": str(tmp_path / "scratch"), "members": "1-4"})

    def state(member):
        return statuses_of(here)[member - 1]

    work = WorkFolder(here.scratch.work(1), here.cycle, 1)
    with work.lock():
        assert state(1).state == "starting"
        work.begin_attempt({})
        work.journal.append(record(6))
        work.journal.append(record(12))
        assert state(1).text(time.time()) == "step 2 of 4"
    assert state(1).text(0) == "waiting: 2 of 4 leads made, nobody works on it"
    work.record_attempt(1, {"outcome": "StoppedError: asked to stop"})
    assert state(1).state == "waiting"
    work.record_attempt(1, {"outcome": "NotFiniteError: t_500"})
    assert state(1).text(0) == "failed: NotFiniteError: t_500"
    write_member_manifest(here.scratch.manifest(2), manifest(here, 2))
    assert [status.state for status in statuses_of(here)] == ["failed", "computed", "waiting", "waiting"]
    StatusObserver(here, 2, interval=0.01).failed(StorageError("gone"))
    deliver(here, 1)
    assert [status.state for status in statuses_of(here)][:2] == ["delivered", "failed"]


def test_watching_through_a_pipe_prints_the_table_each_time(config, capsys, monkeypatch, tmp_path, root):
    from aifs_ensemble.cli import main

    naps = []

    def nap(seconds):
        naps.append(seconds)
        member, hours = [(1, 12), (2, 24), (1, 24)][len(naps) - 1]  # as long as member 1 is short, nothing ends
        deliver(config, member, lead_hours=hours)

    monkeypatch.setattr(time, "sleep", nap)
    settings = [f"destination={config.destination}", f"scratch={tmp_path}", "members=1-2", "lead_hours=24"]
    arguments = ["--configfile", str(root / "config" / "config.yaml"), "--config", *settings]
    assert main(["status", "--watch", "5", *arguments]) == 0
    shown = capsys.readouterr().out
    assert naps == [5, 5, 5]
    summaries = [line.strip() for line in shown.splitlines() if "members:" in line]
    states = ("2 waiting", "1 short, 1 waiting", "1 delivered, 1 short", "2 delivered")
    assert summaries == [f"2 members: {state}" for state in states]
    assert "short: ends at 12 h, 24 h are" in shown
    assert "\033" not in shown


def test_a_member_that_is_not_accelerated_says_so_all_along(config):
    fell_back = Acceleration(False, "it differs")
    observer = StatusObserver(config, 1, interval=0.01).__enter__()
    observer.started(1, 4, 0)
    observer.prepared(fell_back)
    wait_until(lambda: read_statuses(config)[0].note)
    text = "step 0 of 4 (accelerated: no, because it differs)"
    assert read_statuses(config)[0].text(time.time()) == text
    made = replace(make_member(config, 1), acceleration=fell_back.to_json())
    write_member_manifest(config.scratch.manifest(1), made)
    observer.finished(made)
    (status, *_) = statuses_of(config)
    assert "accelerated: no, because it differs" in status.text(time.time())
    deliver_member(config, 1)
    assert read_statuses(config)[0].text(time.time()) == "delivered (accelerated: no, because it differs)"
    assert list(not_accelerated(config)) == ["members 1: accelerated: no, because it differs"]
    for planned in (Acceleration(True), Acceleration(False, "the device is cpu", asked=False)):
        observer = StatusObserver(config, 2, interval=0.01).__enter__()
        observer.prepared(planned)
        observer.failed(ValueError())
    assert not read_statuses(config)[1].note
