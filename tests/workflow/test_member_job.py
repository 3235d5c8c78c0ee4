"""The forecast job: it prepares, then listens, then runs, and whatever fails is told to all who listen."""

from __future__ import annotations

from pathlib import Path

import pytest
from aifs_ensemble.common.config import Config
from aifs_ensemble.common.errors import CheckpointError, PlanError, StorageError, WorkflowError
from aifs_ensemble.common.storage import open_destination
from aifs_ensemble.delivery.member import deliver_member
from aifs_ensemble.delivery.status import read_statuses
from aifs_ensemble.workflow.member_job import listeners, run_member
from delivery.members import make_config, make_member


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return make_config(
        tmp_path / "scratch",
        str(tmp_path / "out"),
        members="1",
        forecast={"device": "cpu", "progress": False},
        delivery={"streaming": True},
    )


def run(config: Config) -> None:
    folder = config.scratch.root
    paths = {name: folder / name for name in ("initial_state", "checkpoint", "manifest")}
    run_member(config, 1, **paths)


def status_after(config: Config, error: type[WorkflowError]) -> tuple[str, str]:
    with pytest.raises(error):
        run(config)
    (status,) = read_statuses(config)
    return status.state, status.error


def test_a_restore_that_fails_is_told(config: Config) -> None:
    """The destination lists a receipt that it cannot give: what is delivered is not known."""
    make_member(config, 1)
    deliver_member(config, 1)
    open_destination(config).delete(config.objects.manifest(1))
    receipt = Path(config.destination) / config.objects.receipt(1)
    receipt.unlink()
    receipt.mkdir()
    state, error = status_after(config, StorageError)
    assert state == "failed" and error.startswith("StorageError: ")


def test_too_little_room_is_told(config: Config) -> None:
    tight = Config({**config.to_dict(), "delivery": {**config.delivery.model_dump(), "scratch_budget_mb": 1e-6}})
    state, error = status_after(tight, PlanError)
    assert state == "failed" and "scratch_budget_mb" in error


def test_a_forecast_that_fails_is_told_once(config: Config, caplog: pytest.LogCaptureFixture) -> None:
    state, error = status_after(config, CheckpointError)
    assert state == "failed" and "no such checkpoint" in error
    assert "failed while it was told" not in caplog.text


def test_nothing_listens_before_it_is_entered(config: Config) -> None:
    found = listeners(config, 1)
    assert [type(each).__name__ for each in found] == [
        "MetricsDelivery", "MetricsSampler", "StatusObserver", "StreamingDelivery",
    ]  # fmt: skip
    for each in found:
        each.failed(ValueError("before the start"))
    assert not config.scratch.root.exists()
    assert [status.error for status in read_statuses(config)] == ["ValueError: before the start"]
