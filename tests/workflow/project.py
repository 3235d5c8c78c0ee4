"""A copy of the checkout in a folder of its own, in which real snakemake runs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import yaml
from plainlog import use_plain_log

ROOT = Path(__file__).parents[2]
PARTS = ("Snakefile", "rules", "scripts", "envs", "config", "profiles", "report")
LINKS = ("local", "coiled-gpu", "googlebatch")
CYCLE = "20250819_0000"


@dataclass
class Project:
    """A copy of the checkout and what was said by the last run in it."""

    folder: Path

    @classmethod
    def copy(cls, folder: Path, **config: object) -> Project:
        """Copy the checkout's workflow, and put `config` over config/config.yaml."""
        folder.mkdir(parents=True)
        for name in PARTS:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
            elif source.exists():
                shutil.copy(source, folder / name)
        for name in LINKS:
            if (ROOT / name).exists():
                (folder / name).symlink_to(Path("profiles") / name)
        use_plain_log(folder)
        project = cls(folder)
        # tests of other stages need no products
        project.configure(**{"products": {}, **config})
        return project

    @classmethod
    def of(cls, other: Project, folder: Path) -> Project:
        """Return a copy of a project with all times kept."""
        shutil.copytree(other.folder, folder, symlinks=True)
        return cls(folder)

    def configure(self, **config: object) -> None:
        """Put keys over those of config/config.yaml."""
        path = self.folder / "config" / "config.yaml"
        path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | config))

    def snakemake(self, *arguments: str, profile: str = "local", environment: dict[str, str] | None = None) -> str:
        """Run snakemake; return all it said. The exit code is kept in `code`."""
        command = [sys.executable, "-m", "snakemake", "--profile", profile, *arguments]
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("GOOGLE_", "SNAKEMAKE_", "STORAGE_"))}
        done = subprocess.run(
            command, cwd=self.folder, capture_output=True, text=True, timeout=280, check=False,
            env=clean | {"PYTHONPATH": ""} | (environment or {}),
        )  # fmt: skip
        self.code = done.returncode
        return done.stdout + done.stderr

    def run(self, *arguments: str, **options: object) -> str:
        """Run snakemake, which must succeed."""
        said = self.snakemake(*arguments, **options)  # type: ignore[arg-type]
        assert self.code == 0, said[-4000:]
        return said

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the ``aifs-ensemble`` command in the project."""
        return subprocess.run(
            [sys.executable, "-m", "aifs_ensemble", *arguments], cwd=self.folder, capture_output=True, text=True,
            timeout=200, check=False, env=os.environ | {"PYTHONPATH": str(self.folder / "scripts")},
        )  # fmt: skip

    @property
    def results(self) -> Path:
        return self.folder / "results" / CYCLE

    @property
    def scratch(self) -> Path:
        return self.folder / "scratch" / CYCLE

    def leads(self, member: int | None = None) -> dict[str, bytes]:
        """Return the delivered GRIB files and indexes by name, of one member or of all."""
        pattern = "*" if member is None else f"*member{member:03d}*"
        return {path.name: path.read_bytes() for path in sorted((self.results / "forecasts").glob(pattern))}

    def stamps(self, *, other_than: int) -> dict[str, int]:
        """Return the modification times of all files that belong to other members than one."""
        return {
            str(path.relative_to(self.folder)): path.stat().st_mtime_ns
            for base in (self.results, self.scratch)
            for path in sorted(base.rglob("*member*"))
            if path.is_file() and f"member{other_than:03d}" not in str(path)
        }


def jobs_run(said: str, rule: str) -> list[str]:
    """Return the members for which a run started a rule's job."""
    found, current = [], ""
    for line in said.splitlines():
        if line.strip().startswith(("rule ", "localrule ")):
            current = line.split()[1].rstrip(":")
        elif line.strip().startswith("wildcards: member=") and current == rule:
            found.append(line.split("member=")[1].strip())
    return sorted(set(found))
