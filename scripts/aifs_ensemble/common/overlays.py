"""Packages of a family of models, laid over the common ones.

The checkpoint of a model holds classes of the version of anemoi-models that made it. A model whose version is not the
common one names an environment in the catalogue, and ``envs/overlays/NAME.lock`` lists the few packages that differ.
They lie in a folder of their own beside the common ones; a process that has to do with such a model puts that folder
first where Python looks for modules. One process thus serves models of one family.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from functools import cache
from importlib import metadata
from pathlib import Path

from aifs_ensemble.common.environment import OVERLAYS
from aifs_ensemble.common.errors import ConfigError
from aifs_ensemble.common.locks import held
from aifs_ensemble.common.models import Model
from aifs_ensemble.common.pins import parse_pins
from aifs_ensemble.common.text import hint

LOCKS = Path(__file__).parents[3] / "envs" / "overlays"
_MAKE = "aifs-ensemble environments --overlays"
_WAIT_SECONDS = 600.0


def gpu_environment(model: Model) -> str:
    """Return the environment of the GPU machines for a model, as a file of ``envs/`` is called."""
    return f"gpu-{model.environment}" if model.environment else "gpu"


def overlay_names() -> list[str]:
    """Return the names of all overlays."""
    return sorted(path.stem for path in LOCKS.glob("*.lock"))


def lock_of(name: str) -> Path:
    """Return the lock of an overlay; ConfigError when there is none."""
    path = LOCKS / f"{name}.lock"
    if not path.is_file():
        raise ConfigError(f"{path}: no such lock of an environment, {hint(name, overlay_names())}")
    return path


@cache
def overlay_pins(name: str) -> Mapping[str, str]:
    """Return version by package of an overlay."""
    return parse_pins(lock_of(name).read_text().splitlines(), f"{name}.lock")


def overlay_folder(name: str) -> Path:
    """Return where the packages of an overlay lie: beside those of the running Python, or where a variable says."""
    return Path(os.environ.get(OVERLAYS) or Path(sys.prefix) / "overlays") / name


def _versions(names: Mapping[str, str], folder: Path | None = None) -> dict[str, str]:
    """Return the versions of packages in a folder, by default of those that an import finds; ``none`` without one."""
    path = [str(folder)] if folder else sys.path
    return {
        name: next((package.version for package in metadata.distributions(name=name, path=path)), "none")
        for name in names
    }


def is_made(name: str) -> bool:
    """Whether the folder of an overlay holds what its lock lists."""
    pins = overlay_pins(name)
    return _versions(pins, overlay_folder(name)) == pins


def make_overlay(name: str, *, python: str = sys.executable) -> bool:
    """Install the packages of an overlay into its folder, whole or not at all; return False where it is made already.

    Raises ConfigError with what pip says when it cannot.
    """
    folder = overlay_folder(name)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with held(folder.with_name(f".{name}.making"), _WAIT_SECONDS):
        if is_made(name):
            return False
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{name}.") as temporary:
            command = [python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-deps"]
            command += ["--target", f"{temporary}/new", "--requirement", str(lock_of(name))]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                told = done.stderr.strip().splitlines() or ["pip failed"]
                raise ConfigError(f"{lock_of(name)}: {told[-1][:300]}")
            if folder.exists():
                folder.rename(Path(temporary) / "old")
            Path(temporary, "new").rename(folder)
    return True


def _listed(versions: Mapping[str, str]) -> str:
    return " and ".join(f"{name} {version}" for name, version in versions.items())


def _imported(name: str) -> str:
    """Return the first package of an overlay that this process has imported, empty if none."""
    modules = {spelling for package in overlay_pins(name) for spelling in _modules(package)}
    return next((module for module in sorted(modules) if module in sys.modules), "")


def _modules(package: str) -> tuple[str, str]:
    return package.replace("-", "."), package.replace("-", "_")


def overlay_of(versions: Mapping[str, str]) -> str:
    """Return the overlay that has the version of anemoi-models with which a checkpoint was made, empty if none has."""
    made_with = versions.get("anemoi.models")
    return next((name for name in overlay_names() if overlay_pins(name).get("anemoi-models") == made_with), "")


def check_packages(model: Model) -> None:
    """Raise ConfigError when a process started here would not have the packages that a model needs."""
    if model.environment:
        _check_there(model.environment, f"model: {model.name}")


def _check_there(name: str, who: str) -> None:
    pins = overlay_pins(name)
    if (here := _versions(pins)) != pins and not is_made(name):
        raise ConfigError(
            f"{who} needs {_listed(pins)} (environment {name}), here are {_listed(here)}: run `{_MAKE}`, "
            "or take a machine's image that has them"
        )


def use_packages(model: Model) -> None:
    """See to it that this process, and those that it starts, import the packages that a model needs.

    Raises ConfigError when they are not here, or when the process has imported others already.
    """
    if model.environment:
        use_overlay(model.environment, f"model: {model.name}")
    elif used := next((name for name in overlay_names() if str(overlay_folder(name)) in sys.path), ""):
        raise ConfigError(
            f"model: {model.name} needs the common packages, this process has {_listed(overlay_pins(used))} of "
            f"environment {used}: run it on its own, and keep {overlay_folder(used)} out of PYTHONPATH"
        )


def use_overlay(name: str, who: str) -> None:
    """Put the packages of an overlay first; ConfigError, which says `who` needs them, as `use_packages`."""
    pins = overlay_pins(name)
    if _versions(pins) == pins:
        return
    _check_there(name, who)
    if module := _imported(name):
        raise ConfigError(
            f"{who} needs {_listed(pins)}, this process has imported another {module} for a model of another "
            "environment: run it on its own"
        )
    folder = str(overlay_folder(name))
    sys.path.insert(0, folder)
    inherited = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([folder, inherited] if inherited else [folder])
