"""Tables that people write by hand in YAML: read, and checked key by key; what is wrong is one line with its place."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from aifs_ensemble.common.errors import ConfigError
from aifs_ensemble.common.text import hint


def read_table(path: Path, what: str) -> dict[str, Any]:
    """Return the content of a YAML file; ConfigError, naming `what` was expected, unless it has keys and values."""
    try:
        content = yaml.load(path.read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file, expected {what}") from None
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}, expected {what}") from None
    except (yaml.YAMLError, ValueError) as error:  # the latter of a date that is none, and of bytes that are no text
        raise ConfigError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: {type(content).__name__}, expected keys and values")
    return content


def check_keys(value: Any, where: str, needed: Iterable[str] = (), optional: Iterable[str] = ()) -> None:
    """Raise ConfigError for what is no mapping, for an unknown key (naming the nearest) and for a missing one."""
    needed, optional = tuple(needed), tuple(optional)
    if not isinstance(value, Mapping):
        raise ConfigError(f"{where}: {value!r}, expected keys and values")
    for key in value:
        if key not in needed and key not in optional:
            raise ConfigError(f"{where}: unknown key {key!r}, {hint(key, needed + optional)}")
    if missing := [key for key in needed if key not in value]:
        raise ConfigError(f"{where}: {missing[0]} is missing")


def number(value: Any, where: str, *, minimum: float = 0.0) -> float:
    """Return a finite number of at least `minimum`; ConfigError for anything else."""
    # a comparison with what is no number is false
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not minimum <= value < float("inf"):
        raise ConfigError(f"{where}: {value!r}, expected a number of at least {minimum:g}")
    return float(value)
