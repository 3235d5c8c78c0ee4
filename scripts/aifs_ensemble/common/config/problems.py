"""What is wrong with a configuration, a line a key: its value, what was expected, the nearest known key, its place."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from aifs_ensemble.common import text
from aifs_ensemble.common.config.schema import expected, json_schema, keys
from aifs_ensemble.common.errors import ConfigError

_NAMED = re.compile(r"(?:config: )?(?:unknown key ')?(?P<key>[\w.-]+)['\w ]*[:,] ")


# what the checks of other keys build on, with values that are right
_BENEATH = {"model": "demo", "cycle": "20250819_0000", "members": "1", "lead_hours": 6}
# what has no default either, or is needed where it is given
_NEEDED = {
    **_BENEATH,
    "cycles": ["20250819_0000"],
    "scratch": "scratch",
    "initial_conditions": {},
    "initial_conditions.source": "idealised",
}
_MOST = 20


def all_problems(
    raw: Mapping[str, Any], files: Sequence[Path], settle: Callable[[Mapping[str, Any]], None]
) -> ConfigError:
    """Return all that is wrong with a configuration as one error, a line a key; `settle` raises the first.

    A key that is told is left to its default, and what is wrong then is told next. What other checks say stays untold
    once a key is wrong that they build on, such as the model: it may be wrong for that reason alone.
    """
    rest = json.loads(json.dumps(raw, default=str))
    found: dict[str, ConfigError] = {}
    for _ in range(_MOST):
        try:
            settle(rest)
            break
        except ConfigError as error:
            named = _NAMED.match(str(error))
            key = named["key"] if named else ""
            if any(one.startswith(f"{key}.") for one in found) and key not in found:
                # what a told key leaves behind, such as an area's name without the area
                if not _leave_to_default(rest, key):
                    break
                continue
            of_types = isinstance(error.__context__, ValidationError)  # told of each key by itself
            doubtful = not of_types and key not in _BENEATH and any(one in _BENEATH for one in found)
            if not doubtful and key not in found:
                found[key] = with_place(error, raw, files)
            elif not doubtful or key in found:
                break
            if not _leave_to_default(rest, key):
                break
    lines = [str(error) for error in found.values()]
    if len(lines) == 1:
        return ConfigError(lines[0])
    return ConfigError("\n  ".join([f"{len(lines)} keys are wrong:", *lines]))


def _leave_to_default(raw: dict[str, Any], key: str) -> bool:
    """Take a key out of a configuration, or give it a right value where it has no default; tell whether it changed."""
    *above, last = _names(key, raw)
    part: Any = raw
    for name in above:
        part = part.get(name) if isinstance(part, dict) else None
    if not isinstance(part, dict):
        return False
    if key in _NEEDED:
        part[last] = _NEEDED[key]
        return True
    return part.pop(last, None) is not None


def _names(key: str, raw: Any) -> list[str]:
    """Return the names that a key consists of; one that the user gave may have dots, such as a model's."""
    parts, found = key.split("."), []
    while parts:
        ends = range(1, len(parts) + 1)
        end = next((end for end in ends if isinstance(raw, Mapping) and ".".join(parts[:end]) in raw), 1)
        name, parts = ".".join(parts[:end]), parts[end:]
        found.append(name)
        raw = raw.get(name) if isinstance(raw, Mapping) else None
    return found


def explain(error: ValidationError, raw: Mapping[str, Any]) -> ConfigError:
    """Return the first problem that pydantic found as an error of ours: unknown keys go first, missing ones last."""
    order = {"extra_forbidden": 0, "missing": 2}
    first = min(error.errors(include_url=False, include_context=False), key=lambda item: order.get(item["type"], 1))
    kind, place = first["type"], first["loc"]
    if kind == "extra_forbidden":
        key = ".".join(map(str, place))
        above, _, node = _value(place[:-1], raw)
        named_by_user = above and above not in dict(keys())  # a section that stands under a name of the user's
        meant = text.hint(place[-1], node.get("properties", {})) if named_by_user else nearest(key)
        return ConfigError(f"config: unknown key {key!r}, {meant}")
    if place[-1] == "[key]":
        key, _, node = _value(place[:-2], raw)
        form = next(iter(node["patternProperties"]))
        return ConfigError(f"config: {key}: {place[-2]!r}, expected names of the form {form}")
    key, value, node = _value(place, raw)
    if kind == "missing":
        return ConfigError(f"config: {key} is missing: {node.get('description', expected(node))}")
    if not isinstance(value, list | dict):
        value = first["input"]
    finite = ", finite" if isinstance(value, float) and not math.isfinite(value) else ""
    limits = [*_limits(node), *(["each once"] if kind == "twice" or node.get("uniqueItems") else [])]
    return ConfigError(f"config: {key}: {value!r}, expected {', '.join([expected(node), *limits])}{finite}")


def _limits(node: Mapping[str, Any]) -> list[str]:
    """Return in words how many items a key takes, and of which form its texts are."""
    of_items = node.get("items", {})
    least, most = (node.get(f"{end}Items") for end in ("min", "max"))
    found = [f"of the form {one['pattern']}" for one in (node, of_items) if "pattern" in one]
    if least and least == most:
        found.append(f"{least} of them")
    elif least or node.get("minProperties"):
        found.append("at least one")
    return found


def _value(place: Sequence[int | str], raw: Any) -> tuple[str, Any, Mapping[str, Any]]:
    """Return the key, its value and its node: of an item of a list, and of one of several types, those of the whole."""
    node: Mapping[str, Any] = json_schema()
    known: list[str] = []
    for part in map(str, place):
        named = next(iter(node.get("patternProperties", {}).values()), None)
        below = node.get("properties", {}).get(part) or named or node.get("additionalProperties")
        if not isinstance(below, Mapping) or not isinstance(raw, Mapping):
            break
        node, raw = below, raw.get(part)
        known.append(part)
    return ".".join(known), raw, node


def nearest(key: str) -> str:
    """Return what an unknown key may have meant: the same name elsewhere, else a near one, those beside it first."""
    known = [full for full, _ in keys()]
    parent, _, name = key.rpartition(".")
    if same := [repr(full) for full in known if full.rpartition(".")[2] == name]:
        return f"did you mean {' or '.join(same)}?"
    here = {full.rpartition(".")[2]: full for full in known if full.rpartition(".")[0] == parent}
    everywhere = {full.rpartition(".")[2]: full for full in reversed(known)} | here
    # a slip of the pen anywhere is likelier than a distant likeness close by
    for pool, cutoff in ((here, 0.75), (everywhere, 0.75), (here, 0.5), (everywhere, 0.5)):
        if near := text.nearest(name, pool, cutoff=cutoff):
            return f"did you mean {pool[near]!r}?"
    return f"known here are {', '.join(here)}"


def with_place(error: ConfigError, raw: Mapping[str, Any], files: Sequence[Path]) -> ConfigError:
    """Return the error with the file and line of the key that its text begins with, where a file has this value."""
    named = _NAMED.match(str(error))
    place = locate(named["key"], raw, files) if named else None
    return ConfigError(f"{place}: {str(error).removeprefix('config: ')}") if place else error


def locate(key: str, raw: Mapping[str, Any], files: Sequence[Path]) -> str | None:
    """Return ``file:line`` of a key in YAML files, the last one first, whose value is the one in `raw`.

    None for a key that is in no file, and for one that the command line has set to something else.
    """
    names = _names(key, raw)
    value: Any = raw
    for part in names:
        value = value.get(part) if isinstance(value, Mapping) else None
    for path in reversed(files):
        node: yaml.Node | None = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
        line = 0
        for part in names:
            pairs = node.value if isinstance(node, yaml.MappingNode) else []
            name, node = next(((name, item) for name, item in pairs if name.value == part), (None, None))
            line = name.start_mark.line + 1 if name is not None else 0
        if line and str(yaml.SafeLoader("").construct_object(node, deep=True)) == str(value):
            return f"{path}:{line}"
    return None
