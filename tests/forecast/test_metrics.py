"""The sampler: rows a forecast can be accounted by, and never a forecast's failure."""

from __future__ import annotations

import csv
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from aifs_ensemble.common.config import Config
from aifs_ensemble.common.storage import open_destination
from aifs_ensemble.delivery.metrics import MetricsDelivery
from aifs_ensemble.forecast.metrics import COLUMNS, MetricsSampler
from planning import synthetic
from waiting import wait_until


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def wait_for(path: Path, rows: int) -> None:
    wait_until(lambda: path.exists() and len(rows_of(path)) >= rows)


def test_rows_carry_phase_lead_and_load(tmp_path: Path) -> None:
    path = tmp_path / "metrics" / "member001.csv"
    with MetricsSampler(path, 12, interval=0.05) as sampler:
        sampler.started(1, 2, 0)
        wait_for(path, 1)
        sampler.step(6, 0.1)
        wait_for(path, len(rows_of(path)) + 2)
        (tmp_path / "big").write_bytes(os.urandom(1 << 20))
        end = time.process_time() + 0.3
        while time.process_time() < end:
            pass
        sampler.step(12, 0.1)
        wait_for(path, len(rows_of(path)) + 2)
    rows = rows_of(path)
    assert tuple(rows[0]) == COLUMNS
    assert [row["phase"] for row in rows] == sorted(
        (row["phase"] for row in rows), key=("start_up", "steps", "drain").index
    )
    assert {(row["phase"], row["lead"]) for row in rows} == {("start_up", ""), ("steps", "6"), ("drain", "12")}
    assert max(float(row["cpu_percent"]) for row in rows) > 20
    assert all(float(row["host_mem_mib"]) > 5 for row in rows)
    times = [float(row["time"]) for row in rows]
    assert times == sorted(times)


def test_a_second_process_appends(tmp_path: Path) -> None:
    path = tmp_path / "member001.csv"
    for _ in range(2):
        with MetricsSampler(path, 12, interval=0.02):
            wait_for(path, 1)
    assert path.read_text().count("time,phase") == 1
    assert len(rows_of(path)) >= 2


def test_phases_no_observer_tells_of(tmp_path: Path) -> None:
    path = tmp_path / "member001.csv"
    with MetricsSampler(path, 12, interval=0.02) as sampler, sampler.phase("verify"):
        wait_for(path, 2)
    assert "verify" in {row["phase"] for row in rows_of(path)}


def test_a_place_that_cannot_be_written_stops_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    with caplog.at_level(logging.WARNING), MetricsSampler(tmp_path / "file" / "member001.csv", 12) as sampler:
        sampler.step(6, 0.1)
    assert "no metrics of this member" in caplog.text


@pytest.fixture
def delivered(tmp_path: Path) -> Callable[[str], Config]:
    """The configuration of a machine that shares the destination, and no scratch, with the others."""
    return lambda machine: synthetic.config(tmp_path / machine, members="1", destination=str(tmp_path / "there"))


def test_the_next_machine_goes_on_with_what_the_last_one_left(delivered: Callable[[str], Config]) -> None:
    lengths = []
    for machine in ("first", "second"):
        config = delivered(machine)
        path = config.scratch.metrics(1)
        with MetricsDelivery(config, 1), MetricsSampler(path, 12, interval=0.02):
            wait_for(path, (lengths[-1] if lengths else 0) + 3)
        there = open_destination(config).get_bytes(config.objects.metrics(1))
        assert there == path.read_bytes(), "the last rows did not arrive"
        lengths.append(len(rows_of(path)))
    assert lengths[1] >= lengths[0] + 3
    assert path.read_text().count("time,phase") == 1


def test_a_machine_that_dies_leaves_its_metrics(delivered: Callable[[str], Config]) -> None:
    """They arrive while it works, not at the end."""
    config = delivered("dies")
    path, there = config.scratch.metrics(1), Path(config.destination) / config.objects.metrics(1)
    with MetricsDelivery(config, 1, interval=0.05), MetricsSampler(path, 12, interval=0.02):
        wait_for(there, 3)


def test_a_destination_that_does_not_answer_stops_nothing(
    delivered: Callable[[str], Config], caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    (tmp_path / "there").write_text("a file where the folder should be")
    with (
        MetricsDelivery(delivered("alone"), 1, interval=0.02),
        MetricsSampler(delivered("alone").scratch.metrics(1), 12, interval=0.02),
    ):
        wait_for(delivered("alone").scratch.metrics(1), 5)
    assert caplog.text.count("not at the destination") == 1
