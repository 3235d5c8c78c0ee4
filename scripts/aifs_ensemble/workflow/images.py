"""The software of the machines: one pinned lock a machine class, and what must say the same as it.

``envs/{gpu,etl}.lock`` and the locks of the overlays, ``envs/overlays/NAME.lock``, are the truth. The conda YAMLs
repeat their versions, because Snakemake copies a YAML away from the files it might refer to; the Dockerfiles install
the locks themselves. An environment ``gpu-NAME`` is that of the GPU machines with the packages of an overlay in it.
The image has every overlay in a folder of its own instead: one image serves all models.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from aifs_ensemble.common.errors import ConfigError
from aifs_ensemble.common.overlays import overlay_names, overlay_pins
from aifs_ensemble.common.pins import HASH, canonical, parse_pins

FOLDER = Path(__file__).parents[3] / "envs"
PYTHON = "3.11"
# machine class of the configuration by name of the environment
CLASSES = {"gpu": "gpu", "etl": "cpu"}
_INDEX = "https://pypi.org/simple"


@dataclass(frozen=True)
class Environment:
    """One machine class's software: name, and version by package as pip spells them."""

    name: str
    packages: dict[str, str]

    @property
    def machine_class(self) -> str:
        return CLASSES[self.name.partition("-")[0]]

    @property
    def requirements(self) -> list[str]:
        return [f"{package}=={version}" for package, version in self.packages.items()]


def environment_names() -> list[str]:
    """Return the names of all environments: one a machine class, and one for GPU machines an overlay."""
    return [*CLASSES, *(f"gpu-{overlay}" for overlay in overlay_names())]


def read_environment(name: str) -> Environment:
    """Return an environment from its locks; ConfigError when there is none."""
    common, _, overlay = name.partition("-")
    path = FOLDER / f"{common}.lock"
    if not path.exists() or (overlay and overlay not in overlay_names()):
        raise ConfigError(f"{FOLDER / name}: no such environment, known are {', '.join(environment_names())}")
    packages = parse_pins(path.read_text().splitlines(), str(path))
    if overlay:
        own = {canonical(package): version for package, version in overlay_pins(overlay).items()}
        packages = {package: own.get(canonical(package), version) for package, version in packages.items()}
        if lacking := sorted(set(own) - set(map(canonical, packages))):
            raise ConfigError(
                f"{overlay}.lock: {', '.join(lacking)} is not in {path}, expected other versions of its packages"
            )
    return Environment(name, packages)


def sources(name: str) -> str:
    """Return the locks that an environment is made from, as text."""
    common, _, overlay = name.partition("-")
    return f"{common}.lock" + (f" and overlays/{overlay}.lock" if overlay else "")


def conda_yaml(environment: Environment) -> str:
    """Return the text of the conda YAML that says the same as the lock, for ``--sdm conda``."""
    content: dict[str, Any] = {
        "channels": ["conda-forge", "nodefaults"],
        "dependencies": [f"python={PYTHON}", "pip", {"pip": environment.requirements}],
    }
    note = f"# Made from {sources(environment.name)} by `aifs-ensemble environments --write`: the same versions.\n"
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
        bare = HASH.sub("", line)
        for package, version in parse_pins([bare], name).items():
            digest = found.get((canonical(package), version.partition("+")[0]))
            if not digest:
                raise ConfigError(f"{name}: {package}=={version}: PyPI tells no digest for this machine")
            bare = f"{bare.rstrip()} --hash=sha256:{digest}"
        lines.append(bare)
    return "\n".join(lines) + "\n"
