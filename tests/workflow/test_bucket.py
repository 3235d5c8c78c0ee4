"""The local profile with a bucket as destination: this machine computes, the sync rule delivers.

The bucket is a fake-gcs-server on loopback behind a proxy that breaks nothing here; doubles/gcs_fault_proxy.py
says what the pair does not check.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from aifs_ensemble.common.storage import open_storage
from aifs_ensemble.delivery.ensemble import write_ensemble_manifest
from aifs_ensemble.delivery.member import deliver_member
from delivery.members import make_config, make_member
from doubles.gcs_fault_proxy import fault_proxy
from doubles.gcs_server import gcs_server

from workflow.full_bucket import fill
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


def test_a_checkpoint_that_only_this_machine_has_is_refused(tmp_path: Path) -> None:
    project = Project.copy(tmp_path / "project", checkpoint="/data/own.ckpt")
    said = project.snakemake("-n", profile="coiled-gpu")
    assert project.code != 0
    assert "checkpoint: '/data/own.ckpt' is a file of this machine, expected gs://" in said


def machine_of(said: str, rule: str) -> str:
    """Return the class of machine that a rule's first job asks for."""
    return said.partition(f"rule {rule}:")[2].partition("machine=")[2].partition(",")[0].strip()


@pytest.mark.parametrize(("model", "prepares"), [("demo", "gpu"), ("aifs-ens-1.0", "cpu")])
def test_rented_machines_plan_with_a_bucket(tmp_path: Path, model: str, prepares: str) -> None:
    """With a bucket every path of a rule becomes an object: the real rules must still parse, and plan.

    A checkpoint is fetched on a small machine, and built where torch is.
    """
    project = Project.copy(tmp_path / "project")
    with gcs_server() as server, fault_proxy(server) as proxy:
        emulator = {"STORAGE_EMULATOR_HOST": proxy.url, "NO_GCE_CHECK": "true", "GOOGLE_CLOUD_PROJECT": "test"}
        said = project.run(
            "-n", "--config", "destination=gs://ensembles/weekly", "members=1-3", f"model={model}",
            profile="coiled-gpu", environment=emulator,
        )  # fmt: skip
        # however many leads are declared: the bucket, its cycle twice, benchmarks of four rules, the checkpoint
        assert proxy.schedule.log["requests"] == 8
    assert "gs://ensembles/weekly/20250819_0000/initial/members.json" in said
    assert len(said) < 40_000 and said.count(".grib2") < 30, "the log names every lead"
    assert said.count("provisioning=standard") >= 3
    assert machine_of(said, "checkpoint_prepare") == prepares
    assert machine_of(said, "initial_member") == "cpu"
    assert machine_of(said, "forecast_member") == "gpu"


def test_what_a_bucket_has_is_compared_with_what_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A member delivered with fewer leads goes on, and the ensemble's manifest follows the members."""
    project = Project.copy(tmp_path / "project")
    with gcs_server() as server, fault_proxy(server) as proxy:
        emulator = {"STORAGE_EMULATOR_HOST": proxy.url, "NO_GCE_CHECK": "true", "GOOGLE_CLOUD_PROJECT": "test"}
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", proxy.url)
        bucket = open_storage("gs://ensembles/weekly")
        states = [f"initial/member00{member}.{kind}" for member in (1, 2) for kind in ("safetensors", "json")]
        made = [f"{CYCLE}/{name}" for name in ("initial/cycle.json", *states, "initial/members.json")]
        made.append("checkpoints/demo.ckpt")
        for key in made:
            bucket.put_bytes(b"{}", key)
        for member, hours in ((1, 24), (2, 12)):
            config = make_config(
                tmp_path / f"s{member}", "gs://ensembles/weekly", members=str(member), lead_hours=hours
            )
            make_member(config, member)
            deliver_member(config, member)
        write_ensemble_manifest(make_config(tmp_path / "s1", "gs://ensembles/weekly", members="1"))

        def plan(*keys: str) -> str:
            common = ("model=demo", "destination=gs://ensembles/weekly", "lead_hours=24")
            return project.run("-n", "--config", *common, *keys, profile="coiled-gpu", environment=emulator)

        assert "Nothing to be done" in plan("members=1")
        said = plan("members=1-3")
        assert jobs_run(said, "forecast_member") == ["002", "003"]
        said = plan("members=1", "delivery={layout: both}")
        assert jobs_run(said, "forecast_member") == ["001"]
        assert "rule ensemble_manifest:" in said


def test_a_lead_that_is_lost_is_missed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its member alone is made, also by the lead's name; requests follow the members, not the leads."""
    project = Project.copy(tmp_path / "project")
    with gcs_server() as server, fault_proxy(server) as proxy:
        emulator = {"STORAGE_EMULATOR_HOST": proxy.url, "NO_GCE_CHECK": "true", "GOOGLE_CLOUD_PROJECT": "test"}
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", proxy.url)
        config = make_config(tmp_path / "s", "gs://ensembles/weekly", members="1-3", lead_hours=60)
        storage = fill(config)

        def plan(*arguments: str) -> str:
            keys = ("model=demo", "members=1-3", "lead_hours=60", "destination=gs://ensembles/weekly")
            options = ("-n", "--config", *keys, "--rerun-triggers", "mtime", *arguments)
            return project.run(*options, profile="coiled-gpu", environment=emulator)

        proxy.schedule.log.clear()
        said = plan()
        assert "Nothing to be done" in said, said
        assert "plan: 20250819_0000: no member to forecast or deliver in this run" in said and "cost:" not in said
        # less than of an empty bucket: what members were made from is not asked for. Each record once: manifest,
        # receipt, initial state, _SUCCESS
        assert proxy.schedule.log["requests"] == 4 + 3 * 3 + 3
        lost = config.objects.lead(2, 12)
        storage.delete(lost)
        for target in ((), ("--", lost)):
            said = plan(*target)
            assert jobs_run(said, "forecast_member") == ["002"]
            assert "1 of 3 members to forecast (2), 2 steps, 1 members to deliver" in said
            assert f"Missing output files: gs://ensembles/weekly/{lost}" in said or "Forced execution" in said
        assert "Nothing to be done" in plan("--", config.objects.lead(3, 12))
