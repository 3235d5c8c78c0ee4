"""The local profile with a bucket as destination: this machine computes, the sync rule delivers.

The bucket is a fake-gcs-server on loopback behind a proxy that breaks nothing here; doubles/gcs_fault_proxy.py
says what the pair does not check.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from aifs_ensemble.storage import open_storage
from doubles.gcs_fault_proxy import fault_proxy
from doubles.gcs_server import gcs_server

from workflow.project import CYCLE, Project, jobs_run

pytestmark = [pytest.mark.workflow, pytest.mark.cloud]


def test_an_ensemble_goes_to_a_bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = Project.copy(
        tmp_path / "project",
        members="1-2", lead_hours=12, destination="gs://ensembles/weekly", forecast={"encoders": 1},
    )  # fmt: skip
    with gcs_server() as server, fault_proxy(server) as proxy:
        emulator = {"STORAGE_EMULATOR_HOST": proxy.url, "NO_GCE_CHECK": "true", "GOOGLE_CLOUD_PROJECT": "test"}
        project.run(environment=emulator)
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", proxy.url)
        storage = open_storage("gs://ensembles/weekly")
        keys = {info.key for info in storage.list(f"{CYCLE}/")}
        assert sum(key.endswith(".grib2") for key in keys) == 4
        assert f"{CYCLE}/_SUCCESS" in keys
        manifest = json.loads(storage.get_bytes(f"{CYCLE}/manifest.json"))
        assert manifest["state"] == "complete"
        assert "Nothing to be done" in project.run(environment=emulator)
        name = f"aifs_ens_forecast_{CYCLE}_member002_h012.grib2"
        storage.delete(f"{CYCLE}/forecasts/{name}")
        said = project.snakemake("verify", environment=emulator)
        assert project.code != 0
        assert name in said
        said = project.run(environment=emulator)
        assert jobs_run(said, "sync_member") == ["002"]
        assert storage.stat(f"{CYCLE}/forecasts/{name}") is not None


def test_rented_machines_plan_with_a_bucket(tmp_path: Path) -> None:
    """With a bucket every path of a rule becomes an object: the real rules must still parse, and plan."""
    project = Project.copy(tmp_path / "project")
    with gcs_server() as server, fault_proxy(server) as proxy:
        emulator = {"STORAGE_EMULATOR_HOST": proxy.url, "NO_GCE_CHECK": "true", "GOOGLE_CLOUD_PROJECT": "test"}
        said = project.run(
            "-n", "--config", "destination=gs://ensembles/weekly", "members=1-3", profile="coiled-gpu",
            environment=emulator,
        )  # fmt: skip
    assert "gs://ensembles/weekly/20250819_0000/initial/members.json" in said
    assert said.count("provisioning=standard") >= 3
