"""Dry-runs from a clean checkout: what would run, where, with nothing set up."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from aifs_ensemble.cli.plan import PICK_FILE, pick_command, pick_text
from aifs_ensemble.common.config import Config, read_files
from aifs_ensemble.planning.choice import choose, ranked
from aifs_ensemble.planning.machines import load_machines
from aifs_ensemble.planning.outstanding import everything
from aifs_ensemble.planning.plan import plan, plan_case
from doubles.gcs_fault_proxy import fault_proxy
from doubles.gcs_server import gcs_server

from workflow.project import Project

pytestmark = pytest.mark.workflow
NO_TORCH = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "eccodes"):
            raise ImportError(f"{name} must not be imported to plan")

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


def nowhere(project: Project, **more: str) -> dict[str, str]:
    """No credentials: none in the home folder, and no machine's identity."""
    return {"HOME": str(project.folder), "NO_GCE_CHECK": "true", "CLOUDSDK_CONFIG": str(project.folder), **more}


BUCKET = "destination=gs://my-bucket/x"


@pytest.mark.parametrize("more", [(), ("cloud={project: p}",), ("cloud={project: p}", "checkpoint=gs://other/a.ckpt")])
def test_a_bucket_that_cannot_be_looked_into_is_planned_as_empty(project: Project, more: tuple[str, ...]) -> None:
    """As without a bucket: no credentials, no project, all of 50 members and 132 leads."""
    said = project.run("-n", "--config", BUCKET, *more, profile="coiled-gpu", environment=nowhere(project))
    assert counts(said)["forecast_member"] == 50
    assert "plan: " in said
    (line,) = [line for line in said.splitlines() if line.startswith("planned without looking into")]
    assert line.startswith("planned without looking into gs://my-bucket/x: gs://: no application default credentials")


def test_a_bucket_without_a_project_is_planned_as_empty(project: Project) -> None:
    emulator = nowhere(project, STORAGE_EMULATOR_HOST="http://127.0.0.1:9")
    said = project.run("-n", "--config", BUCKET, "members=1", profile="coiled-gpu", environment=emulator)
    assert "planned without looking into gs://my-bucket/x: config: cloud.project is missing" in said


def test_credentials_that_do_not_work_are_none(project: Project) -> None:
    """A login that is over, or that nobody answers."""
    login = {"type": "authorized_user", "client_id": "a", "client_secret": "b", "refresh_token": "c"}
    (project.folder / "application_default_credentials.json").write_text(json.dumps(login))
    environment = nowhere(project, HTTPS_PROXY="http://127.0.0.1:9", https_proxy="http://127.0.0.1:9")
    said = project.run("-n", "--config", BUCKET, "members=1", profile="coiled-gpu", environment=environment)
    assert "planned without looking into gs://my-bucket/x: gs://: application default credentials do not work" in said


@pytest.mark.parametrize(("profile", "flags"), [("coiled-gpu", ()), ("googlebatch", ("-n",))])
def test_a_run_without_credentials_is_refused_in_one_line(
    project: Project, profile: str, flags: tuple[str, ...]
) -> None:
    environment = nowhere(project, GOOGLE_CLOUD_PROJECT="p")
    said = project.snakemake(*flags, "--config", BUCKET, profile=profile, environment=environment)
    assert project.code != 0
    assert "gs://: no application default credentials" in said
    assert "Traceback" not in said and "google/auth" not in said


@pytest.mark.parametrize("flags", [(), ("-n",)])
def test_a_bucket_that_may_not_be_described_is_told_in_one_line(project: Project, flags: tuple[str, ...]) -> None:
    """The storage plugin needs more than the right to read and write objects."""
    with gcs_server() as server, fault_proxy(server) as proxy:
        proxy.undescribed.add("ensembles")
        environment = nowhere(project, GOOGLE_CLOUD_PROJECT="p", STORAGE_EMULATOR_HOST=proxy.url)
        over = ("destination=gs://ensembles/x", "members=1", "trust_checkpoint=true")
        said = project.snakemake(*flags, "--config", *over, profile="coiled-gpu", environment=environment)
    assert "expected the right storage.buckets.get, as in roles/storage.bucketViewer" in said
    assert "Traceback" not in said
    assert (project.code == 0) == bool(flags), "planned as empty, and not run"


@pytest.mark.parametrize(
    ("flags", "expected"),
    [((), "machines: 1 x a2-ultragpu-1g in us-central1, 3 members each"),
     (("--group-components", "members=1"), "machines: 3 x a2-ultragpu-1g in us-central1, 1 members each"),
     (("--group-components", "members=1", "-j", "1"), "machines: 3 groups of 1 member on 1 x a2-ultragpu-1g"),
     (("--until", "initial_members"), "jobs: 5 cpu"),
     (("--omit-from", "forecast_member"), "jobs: 6 cpu"),
     (("20250819_0000/manifests/member002.json",), "1 of 3 members to forecast (2), 132 steps")],
)  # fmt: skip
def test_the_plan_is_of_the_jobs_that_would_run(project: Project, flags: tuple[str, ...], expected: str) -> None:
    said = project.run("-n", *flags, "--config", "members=1-3", profile="coiled-gpu")
    assert expected in said.partition("\nplan: ")[2], said


def test_the_command_that_a_plan_recommends_works(project: Project) -> None:
    """A file of the keys that it prints, and the options that it prints."""
    files = [project.folder / "config" / name for name in ("config.yaml", "operational.yaml")]
    config = Config(read_files(*files))
    found = plan(plan_case(config, load_machines(), profile="coiled-gpu", work=everything(config), runs=()))
    pick = choose(found.case, ranked(found.case), deadline_hours=2)
    (project.folder / PICK_FILE).write_text(pick_text(pick))
    snakemake, _, profile, *options = pick_command(pick, "coiled-gpu", files)
    assert snakemake == "snakemake" and pick.options()
    said = project.run("-n", *options, profile=profile)
    assert (
        f"machines: {pick.way.vms} x {pick.way.machine} in us-central1, {pick.way.members_per_vm} members each" in said
    )


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


def test_a_member_is_made_by_naming_its_file_if_it_is_configured(project: Project) -> None:
    named = "results/20250819_0000/manifests/member{}.json"
    said = project.run("-n", named.format("002"), "--config", "members=2-3", "lead_hours=6")
    assert counts(said)["forecast_member"] == counts(said)["sync_member"] == 1
    said = project.snakemake("-n", named.format("051"), "--config", "members=2-3", "lead_hours=6")
    assert project.code != 0
    assert "No rule to produce" in said


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
    (line,) = [line for line in said.splitlines() if expected in line]
    assert line.startswith("Error: ")
    assert "Traceback" not in said and ".smk" not in said


def test_the_plan_is_a_target(project: Project) -> None:
    assert "GPU" in project.run("plan") or "members" in project.run("plan")


def test_a_run_that_does_not_fit_is_refused_before_anything_runs(project: Project) -> None:
    project.configure(delivery={"scratch_budget_mb": 0.5})
    said = project.snakemake()
    assert project.code != 0
    assert "scratch_budget_mb" in said
    assert not list(project.folder.rglob("*.safetensors"))


# neither can be written to, not even by root
@pytest.mark.parametrize(("place", "reason"), [("/proc/nowhere", "/proc: "), ("Snakefile", "file is not a folder")])
@pytest.mark.parametrize(("key", "made"), [("destination", "scratch"), ("scratch", "results")])
def test_a_folder_that_cannot_be_written_is_refused_before_anything_runs(
    project: Project, key: str, made: str, place: str, reason: str
) -> None:
    project.configure(**{key: place})
    said = project.snakemake()
    assert project.code != 0
    assert f"config: {key}: {place!r}, expected a folder that can be written: " in said
    assert reason in said and "Traceback" not in said
    assert not (project.folder / made).exists()


def test_a_bucket_without_credentials_is_refused_before_anything_runs(project: Project) -> None:
    nobody = {"NO_GCE_CHECK": "true", "CLOUDSDK_CONFIG": str(project.folder), "HOME": str(project.folder)}
    said = project.snakemake("--config", BUCKET, environment=nobody)
    assert project.code != 0
    assert "gs://: no application default credentials" in said and "Traceback" not in said
    assert not list(project.folder.rglob("*.safetensors"))
