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


def check_keys(
    value: Any,
    where: str,
    needed: Iterable[str] | Kinds = (),
    optional: Iterable[str] | Kinds = (),
) -> None:
    """Raise ConfigError for what is no mapping, and for a key that is missing, unknown or of another type.

    `needed` and `optional` name the keys; as mappings they give the type of each, or a tuple of types.
    """
    kinds = {key: kind for keys in (needed, optional) if isinstance(keys, Mapping) for key, kind in keys.items()}
    known = [*needed, *optional]
    if not isinstance(value, Mapping):
        raise ConfigError(f"{where}: {value!r}, expected keys and values")
    for key in value:
        if key not in known:
            raise ConfigError(f"{where}: unknown key {key!r}, {hint(key, known)}")
    if missing := [key for key in needed if key not in value]:
        raise ConfigError(f"{where}: {missing[0]} is missing")
    for key, kind in kinds.items():
        if key in value:
            _check_kind(value[key], f"{where}: {key}", kind if isinstance(kind, tuple) else (kind,))


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
