"""Runs that cannot be are refused first, in one line: before anything is priced, computed or rented."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aifs_ensemble.cli import main
from coiled_server import CoiledServer
from doubles.opendata_server import serve

from workflow.dry_runs import dry_run
from workflow.project import Project
from workflow.rented.conftest import Project as Rented
from workflow.rented.conftest import batch, coiled, gcs, project, whole  # noqa: F401

pytestmark = [pytest.mark.workflow, pytest.mark.cloud]
TOMORROW = f"{datetime.now(UTC) + timedelta(days=1):%Y%m%d}_0000"
OPEN_DATA = {"source": "ecmwf-open-data"}


def from_server(url: str) -> dict[str, Any]:
    return {**OPEN_DATA, "ecmwf_open_data": {"sources": [url], "attempts": 1}}


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return Project.copy(tmp_path_factory.mktemp("impossible") / "project", members="1-2", lead_hours=6)


@pytest.mark.parametrize("profile", ["local", "coiled-gpu"])
def test_a_cycle_of_the_future_is_refused_in_a_dry_run(checkout: Project, profile: str) -> None:
    said = dry_run(checkout.folder, "--config", f"cycle={TOMORROW}", profile=profile, code=1)
    assert f"config: cycle: '{TOMORROW}' is in the future, expected one that has begun" in said
    assert "plan:" not in said and "$" not in said and "rule " not in said


def test_members_that_the_source_lacks_are_refused_in_a_dry_run(checkout: Project) -> None:
    asked = "members=1-60", "ensemble_size=60"
    said = dry_run(checkout.folder, "--config", *asked, profile="coiled-gpu", code=1)
    assert "members: 51-60 are not in ECMWF's open data, which has the control and 1-50" in said
    assert "plan:" not in said
    said = dry_run(
        checkout.folder, "--config", *asked, 'initial_conditions={"members_per_state":2}', profile="coiled-gpu"
    )
    assert "60 of 60 members to forecast" in said


def test_an_unpublished_cycle_is_refused_before_any_job(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    made = Project.copy(tmp_path / "project", members="1-2", lead_hours=6)
    with serve(tmp_path / "empty") as server:
        made.configure(initial_conditions=from_server(server.url))
        assert "2 of 2 members to forecast" in dry_run(made.folder)
        assert not server.log, "a dry-run asked the network"
        said = made.snakemake()
        assert made.code != 0
        lines = [line for line in said.splitlines() if "has nothing to start from" in line]
        assert len(lines) == 1 and f"{server.url}: no index of 20250818_1800, no index of 20250819_0000" in lines[0]
        assert "Traceback" not in said
        assert not made.scratch.exists() and not list(made.folder.glob("logs/initial*/*/*.log"))
        assert {path.endswith(".index") for path, _ in server.log} == {True}


def test_no_machine_is_rented_for_an_unpublished_cycle(whole: Rented, coiled: CoiledServer, tmp_path: Path) -> None:  # noqa: F811
    (tmp_path / "empty").mkdir()
    with serve(tmp_path / "empty") as server:
        whole.configure(
            destination="gs://ensembles/unpublished", initial_conditions=from_server(server.url), lead_hours=6,
            delivery={"streaming": True},
        )  # fmt: skip
        code, said = whole.run("--profile", "coiled-gpu", "--retries", "0")
        assert code != 0 and "has nothing to start from" in said, said
        assert not coiled.clusters


def test_no_machine_is_rented_while_another_run_makes_the_cycle(whole: Rented, coiled: CoiledServer) -> None:  # noqa: F811
    """Its lease lies at the bucket; one that waits for a cycle, or is refused, leaves none."""
    from aifs_ensemble.common.storage import open_destination
    from aifs_ensemble.delivery.lease import RunLease

    config = whole.configure(destination="gs://ensembles/held", lead_hours=6, delivery={"streaming": True})
    storage = open_destination(config)
    lease = RunLease(config, storage)
    lease.take()
    code, said = whole.run("--profile", "coiled-gpu", "--retries", "0")
    assert code != 0 and said.count("another run makes it (") == 1 and "Traceback" not in said, said
    assert f"remove gs://ensembles/held/{config.cycle}/run.json, or wait 15 min" in said
    assert not coiled.clusters
    lease.give_back()


@pytest.mark.long
def test_rented_machines_are_told_the_cycle(whole: Rented, coiled: CoiledServer) -> None:  # noqa: F811
    """Their command line names it; by another clock than the coordinator's, or a minute later, it might be another."""
    from aifs_ensemble.common.storage import open_storage
    from aifs_ensemble.delivery.cycles_there import cycles_at

    whole.configure(destination="gs://ensembles/latest", members="1", lead_hours=6, delivery={"streaming": True})
    code, said = whole.run("--profile", "coiled-gpu", "--retries", "0", "--config", "cycle=latest-1d")
    assert code == 0, said
    (cycle,) = {line.split()[-1] for line in said.splitlines() if line.startswith("cycle latest-1d: ")}
    storage = open_storage("gs://ensembles/latest")
    assert cycles_at(storage) == [cycle]
    assert storage.stat(f"{cycle}/_SUCCESS") and storage.stat(f"{cycle}/run.json") is None


def test_the_plan_asks_the_source_where_it_is_told_to(
    checkout: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(checkout.folder)
    with serve(tmp_path) as server:
        given = ["--config", f"initial_conditions={json.dumps(from_server(server.url))}"]
        assert main(["plan", *given]) == 0
        assert not server.log
        capsys.readouterr()
        assert main(["plan", "--published", *given]) == 3
        said = capsys.readouterr()
        assert "has nothing to start from" in said.err and not said.out
    assert main(["plan", "--config", f"cycle={TOMORROW}"]) == 2
