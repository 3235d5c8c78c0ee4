"""The user's GRIB files of initial conditions: their names, and whether they are there."""

from __future__ import annotations

from pathlib import Path

from aifs_ensemble.common.config import Config
from aifs_ensemble.common.errors import ConfigError, InputError
from aifs_ensemble.common.names import CONTROL, format_members


def as_list(paths: str | list[str] | None) -> list[str]:
    """Return one path or several as a list."""
    return [paths] if isinstance(paths, str) else list(paths or ())


def member_files(config: Config, member: int) -> list[Path]:
    """Return the files of a member of the source; ConfigError for a placeholder that is not known."""
    settings = config.initial_conditions.file
    own = member == CONTROL and settings.control
    key, patterns = ("control", as_list(settings.control)) if own else ("path", as_list(settings.path))
    try:
        return [Path(pattern.format(member=member, cycle=config.cycle)) for pattern in patterns]
    except (KeyError, IndexError, ValueError) as error:
        raise ConfigError(
            f"config: initial_conditions.file.{key}: {patterns}: {error}, "
            "expected placeholders {member}, {member:03d} or {cycle}"
        ) from None


def check_files(config: Config) -> str | None:
    """Raise InputError unless the files are there of members enough, and of the first, from which weights are made.

    Enough are ``min_members`` where it is set, else one: a member without files fails alone, which is returned.
    """
    absent: dict[int, Path] = {}
    for member in config.members:
        missing = [path for path in member_files(config, config.state_of(member)) if not path.is_file()]
        if missing:
            absent[member] = missing[0]
    if not absent:
        return None
    of_first = config.members[0] in absent
    path = absent[min(absent)]
    members = format_members(absent)
    if of_first or len(config.members) - len(absent) < (config.given.min_members or 1):
        raise InputError(
            f"config: initial_conditions.file: {path}: no such file, expected the GRIB of {config.cycle} and its "
            f"members; members without: {members}"
        )
    return f"{config.cycle}: {path}: no such file: members {members} will fail"
