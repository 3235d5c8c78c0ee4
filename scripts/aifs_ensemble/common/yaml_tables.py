"""Tables that people write by hand in YAML: read, and checked key by key; what is wrong is one line with its place."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from aifs_ensemble.common.errors import ConfigError
from aifs_ensemble.common.text import hint

Kinds = Mapping[str, Any]  # by key: a type, or a tuple of types
# six times as fast; absent where PyYAML was built without libyaml
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_table(path: Path, what: str) -> dict[str, Any]:
    """Return the content of a YAML file; ConfigError, naming `what` was expected, unless it has keys and values."""
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_LOADER)
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


def check_row(value: Any, where: str, needed: Kinds, optional: Kinds) -> None:
    """Raise ConfigError as `check_keys` does, and for a value that is not of its key's type (or types)."""
    check_keys(value, where, needed, optional)
    known = {**needed, **optional}
    for key, item in value.items():
        _check_kind(item, f"{where}: {key}", known[key] if isinstance(known[key], tuple) else (known[key],))


def _check_kind(value: Any, where: str, kinds: tuple[type, ...]) -> None:
    # True is an int to Python, and no number to a reader
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        expected = " or ".join("null" if kind is type(None) else kind.__name__ for kind in kinds)
        raise ConfigError(f"{where}: {value!r}, expected {expected}")


def number(value: Any, where: str, *, minimum: float = 0.0) -> float:
    """Return a finite number of at least `minimum`; ConfigError for anything else."""
    # a comparison with what is no number is false
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not minimum <= value < float("inf"):
        raise ConfigError(f"{where}: {value!r}, expected a number of at least {minimum:g}")
    return float(value)
