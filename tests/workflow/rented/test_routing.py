"""From a rule's machine class to what a provider is asked for; profiles that agree with the code."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from aifs_ensemble.common.errors import ConfigError, StorageError
from aifs_ensemble.planning.machines import load_machines
from aifs_ensemble.workflow.bucket import bucket_problem
from aifs_ensemble.workflow.googlebatch import resources
from aifs_ensemble.workflow.routing import provisioning
from doubles.gcs_fault_proxy import fault_proxy
from plainlog import use_plain_log

from workflow.rented.coiled_helpers import settings
from workflow.rented.conftest import ROOT

MACHINES = load_machines()
PROFILES = ("coiled-gpu", "googlebatch")


def profile(name):
    return yaml.safe_load((ROOT / name / "config.yaml").read_text())


def test_spot_first_then_on_demand():
    config = settings(cloud={"spot": True, "spot_attempts": 2})
    assert [provisioning(config, attempt) for attempt in (1, 2, 3, 4)] == ["spot", "spot", "standard", "standard"]
    assert provisioning(settings(), 1) == "standard"


def test_batch_resources():
    cloud = {"service_account": "aifs@p.iam", "network": "n", "regions": ["a1", "b1"]}
    config = settings(destination=None, cloud=cloud)
    asked = resources.resources(config, MACHINES, "gpu")
    region = asked.pop("googlebatch_region")
    assert [region(None, attempt) for attempt in (1, 2, 3)] == ["a1", "b1", "a1"]
    assert asked["nvidia_gpu"] == "nvidia-a100-80gb", "a number would be a T4"
    assert {"googlebatch_boot_disk_image", "googlebatch_boot_disk_gb", "googlebatch_boot_disk_type"} <= set(asked)
    assert all(isinstance(value, str) for value in asked.values()), "numbers are added up over the jobs of a group"
    assert asked["googlebatch_service_account"] == "aifs@p.iam"
    assert "nvidia_gpu" not in resources.resources(config, MACHINES, "cpu")
    assert "cycle=20250819_0000" in asked["googlebatch_labels"]


def test_batch_stays_where_the_bucket_is(gcs, monkeypatch):
    """Each attempt takes the next region; those away from the bucket are left out unless that is allowed."""
    cloud = {"regions": ["europe-west4", "us-central1", "us-east4"]}
    with fault_proxy(gcs) as proxy:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", proxy.url)
        proxy.locations["ensembles"] = "US"
        for allowed, expected in (
            (False, ["us-central1", "us-east4"] * 2),
            (True, ["us-central1", "us-east4", "europe-west4"]),
        ):
            config = settings(cloud=cloud, delivery={"allow_cross_region": allowed})
            region = resources.resources(config, MACHINES, "gpu")["googlebatch_region"]
            assert [region(None, attempt) for attempt in range(1, len(expected) + 1)] == expected


def test_batch_takes_the_bucket_to_be_where_the_configuration_says(gcs, monkeypatch):
    """Where the bucket may not be asked; without an answer no region is taken, so that no traffic is paid unseen."""
    cloud = {"regions": ["europe-west4", "us-central1"]}
    with fault_proxy(gcs) as proxy:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", proxy.url)
        proxy.undescribed.add("ensembles")
        said = settings(cloud={**cloud, "bucket_region": "us-central1"})
        assert resources.resources(said, MACHINES, "gpu")["googlebatch_region"](None, 1) == "us-central1"
        with pytest.raises(StorageError, match=r"or set cloud\.bucket_region"):
            resources.resources(settings(cloud=cloud), MACHINES, "gpu")["googlebatch_region"](None, 1)


def test_a_machine_asks_for_no_region():
    """A job reads its resources again where it runs, and may be refused an answer there."""
    config = settings(cloud={"regions": ["us-central1", "us-east4"]})
    assert resources.resources(config, MACHINES, "gpu", on_machine=True)["googlebatch_region"] == "us-central1"


def test_batch_labels_are_those_that_google_allows():
    """Whatever a user writes: the service refuses other characters, and the plugin splits at commas and signs."""
    mine = {"Team": "Seasonal, Weather=1", "2nd": "x" * 80, "workflow": "mine", "ä": "é", "owner": "a.b@c.org"}
    pairs = [pair.split("=") for pair in resources.labels(settings(cloud={"labels": mine}), "gpu").split(",")]
    found = dict(pairs)
    assert all(re.fullmatch("[a-z][a-z0-9_-]{0,62}", key) for key in found)
    assert all(re.fullmatch("[a-z0-9_-]{0,63}", value) for value in found.values())
    assert (found["team"], found["owner"]) == ("seasonal--weather-1", "a-b-c-org")
    assert found["workflow"] == "aifs-ensemble", "jobs would not be found again"


def test_batch_refuses_machines_with_several_cards():
    """The plugin asks for one card of a named kind; as many as the machine has cannot be said."""
    two = replace(MACHINES.types["a2-ultragpu-1g"], gpu=replace(MACHINES.types["a2-ultragpu-1g"].gpu, count=2))
    machines = replace(MACHINES, types={**MACHINES.types, "a2-ultragpu-2g": replace(two, name="a2-ultragpu-2g")})
    config = settings(cloud={"gpu": "a2-ultragpu-2g"})
    with pytest.raises(ConfigError, match=r"cloud\.gpu: a2-ultragpu-2g has 2 cards, expected one card a machine"):
        resources.resources(config, machines, "gpu")


def test_batch_needs_an_image():
    with pytest.raises(ConfigError, match=r"cloud\.gpu_image: None, expected a container image"):
        resources.resources(settings(cloud={"gpu_image": None}), MACHINES, "gpu")


def test_precommand_is_the_documented_one():
    assert profile("googlebatch")["precommand"] == resources.PRECOMMAND


TAILS = {"succeeds": ("true", 0), "fails": ("exit 7", 7), "fails early": ("false && true", 1)}


@pytest.mark.parametrize("case", TAILS)
def test_precommand_keeps_the_exit_code(case, tmp_path):
    """What Batch's container runs, through the plugin's own template: pip neither runs nor hides a failure."""
    from snakemake_executor_plugin_googlebatch.command import write_entrypoint

    command, code = TAILS[case]
    job = f"{resources.PRECOMMAND} && pip install --target 'x' something && (echo ran; {command})"
    text = (write_entrypoint % job).replace("/tmp/workdir", str(tmp_path))
    subprocess.run(["/bin/bash", "-c", text], check=True, capture_output=True)
    python = tmp_path / "bin" / "python3"
    python.parent.mkdir()
    python.write_text("#!/bin/sh\necho pip was started; exit 0\n")
    python.chmod(0o755)
    env = {"PATH": f"{python.parent}:/usr/bin:/bin", "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        ["/bin/bash", tmp_path / "entrypoint.sh"], capture_output=True, text=True, env=env, check=False
    )
    assert done.returncode == code, done
    assert "ran" in done.stdout and "pip was started" not in done.stdout


def test_snakefile_survives_a_here_document(root):
    """The googlebatch plugin writes the Snakefile through an unquoted one, where these would be expanded."""
    text = (root / "Snakefile").read_text()
    assert not {"$", "`", "\\"} & set(text)


@pytest.mark.parametrize("name", PROFILES)
def test_profile(name):
    content = profile(name)
    assert content["shared-fs-usage"] == "none"
    assert f"provider={'coiled' if name == 'coiled-gpu' else 'googlebatch'}" in content["default-resources"]
    assert content["configfile"] == ["config/config.yaml", "config/operational.yaml"]
    operational = settings(members="1-50")
    machines = -(-len(operational.members) // content["group-components"]["members"])
    assert machines == content["jobs"] == operational.cloud.vms, "groups, jobs and cloud.vms disagree"
    assert content["retries"] > operational.cloud.spot_attempts


def clean_env(tmp_path: Path) -> dict[str, str]:
    """No credentials, no home, no services, and a torch that must not be imported."""
    trap = tmp_path / "trap"
    (trap / "torch").mkdir(parents=True)
    (trap / "torch" / "__init__.py").write_text("raise SystemExit('torch was imported')\n")
    keep = {name: os.environ[name] for name in ("LANG", "LC_ALL") if name in os.environ}
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    return {**keep, "PATH": path, "HOME": str(tmp_path), "PYTHONPATH": str(trap), "XDG_CACHE_HOME": str(tmp_path)}


def dry_run(name, tmp_path):
    """Return what ``snakemake --profile NAME -n`` says in a checkout where nothing ever ran."""
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    for item in ("Snakefile", "rules", "config", "scripts", "report", "envs"):
        (checkout / item).symlink_to(ROOT / item)
    shutil.copytree(ROOT / "profiles", checkout / "profiles")
    use_plain_log(checkout)
    for profile in PROFILES:
        (checkout / profile).symlink_to(f"profiles/{profile}")
    command = [Path(sys.executable).parent / "snakemake", "--profile", name, "-n"]
    env = clean_env(tmp_path)
    done = subprocess.run(command, cwd=checkout, env=env, capture_output=True, text=True, check=False, timeout=120)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.workflow
def test_dry_run_from_a_clean_checkout(tmp_path):
    """50 members, 132 leads, no bucket, no credentials, no torch."""
    code, output = dry_run("coiled-gpu", tmp_path)
    assert code == 0, output[-3000:]
    lines = output.splitlines()
    assert any(line.split() == ["forecast_member", "50"] for line in lines), output[-3000:]
    machines = Counter(word for line in lines for word in line.replace(",", "").split() if "machine=" in word)
    assert machines["machine=gpu"] == 50


@pytest.mark.workflow
def test_googlebatch_without_a_bucket_says_how_to_plan(tmp_path):
    code, output = dry_run("googlebatch", tmp_path)
    assert code != 0 and "destination is not set" in output and "--profile coiled-gpu -n" in output


@pytest.mark.workflow
def test_run_without_a_bucket_is_refused(project):
    project.configure(destination=None)
    code, output = project.run("--profile", "coiled-gpu")
    assert code != 0 and "destination is not set" in output and "Execute " not in output


BUCKETS = {
    "none": (None, "destination is not set"),
    "folder": ("results", "is a folder, expected gs://"),
    "bucket": ("gs://bucket/p", None),
}


@pytest.mark.parametrize("case", BUCKETS)
def test_bucket_problem(case):
    destination, expected = BUCKETS[case]
    problem = bucket_problem(settings(destination=destination))
    assert problem is None if expected is None else expected in problem
