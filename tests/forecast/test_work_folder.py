"""The work folder: nothing in it is believed without a look."""

from __future__ import annotations

import json
import multiprocessing
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from aifs_ensemble.common.errors import InputError, WorkflowError
from aifs_ensemble.common.files import crc32c_bytes
from aifs_ensemble.common.manifest import FileRecord, LeadRecord
from aifs_ensemble.common.models import Model
from aifs_ensemble.common.names import index_file, lead_file
from aifs_ensemble.fields.state import state_digest
from aifs_ensemble.forecast.work_folder import KnownFile, LeadJournal, WorkFolder

from forecast.cases import CYCLE, write_initial

SETTINGS = {"model": "demo", "precision": "32", "packing": {"t": 16}}


def record(lead: int, folder: Path | None = None, text: str = "grib") -> LeadRecord:
    """A record of a lead and, with `folder`, its files."""
    name = lead_file(CYCLE, 1, lead)
    content = {name: f"{text} {lead}".encode(), index_file(name): f"index {lead}".encode()}
    files = [FileRecord(key, len(data), crc32c_bytes(data)) for key, data in content.items()]
    if folder is not None:
        for key, data in content.items():
            (folder / key).write_bytes(data)
    return LeadRecord(lead, *files, messages=98)


@pytest.fixture
def work(tmp_path: Path) -> WorkFolder:
    folder = WorkFolder(tmp_path / "work", CYCLE, 1)
    with folder.lock():
        folder.adopt(SETTINGS, {})
    return folder


@pytest.mark.parametrize(
    "tail",
    [b"", b'{"lead": 18, "gr', b"{", b'{"lead": 18}', json.dumps(asdict(record(18))).encode()],
    ids=["none", "torn", "brace", "whole-but-no-record", "no-newline"],
)
def test_a_torn_last_line_is_left_out_and_overwritten(tmp_path: Path, tail: bytes) -> None:
    journal = LeadJournal(tmp_path / "journal.jsonl", CYCLE, 1)
    journal.append(record(6))
    journal.append(record(12))
    with open(tmp_path / "journal.jsonl", "ab") as file:
        file.write(tail)
    assert sorted(journal.read()) == [6, 12]
    journal.append(record(24))
    assert journal.read() == {6: record(6), 12: record(12), 24: record(24)}


def test_every_prefix_of_a_journal_reads_as_the_whole_lines_in_it(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    for lead in (6, 12):
        LeadJournal(path, CYCLE, 1).append(record(lead))
    data = path.read_bytes()
    for length in range(len(data)):
        path.write_bytes(data[:length])
        assert len(LeadJournal(path, CYCLE, 1).read()) == data[:length].count(b"\n")


def test_lines_that_are_no_records_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_text('nonsense\n{"lead": 6}\n[]\n' + json.dumps(asdict(record(12))) + "\n")
    assert sorted(LeadJournal(path, CYCLE, 1).read()) == [12]
    assert "left out: line 1: not JSON" in caplog.text
    assert "and 2 more" in caplog.text


def test_the_last_record_of_a_lead_counts(tmp_path: Path) -> None:
    journal = LeadJournal(tmp_path / "journal.jsonl", CYCLE, 1)
    journal.append(record(6))
    journal.append(record(6, text="again"))
    assert journal.read()[6] == record(6, text="again")
    assert LeadJournal(tmp_path / "none", CYCLE, 1).read() == {}


@pytest.mark.parametrize(
    ("damage", "whole"),
    [
        (lambda grib, index: None, True),
        (lambda grib, index: grib.unlink(), False),
        (lambda grib, index: index.unlink(), False),
        (lambda grib, index: grib.write_bytes(grib.read_bytes()[:-1]), False),
        (lambda grib, index: grib.write_bytes(b"x" + grib.read_bytes()[1:]), False),
        (lambda grib, index: index.write_bytes(b"x" + index.read_bytes()[1:]), False),
    ],
    ids=["none", "no-grib", "no-index", "cut", "altered", "index-altered"],
)
def test_a_lead_counts_when_its_files_are_what_was_recorded(work: WorkFolder, damage: object, whole: bool) -> None:
    mine = record(6, work.leads)
    work.journal.append(mine)
    damage(work.leads / mine.grib.name, work.leads / mine.index.name)
    assert work.finished((6, 12), local=False) == ({6: mine} if whole else {})


def test_a_delivered_lead_counts_although_it_is_gone(work: WorkFolder) -> None:
    work.journal.append(record(6))
    work.delivered.append(record(6))
    work.delivered.append(record(12))
    assert sorted(work.finished((6, 12, 18), local=False)) == [6, 12]
    assert work.finished((6, 12, 18), local=True) == {}


def test_records_of_another_member_do_not_count(work: WorkFolder) -> None:
    mine = record(6, work.leads)
    other = replace(mine, grib=replace(mine.grib, name=lead_file(CYCLE, 2, 6)))
    (work.leads / other.grib.name).write_bytes(b"grib 6")
    work.journal.append(other)
    work.delivered.append(other)
    assert work.finished((6,), local=False) == {}


def test_leftovers_go_and_recorded_files_stay(work: WorkFolder) -> None:
    mine = record(6, work.leads)
    record(12, work.leads)
    (work.leads / ".x.grib2.123.part").touch()
    (work.leads / "folder").mkdir()
    work.remove_leftovers([mine])
    assert {path.name for path in work.leads.iterdir()} == {mine.grib.name, mine.index.name}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({**SETTINGS, "precision": "16"}, "precision (32 -> 16) changed"),
        ({**SETTINGS, "packing": {"t": 24}}, "packing changed"),
        ({**SETTINGS, "accumulate": "per_step"}, "accumulate (none -> per_step) changed"),
        ({"model": "demo"}, "precision (32 -> none), packing changed"),
    ],
)
def test_other_settings_start_afresh_and_say_what_changed(
    work: WorkFolder, settings: dict, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    work.journal.append(record(6, work.leads))
    work.delivered.append(record(12))
    (work.restarts / "h012.safetensors").touch()
    assert work.adopt(SETTINGS, {}) is True and sorted(work.finished((6, 12), local=False)) == [6, 12]
    assert work.adopt(settings, {}) is False
    (line,) = [entry.getMessage() for entry in caplog.records]
    assert message in line
    assert work.finished((6, 12), local=False) == {}
    assert not list(work.leads.iterdir()) and not list(work.restarts.iterdir())
    assert work.recorded_settings() == settings


def test_records_without_a_fingerprint_count_only_beside_a_restart_state_that_carries_it(
    tmp_path: Path, model: Model
) -> None:
    from aifs_ensemble.common.files import digest
    from aifs_ensemble.forecast.restarts import RestartStore

    from forecast.test_restarts import arrays

    for fingerprint, kept in ((digest(SETTINGS), True), ("another", False)):
        work = WorkFolder(tmp_path / fingerprint, CYCLE, 1)
        with work.lock():
            work.delivered.append(record(6))
            RestartStore(work.restarts, model, CYCLE, 1, fingerprint, True).write(12, *arrays(model))
            assert work.adopt(SETTINGS, {}) is kept
            assert sorted(work.finished((6,), local=False)) == ([6] if kept else [])


def hold(root: Path, ready: object, leave: object) -> None:
    with WorkFolder(root, CYCLE, 1).lock():
        ready.set()
        leave.wait(30)


def test_one_process_at_a_time(work: WorkFolder) -> None:
    context = multiprocessing.get_context("fork")
    ready, leave = context.Event(), context.Event()
    other = context.Process(target=hold, args=(work.root, ready, leave))
    other.start()
    try:
        assert ready.wait(30)
        with pytest.raises(WorkflowError, match=f"process {other.pid} on .* works on member 1"), work.lock(0.2):
            pytest.fail("two processes hold the lock")
    finally:
        leave.set()
        other.join()
    with work.lock(5):
        pass


def test_attempts_are_told_in_pieces_and_a_killed_one_says_so(work: WorkFolder) -> None:
    first = work.begin_attempt({"began": "2025-08-19T00:00:00+00:00"})
    work.record_attempt(first, {"device": "cpu"})
    second = work.begin_attempt({"began": "2025-08-19T01:00:00+00:00"})
    work.record_attempt(second, {"outcome": "finished"})
    assert work.attempts() == [
        {"attempt": 1, "began": "2025-08-19T00:00:00+00:00", "outcome": "killed", "device": "cpu"},
        {"attempt": 2, "began": "2025-08-19T01:00:00+00:00", "outcome": "finished"},
    ]


def test_a_files_digest_is_computed_once_and_outlives_the_file(tmp_path: Path) -> None:
    path, calls = tmp_path / "file", []

    def digest_of(path: Path) -> str:
        calls.append(path)
        return path.read_text()

    path.write_text("one")
    known = KnownFile.of(path, None, digest_of)
    assert KnownFile.of(path, asdict(known), digest_of) == known and len(calls) == 1
    path.write_text("another")
    assert KnownFile.of(path, asdict(known), digest_of).sha256 == "another"
    path.unlink()
    assert KnownFile.of(path, asdict(known), digest_of) == known
    with pytest.raises(InputError, match="no such file"):
        KnownFile.of(path, None, digest_of)


def test_a_state_made_again_has_the_same_digest(tmp_path: Path, model: Model) -> None:
    for name, changes in {
        "a": {},
        "b": {"provenance": {"made": "later"}},
        "c": {"member": 2},
        "d": {"cycle": "20250819_0600"},
    }.items():
        write_initial(tmp_path / name, model, **changes)
    digests = {name: state_digest(tmp_path / name) for name in "abcd"}
    assert digests["a"] == digests["b"]
    assert len(set(digests.values())) == 3
    (tmp_path / "e").write_bytes(b"not a state at all")
    with pytest.raises(InputError, match="not a readable state"):
        state_digest(tmp_path / "e")
