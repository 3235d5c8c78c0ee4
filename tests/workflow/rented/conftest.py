"""A coordinator's folder, a bucket and the services, all on loopback."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from aifs_ensemble.common import environment
from aifs_ensemble.common.config import Config, merge, read_files
from coiled_server import Cluster, CoiledServer
from doubles.batch_server import BatchServer
from doubles.gcs_server import gcs_server
from plainlog import use_plain_log
from snakemake_executor_plugin_coiled.records import Journal

ROOT = Path(__file__).parents[3]
BUCKET = "ensembles"
SETTINGS: dict[str, Any] = {
    "model": "demo",
    "members": "1-4",
    "lead_hours": 24,
    "destination": f"gs://{BUCKET}/small",
    "scratch": "scratch",
    "initial_conditions": {"source": "idealised"},
    "forecast": {"device": "cpu", "gpu_mem_mb": 40000, "compile": False, "encoders": 1, "precision": "32"},
    "cloud": {"project": "loopback", "gpu_image": "registry/gpu", "cpu_image": "registry/etl"},
}


@pytest.fixture(scope="module")
def gcs() -> Iterator[str]:
    with gcs_server(BUCKET) as url:
        yield url


@dataclass
class Project:
    """A small checkout: the real library, profiles and configuration around tests/workflow/rented/small."""

    folder: Path
    env: dict[str, str] = field(default_factory=dict)

    def configure(self, **changes: Any) -> Config:
        """Write config/operational.yaml, the one place that a user changes."""
        settings = yaml.safe_load((ROOT / "config" / "operational.yaml").read_text())
        merge(settings, SETTINGS)
        merge(settings, changes)
        (self.folder / "config" / "operational.yaml").write_text(yaml.safe_dump(settings))
        return Config(read_files(self.folder / "config" / "config.yaml", self.folder / "config" / "operational.yaml"))

    def command(self, *arguments: str) -> list[str]:
        envvars = [name for name in ("STORAGE_EMULATOR_HOST",) if name in self.env]
        # loopback answers at once: look every second instead of every ten
        return [
            str(Path(sys.executable).parent / "snakemake"),
            *arguments,
            *("--seconds-between-status-checks", "1"),
            *(["--envvars", *envvars] if envvars else []),
        ]

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command(*arguments),
            cwd=self.folder,
            # what the doubles need for themselves is not the coordinator's
            env={**{k: v for k, v in os.environ.items() if k != "GRPC_ENABLE_FORK_SUPPORT"}, **self.env},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            # tests started in the background of a shell ignore these, and so would what they start
            preexec_fn=lambda: [signal.signal(n, signal.SIG_DFL) for n in (signal.SIGINT, signal.SIGHUP)],  # noqa: PLW1509
        )

    def run(self, *arguments: str, timeout: float = 400) -> tuple[int, str]:
        process = self.start(*arguments)
        try:
            output, _ = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            output, _ = process.communicate()
            raise AssertionError(f"no end after {timeout} s:\n{output}") from None
        return process.returncode, output


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    folder = tmp_path / "my project"
    skip = shutil.ignore_patterns("__pycache__", "*.egg-info", ".mypy_cache")
    for name in ("config", "scripts", "profiles"):
        shutil.copytree(ROOT / name, folder / name, ignore=skip)
    use_plain_log(folder)
    shutil.copytree(ROOT / "tests" / "workflow" / "rented" / "small", folder / "small", ignore=skip)
    (folder / "small" / "Snakefile").rename(folder / "Snakefile")
    for name in ("coiled-gpu", "googlebatch"):
        (folder / name).symlink_to(f"profiles/{name}")
    (folder / ".gitignore").write_text(".snakemake/\n__pycache__/\n")
    git = ["git", "-c", "user.name=test", "-c", "user.email=test@example.org"]
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "checkout"]):
        subprocess.run([*git, *command], cwd=folder, check=True)
    made = Project(folder)
    made.configure()
    monkeypatch.chdir(folder)
    return made


@pytest.fixture
def whole(project: Project) -> Project:
    """The real Snakefile and rules instead of the small ones."""
    for name in ("rules", "report", "envs"):
        shutil.copytree(ROOT / name, project.folder / name)
    shutil.copy(ROOT / "Snakefile", project.folder / "Snakefile")
    subprocess.run(["git", "add", "-A"], cwd=project.folder, check=True)
    return project


def published(scratch: Path, cycle: str, member: int) -> list[int]:
    """Return the leads that a machine has published itself, whether delivered or not."""
    journal = scratch / cycle / "work" / f"member{member:03d}" / "journal.jsonl"
    lines = journal.read_bytes().split(b"\n")[:-1] if journal.exists() else []
    return sorted({json.loads(line)["lead"] for line in lines})


def published_on(cluster: Cluster, config: Config) -> dict[int, list[int]]:
    """Return the leads that a machine has published itself, by member that has begun there."""
    return {
        member: published(scratch, config.cycle, member)
        for scratch in cluster.folder.glob("job.*/scratch")
        for member in config.members
        if (scratch / config.cycle / "work" / f"member{member:03d}").exists()
    }


def machine_environment(gcs: str) -> dict[str, str]:
    """What a rented machine knows: this interpreter and the storage server at URL `gcs`."""
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    return {"PATH": path, "STORAGE_EMULATOR_HOST": gcs, "GOOGLE_CLOUD_PROJECT": "loopback"}


@pytest.fixture
def coiled(project: Project, gcs: str, tmp_path: Path) -> Iterator[CoiledServer]:
    """The Coiled service, whose machines have this interpreter, the bucket and nothing else."""
    server = CoiledServer(tmp_path / "machines", machine_environment(gcs))
    project.env = {**server.client_env(), "STORAGE_EMULATOR_HOST": gcs}
    yield server
    server.close()
    assert not server.unknown, f"requests that the double does not know: {server.unknown}"


@pytest.fixture
def batch(project: Project, gcs: str, tmp_path: Path) -> Iterator[BatchServer]:
    """The Batch service, whose containers have this interpreter, the bucket and nothing else."""
    server = BatchServer(tmp_path / "batch", machine_environment(gcs))
    project.env = {**server.client_env(), "STORAGE_EMULATOR_HOST": gcs}
    yield server
    server.close()


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Journal:
    """The journal of a coordinator's folder, in which its commands run."""
    config = read_files(ROOT / "config" / "config.yaml", ROOT / "config" / "operational.yaml")
    merge(config, SETTINGS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(environment.CONFIG, json.dumps(config))
    return Journal()
