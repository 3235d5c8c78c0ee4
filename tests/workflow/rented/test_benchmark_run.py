"""`aifs-ensemble benchmark --machines` from end to end: the real Snakefile, client, rule and engine at toy size."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from aifs_ensemble.cli import main
from aifs_ensemble.common.storage import open_destination
from aifs_ensemble.planning.throughput import TABLE
from coiled_server import CoiledServer

from workflow.rented.conftest import ROOT, Project

pytestmark = [pytest.mark.cloud, pytest.mark.workflow, pytest.mark.timeout(600)]


@pytest.fixture
def checkout(project: Project) -> Project:
    """The project with the real rules and the engine benchmark instead of the small ones."""
    skip = shutil.ignore_patterns("__pycache__")
    for name in ("rules", "benchmarks", "envs", "report"):
        shutil.copytree(ROOT / name, project.folder / name, ignore=skip)
    shutil.copy(ROOT / "Snakefile", project.folder / "Snakefile")
    profile = project.folder / "profiles" / "coiled-gpu" / "config.yaml"
    profile.write_text(profile.read_text() + "seconds-between-status-checks: 1\n")
    git = ["git", "-c", "user.name=test", "-c", "user.email=test@example.org"]
    for command in (["add", "-A"], ["commit", "-qm", "the real workflow"]):
        subprocess.run([*git, *command], cwd=project.folder, check=True)
    return project


@pytest.mark.long
def test_rented_machines_are_measured(
    checkout: Project,
    coiled: CoiledServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The user's own file and --config reach the run; an older result at the destination does not count."""
    for name, value in checkout.env.items():
        monkeypatch.setenv(name, value)
    config = checkout.configure(destination="gs://ensembles/measured")
    own = tmp_path / "mine.yaml"
    cloud = {"regions": ["europe-west4"], "labels": {"team": "seasonal"}}
    # the emulator's bucket is in us-central1
    own.write_text(yaml.safe_dump({"cloud": cloud, "delivery": {"allow_cross_region": True}}))
    table = tmp_path / "throughput.json"
    shutil.copy(TABLE, table)
    store = open_destination(config)
    store.put_bytes(b'{"old": true}', "benchmarks/g2-standard-8.json")
    files = ["config/config.yaml", "config/operational.yaml", str(own)]
    command = ["benchmark", "--machines", "g2-standard-8", "--profile", "coiled-gpu", "--table", str(table)]
    assert main([*command, "--configfile", *files, "--config", "cloud.max_hours=2"]) == 0

    (cluster,) = coiled.clusters.values()
    asked = json.dumps(cluster.request) + json.dumps(cluster.job)
    assert "g2-standard-8" in asked
    assert "europe-west4" in asked
    assert "seasonal" in asked
    result = json.loads(store.get_bytes("benchmarks/g2-standard-8.json"))
    assert "step_seconds" in result["modes"]["engine"]
    assert json.loads((checkout.folder / "scratch/benchmark/g2-standard-8.json").read_text()) == result
    entry = next(
        item for item in json.loads(table.read_text())["entries"] if (item["model"], item["gpu"]) == ("demo", "cpu")
    )
    assert entry["step_seconds"] == round(result["modes"]["engine"]["step_seconds"], 4)
    shown = capsys.readouterr().out
    assert "cpu, " in shown and "s a step, into" in shown
    assert "europe-west4, machine and disks:" in shown
