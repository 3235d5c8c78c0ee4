"""The forecast job: it prepares, then listens, then runs, and whatever fails is told to all who listen."""

from __future__ import annotations

from pathlib import Path

import pytest
from aifs_ensemble.common import environment
from aifs_ensemble.common.config import Config
from aifs_ensemble.common.errors import CheckpointError, PlanError, StorageError, WorkflowError
from aifs_ensemble.common.storage import open_destination
from aifs_ensemble.delivery.member import deliver_member
from aifs_ensemble.delivery.scratch import MemberSizes
from aifs_ensemble.delivery.status import read_statuses
from aifs_ensemble.workflow.member_job import listeners, run_member
from aifs_ensemble.workflow.members_here import MembersHere
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


def test_a_member_asks_for_the_room_of_the_other_model_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MB: four leads, three restart states and an initial state of each model; one of each runs."""
    sizes = {"demo": MemberSizes(10e6, 1e6, 2e6), "demo-v2": MemberSizes(20e6, 2e6, 4e6)}
    monkeypatch.setattr("aifs_ensemble.workflow.preflight.member_sizes", lambda config: sizes[config.model.name])
    monkeypatch.setenv(environment.MEMBERS_HERE, "2 2 demo demo-v2")
    both = make_config(
        tmp_path / "scratch", str(tmp_path / "out"), model=["demo", "demo-v2"], members="1",
        forecast={"device": "cpu"}, delivery={"streaming": True, "scratch_budget_mb": 1},
    )  # fmt: skip
    paths = {name: tmp_path / name for name in ("initial_state", "checkpoint", "manifest")}
    with pytest.raises(PlanError, match=r"expected at least 135$"):
        run_member(both.of_each_cycle[0], 1, **paths, run=both)


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


@pytest.mark.parametrize(
    ("device", "cards", "at_once", "computing", "encoders"),
    [
        ("cuda", 1, 1, None, 4),
        ("cuda", 1, 3, None, 12),
        ("cuda", 1, 3, 2, 6),
        ("cuda", 1, 3, 3, 4),
        ("cuda", 2, 6, None, 12),
        ("auto", 1, 3, None, 12),
        ("auto", 0, 3, None, 4),
        ("cpu", 1, 3, None, 4),
        ("cpu", 0, 3, 1, 12),
        ("cuda", 1, 9, None, 16),
    ],
)
def test_who_computes_has_the_encoders_of_those_that_wait(
    config: Config, monkeypatch: pytest.MonkeyPatch, device: str, cards: int, at_once: int, computing: int | None,
    encoders: int,
) -> None:  # fmt: skip
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(16)))
    section = {"device": device, "encoders": 4, "compute_at_once": computing}
    asked = Config({**config.to_dict(), "forecast": {**config.forecast.model_dump(), **section}})
    assert MembersHere(9, at_once).encoders(asked, cards) == encoders
