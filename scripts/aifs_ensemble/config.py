"""The configuration: read, checked against its schema, defaults filled in."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from copy import deepcopy
from datetime import datetime
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from aifs_ensemble.errors import ConfigError
from aifs_ensemble.models import Model, get_model
from aifs_ensemble.names import Keys, Scratch, lead_hours, parse_cycle, parse_members

SCHEMA = Path(__file__).parents[2] / "config" / "config.schema.json"


@cache
def schema() -> dict[str, Any]:
    """Return the JSON schema of the configuration."""
    return json.loads(SCHEMA.read_text())


def read_files(*paths: Path) -> dict[str, Any]:
    """Return the configuration in YAML files, later ones over earlier ones; ConfigError on bad YAML."""
    merged: dict[str, Any] = {}
    for path in paths:
        try:
            content = yaml.safe_load(path.read_text())
        except FileNotFoundError:
            raise ConfigError(f"{path}: no such configuration file") from None
        except yaml.YAMLError as error:
            reason = " ".join(str(error).split())
            raise ConfigError(f"{path}: not valid YAML ({reason})") from None
        if not isinstance(content, Mapping):
            raise ConfigError(f"{path}: {type(content).__name__}, expected keys and values")
        merge(merged, content)
    return merged


def merge(base: dict[str, Any], over: Mapping[str, Any]) -> None:
    """Put `over` into `base`, mappings key by key."""
    for key, value in over.items():
        if isinstance(value, Mapping) and isinstance(base.get(key), dict):
            merge(base[key], value)
        else:
            base[key] = deepcopy(value)


def _all_keys(node: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for name, child in node.get("properties", {}).items():
        yield prefix + name
        yield from _all_keys(child, f"{prefix}{name}.")


def _nearest(key: str, name: str) -> str:
    """Return what an unknown key may have meant: the same name elsewhere, else a near one, those beside it first."""
    known = list(_all_keys(schema()))
    parent = key.rpartition(".")[0]
    if same := [repr(full) for full in known if full.rpartition(".")[2] == name]:
        return f"did you mean {' or '.join(same)}?"
    here = {full.rpartition(".")[2]: full for full in known if full.rpartition(".")[0] == parent}
    everywhere = {full.rpartition(".")[2]: full for full in reversed(known)} | here
    # a slip of the pen anywhere is likelier than a distant likeness close by
    for pool, cutoff in ((here, 0.75), (everywhere, 0.75), (here, 0.5), (everywhere, 0.5)):
        if near := get_close_matches(name, pool, n=1, cutoff=cutoff):
            return f"did you mean {pool[near[0]]!r}?"
    return f"known here are {', '.join(here)}"


def _check(value: Any, node: Mapping[str, Any], key: str) -> None:
    if "properties" in node and isinstance(value, Mapping):
        for name, item in value.items():
            full = f"{key}.{name}" if key else str(name)
            if name in node["properties"]:
                _check(item, node["properties"][name], full)
            else:
                raise ConfigError(f"config: unknown key {full!r}, {_nearest(full, str(name))}")
        for name in node.get("required", ()):
            if name not in value:
                full = f"{key}.{name}" if key else name
                raise ConfigError(f"config: {full} is missing: {node['properties'][name].get('description', '')}")
        return
    import jsonschema  # heavy to import, and needed only here

    error = jsonschema.exceptions.best_match(jsonschema.Draft202012Validator(dict(node)).iter_errors(value))
    if error is not None:
        raise ConfigError(f"config: {key}: {value!r}, expected {_expected(node)}")


def _expected(node: Mapping[str, Any]) -> str:
    if "enum" in node:
        return "one of " + ", ".join(map(str, node["enum"]))
    types = node.get("type", "a value")
    text = " or ".join(types) if isinstance(types, list) else types
    bounds = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "multipleOf": "a multiple of"}
    limits = [f"{word} {node[name]}" for name, word in bounds.items() if name in node]
    if isinstance(node.get("items"), Mapping):
        limits.append(f"of {_expected(node['items'])}")
    return ", ".join([text, *limits])


def _fill(value: dict[str, Any], node: Mapping[str, Any]) -> None:
    for name, child in node.get("properties", {}).items():
        if name not in value and "default" in child:
            value[name] = deepcopy(child["default"])
        if isinstance(value.get(name), dict):
            _fill(value[name], child)


class Config(Mapping[str, Any]):
    """A checked configuration: a read-only mapping, with what is derived from it as properties.

    Raises ConfigError, one line, naming the key, its value and what was expected.
    """

    def __init__(self, raw: Mapping[str, Any]):
        values = json.loads(json.dumps(raw, default=str))
        _coerce(values)
        _check(values, schema(), "")
        _fill(values, schema())
        self._values = values
        self.model: Model = get_model(values["model"])
        self.cycle_time: datetime = parse_cycle(values["cycle"])
        if self.cycle_time.hour % 6 or self.cycle_time.minute:
            raise ConfigError(f"config: cycle: {values['cycle']!r}, expected hour 00, 06, 12 or 18")
        self.members = parse_members(values["members"])
        self.leads = lead_hours(values["lead_hours"], self.model.timestep_hours)
        minimum = values["min_members"]
        if minimum is not None and minimum > len(self.members):
            raise ConfigError(f"config: min_members: {minimum}, expected at most the {len(self.members)} members")
        self.min_members = len(self.members) if minimum is None else minimum
        if self.members[-1] > values["ensemble_size"]:
            raise ConfigError(f"config: members: {self.members[-1]} is above ensemble_size {values['ensemble_size']}")
        if values["initial_conditions"]["source"] == "file" and not values["initial_conditions"]["file"].get("path"):
            raise ConfigError("config: initial_conditions.file.path is missing: source is file")

    def __getitem__(self, key: str) -> Any:
        return self._values[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    @property
    def cycle(self) -> str:
        return self["cycle"]

    @property
    def scratch(self) -> Scratch:
        return Scratch(Path(self["scratch"]), self.cycle)

    @property
    def keys_(self) -> Keys:
        return Keys(self.cycle)

    @property
    def cache(self) -> Path:
        return Path(self["initial_conditions"]["cache"] or Path(self["scratch"]) / "cache")

    @property
    def cloud_destination(self) -> bool:
        return str(self["destination"] or "").startswith("gs://")


def _coerce(values: dict[str, Any]) -> None:
    """Undo what YAML and Snakemake's command line do to values: numbers that are names, texts that are numbers."""
    precision = values.get("forecast", {}).get("precision") if isinstance(values.get("forecast"), dict) else None
    if isinstance(precision, int) and not isinstance(precision, bool):
        values["forecast"]["precision"] = str(precision)
    # YAML reads 20250819_0000 as a number with a separator
    if re.fullmatch(r"\d{12}", str(values.get("cycle"))):
        values["cycle"] = f"{str(values['cycle'])[:8]}_{str(values['cycle'])[8:]}"
    _coerce_texts(values, schema())


def _coerce_texts(value: Any, node: Mapping[str, Any]) -> None:
    """Turn texts such as ``true`` and ``12`` of nested command-line values into what the schema asks for."""
    if not isinstance(value, dict):
        return
    for name, child in node.get("properties", {}).items():
        item = value.get(name)
        if isinstance(item, dict):
            _coerce_texts(item, child)
        elif isinstance(item, str) and item in _TEXTS and "boolean" in child.get("type", ()):
            value[name] = _TEXTS[item]
        elif isinstance(item, str) and re.fullmatch(r"-?\d+(\.\d+)?", item) and _only_number(child):
            value[name] = float(item) if "." in item else int(item)
        elif item == "null" and "null" in child.get("type", ()):
            value[name] = None


_TEXTS = {"true": True, "false": False}


def _only_number(node: Mapping[str, Any]) -> bool:
    kinds = node.get("type", ())
    kinds = {kinds} if isinstance(kinds, str) else set(kinds)
    return bool(kinds & {"integer", "number"}) and "string" not in kinds
