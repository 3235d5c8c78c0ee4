"""Tables in YAML: read fast, and every key of a row checked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from aifs_ensemble.common.errors import ConfigError

Kinds = Mapping[str, Any]  # by key: a type, or a tuple of types
# six times as fast; absent where PyYAML was built without libyaml
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_rows(path: Path) -> Any:
    """Return the content of a table; ConfigError naming the file when it is absent or no YAML."""
    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader=_LOADER)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}, expected a table in YAML") from None
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from None


def nearest(name: str, known: Iterable[str], otherwise: str) -> str:
    """Return the known name that `name` may have meant, as a question; `otherwise` when none is near."""
    near = get_close_matches(name, list(known), n=1)
    return f"did you mean {near[0]!r}?" if near else otherwise


def check_keys(row: Any, where: str, needed: Kinds, optional: Kinds) -> None:
    """Raise ConfigError naming the first key of a row that is missing, not known or of another type.

    `needed` and `optional` give the types of each key.
    """
    if not isinstance(row, Mapping):
        raise ConfigError(f"{where}: {row!r}, expected keys and values")
    for key in needed:
        if key not in row:
            raise ConfigError(f"{where}: {key} is missing")
    known = {**needed, **optional}
    for key, value in row.items():
        if key not in known:
            hint = nearest(str(key), known, f"known are {', '.join(known)}")
            raise ConfigError(f"{where}: unknown key {key!r}, {hint}")
        kinds = known[key] if isinstance(known[key], tuple) else (known[key],)
        # True is an int to Python, and no number to a reader
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            expected = " or ".join("null" if kind is type(None) else kind.__name__ for kind in kinds)
            raise ConfigError(f"{where}: {key}: {value!r}, expected {expected}")
