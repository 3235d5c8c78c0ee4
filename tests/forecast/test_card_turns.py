"""Members that share a card: one computes, the others are ready when it ends, however it ends."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from multiprocessing.context import ForkServerContext
from pathlib import Path

import pytest
from aifs_ensemble.common.errors import StoppedError
from aifs_ensemble.common.manifest import read_member_manifest
from aifs_ensemble.common.observers import Observer
from aifs_ensemble.forecast.request import ForecastRequest
from aifs_ensemble.forecast.run import run_forecast
from aifs_ensemble.forecast.work_folder import WorkFolder

from forecast.cases import content
from forecast.test_kill import PRELOADED


class Holding(Observer):
    """Stays in its first step until a file appears."""

    def __init__(self, folder: Path):
        self.inside, self.release = folder / "inside", folder / "release"

    def step(self, lead: int, seconds: float) -> None:
        self.inside.touch()
        while not self.release.exists():
            time.sleep(0.01)


def work(request: ForecastRequest, folder: Path, *observers: Observer) -> None:
    import torch

    tempfile.tempdir = str(folder)  # turns of this test alone
    torch.set_num_threads(1)
    try:
        run_forecast(request, observers)
    except StoppedError as error:
        sys.exit(error.exit_code)


@pytest.fixture(scope="module")
def processes() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


def until(condition: Callable[[], bool], process: multiprocessing.Process) -> None:
    while not condition():
        assert process.is_alive()
        time.sleep(0.01)


@contextmanager
def started(processes: ForkServerContext, *arguments: object) -> Iterator[multiprocessing.Process]:
    process = processes.Process(target=work, args=arguments)
    process.start()
    try:
        yield process
    finally:
        process.kill()
        process.join()


def encoders_left(folder: Path) -> list[str]:
    """Return the encoder processes that write below a folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().decode()
        except OSError:
            continue
        if str(folder) in line and "encoder_process" in line:
            found.append(line)
    return found


@contextmanager
def one_computes_and_another_waits(
    processes: ForkServerContext, two: tuple[ForecastRequest, ForecastRequest], folder: Path
) -> Iterator[tuple[multiprocessing.Process, multiprocessing.Process, Holding]]:
    """Yield both processes, the second one at its turn, and what holds the first one in its first step."""
    holding = Holding(folder)
    with started(processes, two[0], folder, holding) as one:
        until(holding.inside.exists, one)
        with started(processes, two[1], folder) as other:
            until(lambda: waiting(two[1]), other)
            yield one, other, holding


def waiting(request: ForecastRequest) -> bool:
    """Whether a member has read its initial state, which is the last thing before its turns."""
    attempts = WorkFolder(request.work, request.cycle, request.member).attempts() if request.work.exists() else []
    return bool(attempts) and "initial_conditions" in attempts[-1]


@pytest.fixture
def two(request_for: Callable[..., ForecastRequest], tmp_path: Path) -> tuple[ForecastRequest, ForecastRequest]:
    """Two requests that share a card; both are of one member, so that their bytes must be the same."""
    return tuple(request_for(tmp_path / name, compute_at_once=1) for name in ("one", "other"))  # type: ignore[return-value]


def computing(request: ForecastRequest) -> list[datetime]:
    return [datetime.fromisoformat(time) for time in read_member_manifest(request.manifest).attempts[-1]["computing"]]


@pytest.mark.parametrize("ends", ["well", "killed"])
def test_one_computes_and_the_other_follows(
    ends: str,
    processes: ForkServerContext,
    two: tuple[ForecastRequest, ForecastRequest],
    whole: tuple[ForecastRequest, dict[str, bytes]],
    tmp_path: Path,
) -> None:
    first, second = two
    with one_computes_and_another_waits(processes, two, tmp_path) as (one, other, holding):
        other.join(3)  # time to make all five leads, were it not for its turn
        assert other.is_alive() and not (second.work / "journal.jsonl").exists()
        if ends == "killed":
            os.kill(one.pid, signal.SIGKILL)  # type: ignore[arg-type]
        else:
            holding.release.touch()
        other.join()
        one.join()
        assert other.exitcode == 0
    assert content(second) == whole[1]
    if ends == "well":
        assert one.exitcode == 0
        assert content(first) == whole[1]
        assert computing(first)[1] <= computing(second)[0]
        assert read_member_manifest(second.manifest).timings["wait_turn"] > 1
    else:
        holding.release.touch()
        with started(processes, first, tmp_path) as again:
            again.join()
            assert again.exitcode == 0
        assert content(first) == whole[1]
    assert not encoders_left(tmp_path)


def test_a_member_that_waits_can_be_stopped(
    processes: ForkServerContext, two: tuple[ForecastRequest, ForecastRequest], tmp_path: Path
) -> None:
    second = two[1]
    with one_computes_and_another_waits(processes, two, tmp_path) as (one, other, holding):
        os.kill(other.pid, signal.SIGTERM)  # type: ignore[arg-type]
        other.join()
        assert other.exitcode == StoppedError.exit_code
        holding.release.touch()
        one.join()
        assert one.exitcode == 0
    (attempt,) = WorkFolder(second.work, second.cycle, second.member).attempts()
    assert attempt["outcome"].endswith("stopped by SIGTERM with 5 leads to make; run again to go on")
    assert not encoders_left(tmp_path)


def test_without_a_card_nobody_waits(two: tuple[ForecastRequest, ForecastRequest], monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "turns"))
    run_forecast(replace(two[0], compute_at_once=None))
    assert not (tmp_path / "turns").exists()
