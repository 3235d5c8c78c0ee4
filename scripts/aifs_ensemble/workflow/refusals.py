"""What rented machines could not work with: told before one is rented, and by `aifs-ensemble doctor`.

Each function returns what is wrong in one line, or None. Machines get the files that git knows of the checkout, and
Snakemake writes names into the command lines of their shells.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path

from aifs_ensemble.common.config import Config
from aifs_ensemble.common.errors import ConfigError
from aifs_ensemble.common.files import folder_problem
from aifs_ensemble.common.models import CATALOGUE
from aifs_ensemble.common.names import checkpoint_file
from aifs_ensemble.common.overlays import gpu_environment
from aifs_ensemble.common.parameters import TABLE as PARAMETERS
from aifs_ensemble.common.storage import open_storage, transfer_settings
from aifs_ensemble.delivery.standing import Destination

# the jobs' scripts are named by their path in double quotes
_SPECIAL = re.compile(r"[\"$`\\\n]")


def checkout_problem(folder: Path) -> str | None:
    """Return why the machines would not get the checkout in a folder: what git does not know does not travel."""
    if special := _SPECIAL.search(str(folder)):
        return f"checkout: {folder}: has {special[0]!r} in its name, which the shell does not take as it is"
    try:
        done = subprocess.run(["git", "ls-files", "."], cwd=folder, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return "checkout: git is not installed, expected it: it tells which files the machines need"
    if done.returncode:
        said = " ".join(done.stderr.split())
        return f"checkout: {folder}: git says {said!r}, expected a clone: machines get the files that git knows"
    known = {(folder / name).resolve() for name in done.stdout.splitlines()}
    for needed in (PARAMETERS, CATALOGUE):
        if needed.resolve() not in known:
            return (
                f"checkout: {folder}: git does not know {needed.parent.name}/{needed.name} there, expected a clone, or "
                "`git init && git add -A` in its root, from which snakemake is started: machines get what git knows"
            )
    return None


def outside(files: Iterable[Path], folder: Path) -> str | None:
    """Return which configuration file the machines would not get, because it is not below a folder."""
    for file in files:
        path = Path(os.path.abspath(folder / file))  # noqa: PTH100 - links stay, as in the archive of the sources
        if not path.is_relative_to(folder):
            return f"--configfile {file}: outside the checkout, expected a file below {folder}: machines get no other"
    return None


def home_problem() -> str | None:
    """Return why nothing can be written to the home folder, where clients keep what they know."""
    home = Path.home()
    problem = folder_problem(home, write=True)
    return f"HOME: {home}, expected a folder that can be written: {problem}" if problem else None


def models_problem(config: Config, provider: str) -> str | None:
    """Return why a provider does not make several models in one run: on Google Batch nobody tried it."""
    if provider != "googlebatch":
        return None
    first = config.models[0]
    return (
        f"config: model: {' and '.join(config.models)}, expected one model on Google Batch, such as --config "
        f"model={first} destination={config.destination}/{first}: the profiles local and coiled-gpu make several"
    )


def images_problem(config: Config) -> str | None:
    """Return why a software environment of Coiled cannot be that of both models; a container image has all overlays."""
    first, *others = config.of_each_model
    named = first.cloud.gpu_image or ""
    for other in others:
        differ = other.model.environment != first.model.environment
        if differ and other.cloud.gpu_image == named and "/" not in named:
            return (
                f"config: by_model.{other.model.name}.gpu_image: {named!r} as for {first.model.name}, expected the "
                f"environment {gpu_environment(other.model)}, or a container image, which serves all models"
            )
    return None


def changed(config: Config, seen: Destination | None = None) -> dict[str, float]:
    """Return when the checkpoint and the initial states changed that are there, by name, seconds since 1970.

    They are those on scratch, or of a bucket as it was `seen`. Raises StorageError when the bucket does not answer.
    """
    if seen is None:
        built = config.scratch_root / checkpoint_file(config.model.name)
        local = [Path(config.checkpoint or built), *(config.scratch.initial(member) for member in config.members)]
        return {str(path): path.stat().st_mtime for path in local if path.is_file()}
    states = [config.objects.initial(member) for member in config.members]
    found = {seen.storage.address(key): seen.listed[key] for key in states if key in seen.listed}
    named = str(config.checkpoint or seen.storage.address(checkpoint_file(config.model.name)))
    place, _, name = named.rpartition("/")
    if checkpoint := open_storage(place, transfer_settings(config)).stat(name):
        found[named] = checkpoint
    return {name: info.updated.timestamp() for name, info in found.items() if info.updated}


def time_problem(changed: Mapping[str, float], now: float, tolerance: float = 60.0) -> str | None:
    """Return which input changed after `now` (seconds since 1970): what is made of it would count as older."""
    for name, when in changed.items():
        if when > now + tolerance:
            said = datetime.fromtimestamp(when, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
            return f"{name}: changed at {said}, expected a time before now: touch it, or set this machine's clock"
    return None


def check(*problems: str | None) -> None:
    """Raise ConfigError for the first problem."""
    for problem in problems:
        if problem:
            raise ConfigError(problem)
