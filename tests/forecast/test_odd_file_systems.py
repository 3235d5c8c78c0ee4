"""Scratch and destination on file systems without locks or without hard links: the same files as elsewhere."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from aifs_ensemble.common import gpu
from aifs_ensemble.common.errors import WorkflowError
from aifs_ensemble.common.locks import HeldError, held, marker_of
from aifs_ensemble.common.storage import open_storage
from aifs_ensemble.forecast.request import ForecastRequest
from aifs_ensemble.forecast.run import run_forecast
from aifs_ensemble.forecast.work_folder import WorkFolder

from forecast.cases import content


def refusing(number: int) -> Callable[..., None]:
    """What a system call does that the file system does not know."""

    def call(*arguments: object, **_: object) -> None:
        raise OSError(number, os.strerror(number), *(a for a in arguments if isinstance(a, (str, Path))))

    return call


@pytest.fixture(params=["ENOSYS", "ENOLCK", "EOPNOTSUPP", "EINVAL"])
def no_locks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "flock", refusing(getattr(errno, request.param)))


def test_one_process_at_a_time_without_locks(no_locks: None, tmp_path: Path) -> None:
    first, second = (WorkFolder(tmp_path / "work", "20250819_0000", 1) for _ in range(2))
    refused = pytest.raises(WorkflowError, match=rf"process {os.getpid()} works on member 1")
    with first.lock(), refused, second.lock(0.2):
        pass
    with second.lock(0.2):
        pass
    assert not marker_of(tmp_path / "work" / "lock").exists()


def test_the_lock_of_a_dead_process_is_taken_over(no_locks: None, tmp_path: Path) -> None:
    script = (
        "import fcntl, os, errno; from pathlib import Path; from aifs_ensemble.common import locks;"
        "locks.flock = lambda *_: False; context = locks.held(Path('lock'), 1); context.__enter__(); os._exit(9)"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "scripts")}
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=environment, check=False)
    assert marker_of(tmp_path / "lock").exists()
    with held(tmp_path / "lock", 20):
        assert marker_of(tmp_path / "lock").exists()


def test_a_native_lock_leaves_no_marker(tmp_path: Path) -> None:
    with held(tmp_path / "lock", 1):
        assert not marker_of(tmp_path / "lock").exists()
        with pytest.raises(HeldError), held(tmp_path / "lock", 0.2):
            pass


def test_cards_are_shared_out_without_locks(no_locks: None, tmp_path: Path) -> None:
    (tmp_path / "0~999999999.member").touch()
    with gpu.one_card(["0", "1"], tmp_path) as first:
        assert first == "0" and not (tmp_path / "0~999999999.member").exists()
        with gpu.one_card(["0", "1"], tmp_path) as second:
            assert second == "1"


@pytest.mark.parametrize("number", ["ENOSYS", "EPERM", "EOPNOTSUPP", "EINVAL", "EACCES", "EXDEV", "EMLINK"])
def test_a_member_without_hard_links(
    request_for: Callable[..., ForecastRequest], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, number: str
) -> None:
    request = request_for(leads=(6,))
    if number == "ENOSYS":  # the whole member once, the link itself for the other answers
        monkeypatch.setattr(os, "link", refusing(errno.ENOSYS))
        run_forecast(request)
        assert sorted(content(request)) == sorted(path.name for path in (request.work / "leads").iterdir())
    monkeypatch.setattr(os, "link", refusing(getattr(errno, number)))
    source = tmp_path / "lead.grib2"
    source.write_bytes(b"GRIB")
    store = open_storage(str(tmp_path / "destination"))
    store.put_file(source, "a/lead.grib2")
    assert store.get_bytes("a/lead.grib2") == b"GRIB"
