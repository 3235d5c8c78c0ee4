"""Snakemake profiles, found where ``snakemake --profile NAME`` finds them: what they read and whose machines they rent.

Our commands read of a profile what decides their answers, and neither merge several profiles nor fill in templates.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from platformdirs import PlatformDirs

from aifs_ensemble.cli._checkout import check_here
from aifs_ensemble.common.config import read_files
from aifs_ensemble.common.errors import ConfigError

_FILE = re.compile(r"(?:profile|config)(?:\.v(\d+)\+)?\.yaml")
_OF_PROVIDER = {"coiled": "coiled-gpu", "googlebatch": "googlebatch"}


def profile_file(name: str) -> Path:
    """Return the file of a profile: a path, a folder here, or one in the user's or the site's folder of Snakemake.

    Raises ConfigError that says where there is none of the name, and which there are.
    """
    for folder in _folders():
        path = folder / name
        if path.is_file():
            return path
        if file := _file_in(path):
            return file
    check_here(f"--profile: {name!r}")
    known = sorted({path.name for folder in _folders() if folder.is_dir() for path in _profiles(folder)})
    places = ", ".join("this folder" if folder == Path() else str(folder) for folder in _folders())
    raise ConfigError(f"--profile: {name!r} is not in {places}, expected {' or '.join(known) or 'a path to one'}")


def _folders() -> tuple[Path, ...]:
    own = PlatformDirs("snakemake", "snakemake")
    return Path(), own.user_config_path, own.site_config_path


def _profiles(folder: Path) -> Iterator[Path]:
    """Yield the profiles in a folder; a folder with a config.yaml of another kind is none."""
    for path in folder.iterdir():
        file = _file_in(path)
        if file and {"executor", "cores", "jobs", "configfile"} & set(read_files(file)):
            yield path


def _file_in(folder: Path) -> Path | None:
    """Return a profile's file: of several, the one for the latest Snakemake."""
    if not folder.is_dir():
        return None
    found = [(int(match[1] or 0), path) for path in folder.iterdir() if (match := _FILE.fullmatch(path.name))]
    return max(found)[1] if found else None


def configfiles(name: str) -> list[Path]:
    """Return the configuration files that a profile names; like Snakemake, from where the command runs."""
    named = read_files(profile_file(name)).get("configfile") or []
    return [Path(file) for file in ([named] if isinstance(named, str) else named)]


def plan_profile(name: str) -> str:
    """Return on whose machines a profile runs jobs, as plans name it: ``local``, ``coiled-gpu`` or ``googlebatch``."""
    return _OF_PROVIDER.get(_pairs(name, "default-resources").get("provider", ""), "local")


def members_group(name: str) -> int:
    """Return how many members a profile puts on a machine. ConfigError for what is no number."""
    text = _pairs(name, "group-components").get("members", "1")
    if not text.isdecimal():
        raise ConfigError(f"--profile: {name}: group-components: members: {text!r}, expected a number")
    return int(text)


def _pairs(name: str, key: str) -> dict[str, str]:
    """Return what a profile sets for a key, as keys and values or as a list of ``KEY=VALUE``."""
    given = read_files(profile_file(name)).get(key) or []
    pairs = given if isinstance(given, dict) else dict(str(item).partition("=")[::2] for item in given)
    return {part: str(value) for part, value in pairs.items()}
