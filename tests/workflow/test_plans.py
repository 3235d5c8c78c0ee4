"""Dry-runs from a clean checkout: what would run, where, with nothing set up."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from workflow.project import Project

pytestmark = pytest.mark.workflow
NO_TORCH = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "torch":
            raise ImportError("torch must not be imported to plan")

sys.meta_path.insert(0, Refuse())
"""


def counts(said: str) -> dict[str, int]:
    return {rule: int(n) for rule, n in re.findall(r"^(\w+) +(\d+)$", said, re.MULTILINE)}


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project.copy(tmp_path / "project")


def test_coiled_gpu_plans_with_no_bucket_no_credentials_no_torch(project: Project) -> None:
    (project.folder / "guard").mkdir()
    (project.folder / "guard" / "sitecustomize.py").write_text(NO_TORCH)
    said = project.run(
        "-n",
        profile="coiled-gpu",
        environment={"PYTHONPATH": str(project.folder / "guard"), "HOME": str(project.folder)},
    )
    found = counts(said)
    assert found["forecast_member"] == 50
    assert found["initial_member"] == 50
    assert found["initial_cycle"] == found["checkpoint_prepare"] == found["ensemble_manifest"] == 1
    assert "sync_member" not in found
    assert len(re.findall(r"machine=gpu", said)) == 50


def test_a_cloud_run_without_a_bucket_is_refused_before_anything_runs(project: Project) -> None:
    said = project.snakemake(profile="coiled-gpu")
    assert project.code != 0
    assert "destination" in said
    assert not list(project.folder.rglob("*.safetensors"))


def test_the_local_profile_plans(project: Project) -> None:
    said = project.run("-n")
    assert counts(said)["sync_member"] == 4
    assert "provisioning" not in said
    assert "plan: 20250819_0000: 4 of 4 members" in said


def test_sections_and_cycle_can_be_set_on_the_command_line(project: Project) -> None:
    said = project.run("-n", "--config", "cycle=20260101_0000", "forecast={encoders: 1, deterministic: false}")
    assert "20260101_0000/manifest.json" in said


def test_members_can_be_named_on_the_command_line(project: Project) -> None:
    said = project.run("-n", "--config", "members=1,5,10-12", "lead_hours=6")
    assert counts(said)["forecast_member"] == 5


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("memebrs=1-3", "unknown key 'memebrs', did you mean 'members'?"),
        ("members=3-1", "members: '3-1'"),
        ("lead_hours=7", "lead_hours: 7, expected"),
        ("model=aifs-ens-1", "did you mean 'aifs-ens-1.0'?"),
        ("cycle=2025-08-19", "expected YYYYMMDD_HHMM"),
    ],
)
def test_a_wrong_setting_is_said_in_one_line(project: Project, setting: str, expected: str) -> None:
    said = project.snakemake("-n", "--config", setting)
    assert project.code != 0
    assert expected in said
    assert "Traceback" not in said


def test_the_plan_is_a_target(project: Project) -> None:
    assert "GPU" in project.run("plan") or "members" in project.run("plan")


def test_a_run_that_does_not_fit_is_refused_before_anything_runs(project: Project) -> None:
    project.configure(delivery={"scratch_budget_mb": 0.5})
    said = project.snakemake()
    assert project.code != 0
    assert "scratch_budget_mb" in said
    assert not list(project.folder.rglob("*.safetensors"))
