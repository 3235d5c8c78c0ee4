"""The configuration: read, checked against its schema, defaults filled in."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from copy import deepcopy
from datetime import datetime
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from aifs_ensemble.common import locations
from aifs_ensemble.common.errors import ConfigError
from aifs_ensemble.common.models import Model, get_model
from aifs_ensemble.common.names import Keys, Scratch, lead_hours, parse_cycle, parse_members
from aifs_ensemble.common.parameters import bits_for
from aifs_ensemble.delivery.blocks import check_layout

SCHEMA = Path(__file__).parents[3] / "config" / "config.schema.json"


@cache
def schema() -> dict[str, Any]:
    """Return the JSON schema of the configuration."""
    return json.loads(SCHEMA.read_text())


def read_files(*paths: Path) -> dict[str, Any]:
    """Return the configuration in YAML files, later ones over earlier ones; ConfigError for one that is none."""
    merged: dict[str, Any] = {}
    for path in paths:
        try:
            content = read_yaml(path.read_text(encoding="utf-8"), str(path))
        except FileNotFoundError:
            raise ConfigError(f"{path}: no such configuration file") from None
        except OSError as error:
            raise ConfigError(f"{path}: {error.strerror}, expected a configuration file") from None
        except UnicodeDecodeError as error:
            raise ConfigError(
                f"{path}: byte {error.start} is no UTF-8, expected a text file of keys and values"
            ) from None
        if not isinstance(content, Mapping):
            raise ConfigError(f"{path}: {type(content).__name__}, expected keys and values")
        merge(merged, content)
    return merged


def read_yaml(text: str, where: str, loader: type[Any] = yaml.SafeLoader) -> Any:
    """Return the content of YAML; ConfigError naming `where` it stands when it is none."""
    try:
        return yaml.load(text, Loader=loader)
    except (yaml.YAMLError, ValueError) as error:  # the latter of a date such as 2025-02-30
        raise ConfigError(f"{where}: not valid YAML ({' '.join(str(error).split())})") from None


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


def takes_text(key: str) -> bool:
    """Tell whether the schema has nothing but a text, or null, for a key such as ``forecast.device``."""
    node = schema()
    for part in key.split("."):
        node = node.get("properties", {}).get(part, {})
    return bool(_kinds(node)) and _kinds(node) <= {"string", "null"}


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
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"config: {key}: {value!r}, expected {_expected(node)}, finite")
    import jsonschema  # heavy to import, and needed only here

    error = jsonschema.exceptions.best_match(jsonschema.Draft202012Validator(dict(node)).iter_errors(value))
    if error is None:
        return
    if error.absolute_path and isinstance(value, Mapping):  # a key that no schema names, such as a parameter to pack
        full = ".".join([key, *map(str, error.absolute_path)])
        raise ConfigError(f"config: {full}: {error.instance!r}, expected {_expected(error.schema)}")
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
        locations.settle(values)
        check_layout(values, self.model.timestep_hours)
        _check_variables(values, self.model)

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


def _check_variables(values: Mapping[str, Any], model: Model) -> None:
    """Raise ConfigError for a key that names something which the model does not make."""
    if values["forecast"]["packing"]:
        bits_for(model.outputs, values["forecast"]["packing"])
    field = values["report"]["field"]
    if field not in model.outputs:
        near = get_close_matches(field, model.outputs, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"such as {model.outputs[0]}"
        raise ConfigError(f"config: report.field: {field!r}, expected a variable that {model.name} makes, {hint}")


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
    other = node.get("additionalProperties")
    free = dict.fromkeys(value, other) if isinstance(other, Mapping) else {}
    for name, child in {**free, **node.get("properties", {})}.items():
        item = value.get(name)
        if isinstance(item, dict):
            _coerce_texts(item, child)
        elif isinstance(item, str) and item in _TEXTS and "boolean" in child.get("type", ()):
            value[name] = _TEXTS[item]
        elif isinstance(item, str) and re.fullmatch(r"-?\d+(\.\d+)?", item) and _only_number(child):
            value[name] = float(item) if "." in item else int(item)
        elif isinstance(item, float) and item.is_integer() and _only_integer(child):
            value[name] = int(item)
        elif item == "null" and "null" in child.get("type", ()):
            value[name] = None


_TEXTS = {"true": True, "false": False}


def _kinds(node: Mapping[str, Any]) -> set[str]:
    kinds = node.get("type", ())
    return {kinds} if isinstance(kinds, str) else set(kinds)


def _only_number(node: Mapping[str, Any]) -> bool:
    return bool(_kinds(node) & {"integer", "number"}) and "string" not in _kinds(node)


def _only_integer(node: Mapping[str, Any]) -> bool:
    return "integer" in _kinds(node) and "number" not in _kinds(node)
