"""The report of a run on rented machines, made on the coordinator from the bucket."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aifs_ensemble.common.config import Config
from aifs_ensemble.common.manifest import write_member_manifest
from aifs_ensemble.delivery.ensemble import write_ensemble_manifest
from aifs_ensemble.delivery.member import deliver_member
from aifs_ensemble.planning.machines import load_machines
from chromium import CHROMIUM, DRIVER
from delivery.members import make_real_member

from workflow.project import CYCLE
from workflow.rented.conftest import BUCKET, Project
from workflow.report_page import Report, recipe

RAN_ON = {"type": "a2-ultragpu-1g", "region": "us-central1", "zone": "us-central1-a", "spot": False, "instance": "vm-1"}


@pytest.fixture
def rented(whole: Project, gcs: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A coordinator whose machines have delivered member 1 of 1-2 to the bucket."""
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", gcs)
    whole.env = {"STORAGE_EMULATOR_HOST": gcs, "DASK_COILED__SERVER": "http://127.0.0.1:9", "COILED_ANALYTICS": "false"}
    over: dict[str, Any] = {"members": "1-2", "lead_hours": 6, "destination": f"gs://{BUCKET}/reported"}
    config = whole.configure(min_members=1, delivery={"streaming": True}, **over)
    elsewhere = Config(config.to_dict() | {"scratch": str(tmp_path / "machine")})
    attempt = {"began": "2026-11-28T00:00:00+00:00", "ended": "2026-11-28T01:00:00+00:00", "outcome": "finished",
               "timings": {"total": 3600.0}, "machine": RAN_ON}  # fmt: skip
    made = replace(make_real_member(elsewhere, 1), machine=RAN_ON, attempts=(attempt,))
    write_member_manifest(elsewhere.scratch.manifest(1), made)
    deliver_member(elsewhere, 1)
    write_ensemble_manifest(elsewhere)
    return whole


@pytest.mark.cloud
def test_a_rented_run_has_one(rented: Project, request: pytest.FixtureRequest) -> None:
    """From the bucket alone, on the coordinator: nothing is rented for it, and member 2 is not made."""
    code, output = rented.run("--profile", "coiled-gpu", *recipe())
    assert code == 0, output
    folder = rented.folder / "logs" / "report" / CYCLE
    summary = (folder / "Ensemble" / "Summary.html").read_text()
    assert "Short: 1 of 2 members, without member 2" in summary and f"gs://{BUCKET}/reported" in summary
    cost = re.search(r"<dt>Cost</dt><dd><strong>\$([0-9.]+), .*; of members 1<", summary)
    hour = load_machines().machine("a2-ultragpu-1g").prices["us-central1"].on_demand
    assert cost and hour < float(cost[1]) < 1.6 * hour, "an hour of that machine, its start and Coiled's fee"
    assert {path.stem for path in (folder / "Fields").iterdir()} == {"Globe", "East Africa"}
    assert not (folder / "Initial conditions").exists()
    if not (CHROMIUM and DRIVER):
        pytest.skip("no chromium: the report was made, not looked at")
    report = Report(request.getfixturevalue("browser"), rented.folder / "report.html")
    assert report.first_page()["State"] == "Short: 1 of 2 members, without member 2"
    assert report.first_page()["Cost"].startswith(f"${cost[1]}")
    assert report.pictures(report.rows("Fields")["Globe"]) == ["light"] and report.errors() == []
