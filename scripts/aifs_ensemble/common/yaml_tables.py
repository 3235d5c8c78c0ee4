"""YAML that people write by hand: read, and tables checked key by key; what is wrong is one line with its place."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from aifs_ensemble.common.errors import ConfigError
from aifs_ensemble.common.text import hint

Kinds = Mapping[str, Any]  # by key: a type, or a tuple of types
# six times as fast; absent where PyYAML was built without libyaml
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_yaml(text: str, where: str, loader: Any = yaml.SafeLoader, *, of_file: bool = False) -> Any:
    """Return the content of YAML; ConfigError for what is none, or has a key twice, naming `where` it stands.

    With `of_file` that is a file, and the line is named too.
    """
    last = text.rstrip().count("\n") + 1

    def place(line: int) -> str:
        return f"{where}:{min(line + 1, last)}" if of_file else where

    reader = loader(text)
    try:
        node = reader.get_single_node()
        if twice := next(_given_twice(node), None):
            key, first, second = twice
            lines = f" in lines {first + 1} and {second + 1}" if of_file else ""
            raise ConfigError(f"{place(second)}: {key} is given twice{lines}, expected each key once")
        return None if node is None else reader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        mark, said = error.problem_mark, ", ".join(filter(None, [error.problem, error.context]))
        at = place(mark.line) if mark else where
        raise ConfigError(f"{at}: not valid YAML ({' '.join(said.split())})") from None
    except (yaml.YAMLError, ValueError) as error:  # the latter of a date such as 2025-02-30
        raise ConfigError(f"{where}: not valid YAML ({' '.join(str(error).split())})") from None
    finally:
        reader.dispose()


def _given_twice(root: yaml.Node | None) -> Iterator[tuple[str, int, int]]:
    """Yield keys that stand twice in one mapping, with the lines, from 0, of both: PyYAML takes the last one."""
    seen: set[int] = set()  # what an alias names is met again
    left: list[tuple[str, yaml.Node | None]] = [("", root)]
    while left:
        name, node = left.pop()
        if id(node) in seen or not isinstance(node, yaml.CollectionNode):
            continue
        seen.add(id(node))
        if not isinstance(node, yaml.MappingNode):
            left += [(name, item) for item in node.value]
            continue
        lines: dict[tuple[str, str], int] = {}
        for key, item in node.value:
            full, line = f"{name}{key.value}", key.start_mark.line
            left.append((f"{full}.", item))
            known = (key.tag, str(key.value))
            if known in lines and key.tag != "tag:yaml.org,2002:merge":
                yield full, lines[known], line
            lines.setdefault(known, line)


def kind_of(content: Any) -> str:
    """Return in a word what stands where keys and values are expected."""
    return "nothing" if content is None else type(content).__name__


def read_table(path: Path, what: str) -> dict[str, Any]:
    """Return the content of a YAML file; ConfigError, naming `what` was expected, unless it has keys and values."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file, expected {what}") from None
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}, expected {what}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: byte {error.start} is no UTF-8, expected {what}") from None
    content = read_yaml(text, str(path), _LOADER, of_file=True)
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: {kind_of(content)}, expected keys and values")
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
