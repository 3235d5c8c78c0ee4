"""Bits per value by parameter: the table, and what a configuration puts over it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path

import yaml

from aifs_ensemble.common.errors import ConfigError
from aifs_ensemble.common.names import parameter_name

TABLE = Path(__file__).parents[3] / "config" / "packing.yaml"
FEWEST_BITS, MOST_BITS = 8, 24


@dataclass(frozen=True)
class PackingRule:
    """Bits per value of one parameter and why."""

    bits: int
    reason: str


@cache
def packing_table(path: Path = TABLE) -> Mapping[str, PackingRule]:
    """Return the rules by parameter; ConfigError naming the entry that is wrong."""
    rules = {}
    for name, entry in yaml.safe_load(path.read_text())["parameters"].items():
        rule = PackingRule(**entry)
        _check(f"{path.name}: {name}", rule.bits)
        if not rule.reason:
            raise ConfigError(f"{path.name}: {name}: no reason given, expected one line")
        rules[str(name)] = rule
    return rules


def _check(what: str, bits: int) -> None:
    if not (isinstance(bits, int) and FEWEST_BITS <= bits <= MOST_BITS):
        raise ConfigError(f"{what}: {bits!r} bits, expected {FEWEST_BITS} to {MOST_BITS}")


def bits_for(
    variables: Iterable[str], overrides: Mapping[str, int] | None = None, path: Path = TABLE
) -> dict[str, int]:
    """Return the bits per value of each variable.

    `overrides` are by variable (``t_500``) or parameter (``t``), the former going first. Raises
    ConfigError for an override that fits no variable and for a variable in no table.
    """
    names, table, overrides = list(variables), packing_table(path), overrides or {}
    known = {*names, *map(parameter_name, names)}
    for key, bits in overrides.items():
        if key not in known:
            near = get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else "expected a parameter or variable of the model"
            raise ConfigError(f"config: forecast.packing.{key}: not written by this model, {hint}")
        _check(f"config: forecast.packing.{key}", bits)
    chosen = {}
    for name in names:
        parameter = parameter_name(name)
        if parameter not in table:
            raise ConfigError(f"{path.name}: {parameter} has no entry, expected its bits per value and a reason")
        chosen[name] = overrides.get(name, overrides.get(parameter, table[parameter].bits))
    return chosen
