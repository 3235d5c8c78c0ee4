"""Killed at random points, over and over: the same bytes as if nothing had happened."""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from multiprocessing.context import ForkServerContext

import pytest
from aifs_ensemble.common.manifest import check_leads, read_member_manifest
from aifs_ensemble.common.observers import Observer
from aifs_ensemble.forecast.request import ForecastRequest
from aifs_ensemble.forecast.run import run_forecast

from forecast.cases import content

# what a forecast imports, most of it only while the checkpoint is read
PRELOADED = [
    "aifs_ensemble.forecast.engine",
    "aifs_ensemble.model.checkpoint.load",
    "anemoi.inference.checkpoint",
    "anemoi.inference.forcings",
    "anemoi.models.interface",
    "anemoi.models.models",
    "anemoi.models.layers.mapper",
    "anemoi.models.layers.processor",
    "anemoi.models.layers.ensemble",
    "anemoi.models.layers.bounding",
    "anemoi.models.preprocessing.normalizer",
    "torch_geometric.data",
    "torch.nn.attention.flex_attention",
]


class KilledAt(Observer):
    """Kills its own process at the n-th event of a kind, where a kill by the clock seldom falls."""

    def __init__(self, event: str, count: int):
        self._left = count
        setattr(self, event, self._count)

    def _count(self, *_: object) -> None:
        self._left -= 1
        if not self._left:
            os.kill(os.getpid(), signal.SIGKILL)


def work(request: ForecastRequest, *observers: Observer) -> None:
    import torch

    torch.set_num_threads(1)
    run_forecast(request, observers)


@pytest.fixture(scope="module")
def processes() -> ForkServerContext:
    """Processes that start with the libraries imported, so that kills fall on the work and not on imports."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


@pytest.mark.timeout(900)  # seconds on an idle machine, minutes on one shared by a dozen
@pytest.mark.parametrize("wanted", [4, pytest.param(40, marks=[pytest.mark.long, pytest.mark.models])])
def test_killed_at_random_points_it_gives_the_same_bytes(
    wanted: int,
    processes: ForkServerContext,
    request_for: Callable[..., ForecastRequest],
    whole: tuple[ForecastRequest, dict[str, bytes]],
) -> None:
    request, expected = request_for(), whole[1]

    def start() -> tuple[multiprocessing.Process, float]:
        process = processes.Process(target=work, args=(request,))
        process.start()
        return process, time.monotonic()

    process, began = start()  # also warms the fork server up
    process.join()
    shutil.rmtree(request.work.parent)
    process, began = start()
    process.join()
    duration = time.monotonic() - began
    assert process.exitcode == 0

    rng = random.Random()
    kills = finishes = 0
    while kills < wanted:
        process, began = start()
        process.join(rng.uniform(0, duration))
        if process.exitcode is None:
            process.kill()
            process.join()
            kills += process.exitcode == -signal.SIGKILL
        if process.exitcode != -signal.SIGKILL:
            assert process.exitcode == 0, f"after {kills} kills"
            finishes += 1
            assert content(request) == expected
            shutil.rmtree(request.work.parent)
        else:
            assert not request.manifest.exists() or content(request) == expected
    process, _ = start()
    process.join()
    assert process.exitcode == 0
    assert content(request) == expected
    assert check_leads(request.forecasts, read_member_manifest(request.manifest).leads) == {}
    print(f"{kills} kills, {finishes} finished between them, {duration:.1f} s without")


@pytest.mark.models
@pytest.mark.parametrize(
    ("event", "count"),
    [("started", 1), ("step", 4), ("lead_published", 2), ("restart_written", 1), ("finished", 1)],
)
def test_killed_at_each_kind_of_event(
    processes: ForkServerContext,
    request_for: Callable[..., ForecastRequest],
    whole: tuple[ForecastRequest, dict[str, bytes]],
    event: str,
    count: int,
) -> None:
    request = request_for()
    process = processes.Process(target=work, args=(request, KilledAt(event, count)))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    run_forecast(request)
    assert content(request) == whole[1]
    attempts = read_member_manifest(request.manifest).attempts
    if event not in ("started", "finished"):
        assert attempts[0]["outcome"] == "killed" and attempts[-1]["outcome"] == "finished"
