"""The software of the machines: one pinned lock a machine class, and what must say the same as it.

``envs/{gpu,etl}.lock`` is the truth. The conda YAMLs repeat its versions, because Snakemake copies a YAML away
from the files it might refer to; the Dockerfiles install the lock itself.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from aifs_ensemble.common.errors import ConfigError

FOLDER = Path(__file__).parents[3] / "envs"
PYTHON = "3.11"
# machine class of the configuration by name of the environment
CLASSES = {"gpu": "gpu", "etl": "cpu"}
_HASH = re.compile(r"\s--hash=sha256:[0-9a-f]{64}(?=\s|$)")
_INDEX = "https://pypi.org/simple"
_PIN = re.compile(r"([A-Za-z0-9][\w.-]*)==([\w.+!-]+)")


@dataclass(frozen=True)
class Environment:
    """One machine class's software: name, and version by package as pip spells them."""

    name: str
    packages: dict[str, str]

    @property
    def machine_class(self) -> str:
        return CLASSES[self.name]

    @property
    def requirements(self) -> list[str]:
        return [f"{package}=={version}" for package, version in self.packages.items()]


def canonical(name: str) -> str:
    """Return a package's name as the index compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def parse_pins(lines: Iterable[str], name: str) -> dict[str, str]:
    """Return version by package of ``package==version[; marker] [--hash=...]`` lines; ConfigError for any other."""
    pins: dict[str, str] = {}
    for line in lines:
        text = _HASH.sub("", line.partition("#")[0]).partition(";")[0].strip()
        if not text:
            continue
        match = _PIN.fullmatch(text)
        if match is None:
            raise ConfigError(f"{name}: {text!r}, expected package==version")
        if canonical(match[1]) in map(canonical, pins):
            raise ConfigError(f"{name}: {match[1]} is named twice")
        pins[match[1]] = match[2]
    return pins


def read_environment(name: str) -> Environment:
    """Return an environment from its lock; ConfigError when there is none."""
    path = FOLDER / f"{name}.lock"
    if not path.exists():
        raise ConfigError(f"{path}: no such lock, known are {', '.join(CLASSES)}")
    return Environment(name, parse_pins(path.read_text().splitlines(), str(path)))


def conda_yaml(environment: Environment) -> str:
    """Return the text of the conda YAML that says the same as the lock, for ``--sdm conda``."""
    content: dict[str, Any] = {
        "channels": ["conda-forge", "nodefaults"],
        "dependencies": [f"python={PYTHON}", "pip", {"pip": environment.requirements}],
    }
    note = f"# Made from {environment.name}.lock by `aifs-ensemble environments --write`: the same versions.\n"
    return note + yaml.safe_dump(content, sort_keys=False)


def register(environment: Environment, name: str, workspace: str | None, container: str | None) -> None:
    """Make a Coiled software environment of the lock, or of a container image when one is given."""
    import coiled

    if container:
        coiled.create_software_environment(name=name, workspace=workspace, container=container, use_entrypoint=False)
        return
    coiled.create_software_environment(
        name=name,
        workspace=workspace,
        conda={"channels": ["conda-forge"], "dependencies": [f"python={PYTHON}"]},
        pip=environment.requirements,
        gpu_enabled=environment.machine_class == "gpu",
    )


def pip_report(lock: Path, *, python: str = sys.executable) -> list[Mapping[str, Any]]:
    """Return what pip would install of a lock on this machine, from PyPI alone; nothing is installed.

    Raises ConfigError when it cannot be asked, or has not everything.
    """
    command = [python, "-m", "pip", "--isolated", "--disable-pip-version-check", "install"]
    command += ["--dry-run", "--ignore-installed", "--no-deps", "--quiet"]
    command += ["--index-url", _INDEX, "--report", "-", "--requirement", str(lock)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        told = done.stderr.strip().splitlines() or ["pip failed"]
        raise ConfigError(f"{lock}: {told[-1][:300]}")
    installed: list[Mapping[str, Any]] = json.loads(done.stdout)["install"]
    return installed


def hashed_lock(text: str, report: Iterable[Mapping[str, Any]], name: str) -> str:
    """Return a lock with the SHA-256 of every file that a report of pip names, of PyPI; ConfigError where one lacks.

    One hash makes pip require all of them.
    """
    found = {}
    for item in report:
        info = item["download_info"]
        if urlsplit(info["url"]).hostname == "files.pythonhosted.org":
            digest = info.get("archive_info", {}).get("hashes", {}).get("sha256", "")
            found[canonical(item["metadata"]["name"]), item["metadata"]["version"]] = digest
    lines = []
    for line in text.splitlines():
        bare = _HASH.sub("", line)
        for package, version in parse_pins([bare], name).items():
            digest = found.get((canonical(package), version.partition("+")[0]))
            if not digest:
                raise ConfigError(f"{name}: {package}=={version}: PyPI tells no digest for this machine")
            bare = f"{bare.rstrip()} --hash=sha256:{digest}"
        lines.append(bare)
    return "\n".join(lines) + "\n"
