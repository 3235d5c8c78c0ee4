"""The pool: whole files in order and equal bytes, back-pressure, and a clean end whatever happens."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from aifs_ensemble.common.errors import DiskFullError, EncodingError, NotFiniteError, WorkflowError
from aifs_ensemble.common.manifest import check_leads
from aifs_ensemble.common.names import index_file, lead_file
from aifs_ensemble.fields.encoder_pool import EncoderPool, SilentEncodersError
from aifs_ensemble.fields.encoder_process import publish
from aifs_ensemble.fields.grib_check import check_lead
from aifs_ensemble.fields.grib_encoder import FieldEncoder

from fields.members import CYCLE, FEW, make_fields, make_spec, write_member

SOON = 120.0  # seconds within which something must happen on a busy machine; nothing takes as long


def process_ids(pool: EncoderPool) -> list[int]:
    return [worker.process.pid for worker in pool._workers]


def fill(pool: EncoderPool, lead: int) -> None:
    slot = pool.acquire(SOON)
    slot.array[:] = make_fields(pool.spec, lead)
    pool.submit(slot, lead)


def gone(pid: int) -> bool:
    """Return True once a process has ended; a zombie has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


def wait_until(condition, seconds: float = SOON) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_leads_come_whole_in_order_and_verified(tmp_path: Path) -> None:
    spec = make_spec(FEW)
    leads = tuple(range(6, 48, 6))
    records = write_member(spec, tmp_path, leads, processes=2)
    assert [record.lead for record in records] == list(leads)
    assert all(record.messages == len(FEW) for record in records)
    assert check_leads(tmp_path, records) == {}
    assert files(tmp_path) == sorted(f.name for record in records for f in record.files)
    assert [problem for lead in leads for problem in check_lead(tmp_path / lead_file(CYCLE, 3, lead), spec, lead)] == []


@pytest.mark.parametrize("processes", [1, 4])
def test_bytes_do_not_depend_on_the_number_of_processes(tmp_path: Path, processes: int) -> None:
    spec = make_spec(FEW)
    encoder = FieldEncoder(spec)
    write_member(spec, tmp_path, (6, 12), processes)
    for lead in (6, 12):
        rows = zip(FEW, make_fields(spec, lead), strict=True)
        expected = b"".join(bytes(encoder.encode(variable, lead, row)) for variable, row in rows)
        assert (tmp_path / lead_file(CYCLE, 3, lead)).read_bytes() == expected


def test_buffer_is_one_block_that_cuda_can_lock(tmp_path: Path) -> None:
    with EncoderPool(make_spec(FEW), tmp_path, 1, slots=2) as pool:
        assert pool.buffer.shape == (2, len(FEW), 6114)
        assert pool.buffer.dtype == np.float32
        assert pool.buffer.flags.c_contiguous
        assert pool.buffer.flags.writeable
        assert pool.buffer.ctypes.data % 4096 == 0
        slot = pool.acquire()
        assert np.shares_memory(slot.array, pool.buffer)
        pool.release(slot)


def test_a_full_pool_waits_and_goes_on(tmp_path: Path) -> None:
    with EncoderPool(make_spec(FEW), tmp_path, 1, slots=2) as pool:
        (pid,) = process_ids(pool)
        fill(pool, 6)
        assert pool.drain()
        os.kill(pid, signal.SIGSTOP)
        fill(pool, 12)
        fill(pool, 18)
        with pytest.raises(TimeoutError, match=r"no slot free after 0.2 s: 2 leads in flight"):
            pool.acquire(0.2)
        assert pool.completed() == []
        os.kill(pid, signal.SIGCONT)
        fill(pool, 24)
        assert [record.lead for record in pool.drain()] == [12, 18, 24]
        assert pool.completed() == []


@pytest.mark.parametrize("call", ["acquire", "drain", "completed"])
def test_an_encoder_that_dies_fails_the_job(tmp_path: Path, call: str) -> None:
    with EncoderPool(make_spec(FEW), tmp_path, 2, slots=1) as pool:
        fill(pool, 6)
        assert [record.lead for record in pool.drain()] == [6]
        for pid in process_ids(pool):
            os.kill(pid, signal.SIGSTOP)
        fill(pool, 12)
        os.kill(process_ids(pool)[1], signal.SIGKILL)
        with pytest.raises(EncodingError, match=r"encoder process \d+ ended with signal 9"):
            while True:  # `completed` does not wait
                getattr(pool, call)()
        os.kill(process_ids(pool)[0], signal.SIGCONT)
    pairs = [[lead_file(CYCLE, 3, lead), index_file(lead_file(CYCLE, 3, lead))] for lead in (6, 12)]
    # the other encoder may still have finished lead 12 before it was told to stop: whole, or nothing of it
    assert files(tmp_path) in (pairs[0], pairs[0] + pairs[1])


def test_all_encoders_dead_at_submission(tmp_path: Path) -> None:
    with EncoderPool(make_spec(FEW), tmp_path, 1) as pool:
        slot = pool.acquire()
        os.kill(process_ids(pool)[0], signal.SIGKILL)
        assert wait_until(lambda: gone(process_ids(pool)[0]))
        with pytest.raises(EncodingError, match="ended"):
            pool.submit(slot, 6)
            pool.drain()


def test_an_encoder_that_cannot_start_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONHOME", "/nowhere")  # what a broken environment does to a new interpreter
    with (
        EncoderPool(make_spec(FEW), tmp_path, 1) as pool,
        pytest.raises(EncodingError, match="ended with exit code 1"),
    ):
        fill(pool, 6)
        pool.drain()


def test_a_specification_that_cannot_be_encoded_is_told(tmp_path: Path) -> None:
    with EncoderPool(make_spec(FEW, ensemble_size=70000), tmp_path, 2) as pool:
        fill(pool, 6)
        with pytest.raises(EncodingError, match="GRIB key numberOfForecastsInEnsemble cannot be 70001"):
            pool.drain()
    assert files(tmp_path) == []


def test_modules_in_the_working_folder_are_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('imported from the working folder')")
    monkeypatch.chdir(tmp_path)
    assert len(write_member(make_spec(FEW), tmp_path / "leads", (6,))) == 1


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_field_that_is_not_finite_stops_the_member(tmp_path: Path, value: float) -> None:
    with EncoderPool(make_spec(FEW), tmp_path, 2, slots=3) as pool:
        fill(pool, 6)
        slot = pool.acquire(SOON)
        slot.array[:] = make_fields(pool.spec, 12)
        slot.array[2, 17:20] = value
        pool.submit(slot, 12)
        with pytest.raises(NotFiniteError, match="member 3: tp at lead 12 h: 3 of 6114 values not finite"):
            pool.drain()
        assert [record.lead for record in pool.completed()] == [6]
        with pytest.raises(NotFiniteError):
            pool.completed()
        with pytest.raises(NotFiniteError):
            pool.acquire(SOON)
    assert files(tmp_path) == [lead_file(CYCLE, 3, 6), index_file(lead_file(CYCLE, 3, 6))]


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    name = lead_file(CYCLE, 3, 6)
    with EncoderPool(make_spec(FEW), tmp_path, 1) as pool:
        # where the encoder's main thread is going to write its temporary file: a real device that is always full
        (pid,) = process_ids(pool)
        (tmp_path / f".{name}.{pid}.{pid}.part").symlink_to("/dev/full")
        fill(pool, 6)
        with pytest.raises(DiskFullError, match=rf"{name}: no space left on device"):
            pool.drain()
    assert files(tmp_path) == []


def test_a_grib_never_stands_without_its_index(tmp_path: Path) -> None:
    spec = make_spec(FEW)
    name = lead_file(CYCLE, 3, 6)
    messages = [np.frombuffer(b"GRIB....7777", np.uint8)] * len(FEW)
    publish(tmp_path, spec, 6, messages)
    (tmp_path / index_file(name)).unlink()
    (tmp_path / index_file(name)).mkdir()  # the index cannot be put in place
    with pytest.raises(EncodingError, match=rf"{index_file(name)}.*: Is a directory"):
        publish(tmp_path, spec, 6, messages)
    assert files(tmp_path) == [index_file(name)]


def test_publishing_again_replaces_both_files(tmp_path: Path) -> None:
    spec = make_spec(FEW)
    first = write_member(spec, tmp_path, (6,))
    (tmp_path / first[0].grib.name).write_bytes(b"an older file")
    again = write_member(spec, tmp_path, (6,))
    assert again == first
    assert check_leads(tmp_path, again) == {}


def test_a_message_that_has_no_room_is_refused(tmp_path: Path) -> None:
    spec = make_spec(FEW, bits=dict.fromkeys(FEW, 32))
    with EncoderPool(spec, tmp_path, 1) as pool:
        slot = pool.acquire()
        slot.array[:] = np.random.default_rng(0).random(slot.array.shape)
        pool.submit(slot, 6)
        with pytest.raises(EncodingError, match=r"message of \d+ bytes, expected at most 24456"):
            pool.drain()


def test_close_leaves_nothing_behind(tmp_path: Path) -> None:
    def mapped() -> int:
        return Path("/proc/self/maps").read_text().count("aifs-ensemble-leads")

    def descriptors() -> set[tuple[str, str]]:
        """What is open, but for the folder that is listed here; other tests' servers may close meanwhile."""
        found = set()
        for path in Path("/proc/self/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                found.add((path.name, str(path.readlink())))
        return {(number, target) for number, target in found if not target.endswith("/fd")}

    gc.collect()  # pools of other tests
    before, files_open = mapped(), descriptors()
    pool = EncoderPool(make_spec(FEW), tmp_path, 2)
    pids = process_ids(pool)
    fill(pool, 6)  # in flight when the pool closes
    assert mapped() == before + 1
    pool.close()
    pool.close()
    gc.collect()
    assert all(gone(pid) for pid in pids)
    assert mapped() == before
    assert descriptors() <= files_open
    assert not list(tmp_path.glob(".*"))
    with pytest.raises(WorkflowError, match="the pool is closed"):
        pool.acquire()


SCRIPT = """
import os, sys, time
from pathlib import Path
from fields.members import FEW, make_spec
from aifs_ensemble.fields.encoder_pool import EncoderPool, SilentEncodersError
assert "torch" not in sys.modules
pool = EncoderPool(make_spec(FEW), Path(sys.argv[1]), 2)
if sys.argv[2] == "fork" and os.fork() == 0:
    time.sleep(60)  # has inherited the pipe that the encoders read
    os._exit(0)
print(*[w.process.pid for w in pool._workers], flush=True)
slot = pool.acquire()
pool.submit(slot, 6)
pool.drain()
print("ready", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("kind", ["plain", "fork"])
def test_encoders_do_not_outlive_a_killed_forecast(tmp_path: Path, root: Path, kind: str) -> None:
    # the script comes through stdin: __main__ cannot be imported again, as in a Snakemake script
    environment = {**os.environ, "PYTHONPATH": f"{root / 'scripts'}:{root / 'tests'}"}
    forecast = subprocess.Popen(
        [sys.executable, "-", str(tmp_path), kind],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    )
    try:
        forecast.stdin.write(SCRIPT)
        forecast.stdin.close()
        pids = [int(pid) for pid in forecast.stdout.readline().split()]
        assert forecast.stdout.readline().strip() == "ready"
        os.kill(forecast.pid, signal.SIGKILL)
        forecast.wait()
        assert wait_until(lambda: all(gone(pid) for pid in pids))
    finally:
        os.killpg(forecast.pid, signal.SIGKILL) if kind == "fork" else None
        forecast.stdout.close()


def test_encoder_processes_import_no_torch() -> None:
    code = (
        "from aifs_ensemble.fields import encoder_pool, encoder_process; import sys; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(("processes", "slots"), [(0, 3), (2, 0)])
def test_wrong_sizes_of_a_pool(tmp_path: Path, processes: int, slots: int) -> None:
    with pytest.raises(EncodingError, match="expected at least one of each"):
        EncoderPool(make_spec(FEW), tmp_path, processes, slots)


def test_encoders_that_stop_answering_are_given_up(tmp_path: Path) -> None:
    """A process stuck in a dead mount, here a stopped one, does not hold the machine."""
    longest = [SOON]
    with EncoderPool(make_spec(FEW), tmp_path, 1, 1, lambda: longest[0]) as pool:
        fill(pool, 6)
        assert [record.lead for record in pool.drain()] == [6]
        os.kill(process_ids(pool)[0], signal.SIGSTOP)
        fill(pool, 12)
        longest[0] = 1.5  # told to stop while it waits
        with pytest.raises(SilentEncodersError, match=r"no encoder process answered for \d+ s, 1 leads in flight"):
            pool.acquire()
        with pytest.raises(SilentEncodersError):
            pool.drain()
        pid = process_ids(pool)[0]
    assert gone(pid)


def test_a_slow_lead_is_no_silence(tmp_path: Path) -> None:
    with EncoderPool(make_spec(FEW), tmp_path, 1, 1, lambda: 6.0) as pool:
        time.sleep(7)  # the device computes, nothing is in flight
        fill(pool, 6)
        assert [record.lead for record in pool.drain()] == [6]
