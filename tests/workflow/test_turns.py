"""Members that take turns on a card, in a real snakemake run: the processor stands for the card."""

from __future__ import annotations

import json
import shutil
from datetime import datetime
from itertools import pairwise

import pytest

from workflow.project import Project, jobs_run

pytestmark = pytest.mark.workflow


def test_members_compute_in_turn_and_one_is_rerun_alone(fresh: Project) -> None:
    """The bytes are those of members that did not wait for one another; a rerun touches nothing else."""
    before = fresh.leads()
    shutil.rmtree(fresh.results)
    for name in ("work", "forecasts", "manifests", "receipts"):
        shutil.rmtree(fresh.scratch / name)
    fresh.configure(forecast={"restart_hours": 6, "encoders": 1, "compute_at_once": 1})
    said = fresh.run("--cores", "2")
    assert jobs_run(said, "forecast_member") == ["001", "002"]
    assert fresh.leads() == before
    times = sorted(computing(fresh, member) for member in (1, 2))
    assert all(ended <= began for (_, ended), (began, _) in pairwise(times))

    stamps = fresh.stamps(other_than=2)
    shutil.rmtree(fresh.scratch / "work" / "member002")
    for path in [*fresh.results.rglob("*member002*"), *fresh.scratch.rglob("*member002*")]:
        if path.is_file() and "initial" not in str(path):
            path.unlink()
    assert jobs_run(fresh.run("--cores", "2"), "forecast_member") == ["002"]
    assert fresh.leads() == before
    assert fresh.stamps(other_than=2) == stamps


def computing(project: Project, member: int) -> list[datetime]:
    manifest = json.loads((project.scratch / "manifests" / f"member{member:03d}.json").read_text())
    return [datetime.fromisoformat(time) for time in manifest["attempts"][-1]["computing"]]
