"""The table of parameters: what each is called in GRIB, how it is packed, what is plausible, how it is drawn.

A variable of a model is a parameter on a level: ``t_500`` is ``t`` on 500 hPa, ``stl1`` is ``stl`` in soil layer 1,
``2t`` is ``2t``. The table is config/parameters.yaml, whose first lines explain its keys.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from aifs_ensemble.common.daily import split_name
from aifs_ensemble.common.errors import ConfigError
from aifs_ensemble.common.parameter_rows import LEVTYPES, ON_ONE_LEVEL, OTHER, WAVES, Parameter, check_bits, rows_of
from aifs_ensemble.common.text import hint
from aifs_ensemble.common.yaml_tables import check_row, read_table

TABLE = Path(__file__).parents[3] / "config" / "parameters.yaml"
_PRESSURE = re.compile(r"([a-z]+)_(\d+)")
_SOIL = re.compile(r"([a-z]+)(\d+)")
_LIKE = {"pressure": "_500", "soil": "1", WAVES: "", "surface": ""}  # to hint at a variable by


@dataclass(frozen=True, order=True)
class FieldName:
    """A field as GRIB and indexes name it: short name, level type (sfc, sol or pl), level (0 at the surface)."""

    name: str
    levtype: str
    level: int = 0

    def __str__(self) -> str:
        return f"{self.name} {self.level}" if self.level else self.name


@cache
def read_parameters(path: Path = TABLE) -> Mapping[str, Mapping[str, Parameter]]:
    """Return the rows by family (``pressure``, ``soil``, ``waves``, ``surface``) and name; ConfigError if wrong."""
    content = read_table(path, "a table of parameters")
    check_row(content, path.name, dict.fromkeys(LEVTYPES, dict), {})
    return {family: rows_of(content[family], family, path.name) for family in LEVTYPES}


def split_variable(variable: str) -> tuple[str, int]:
    """Return a variable without its pressure level, and the level: ``t_500`` gives ("t", 500), ``2t`` ("2t", 0)."""
    match = _PRESSURE.fullmatch(variable)
    return (match[1], int(match[2])) if match else (variable, 0)


def has_row(variable: str) -> bool:
    """Return whether the table has a row for a variable of a model."""
    return _find(variable, TABLE) is not None


def _find(variable: str, path: Path) -> tuple[Parameter, int] | None:
    table = read_parameters(path)
    for family in ON_ONE_LEVEL:
        if variable in table[family]:
            return table[family][variable], 0
    for family, pattern in (("pressure", _PRESSURE), ("soil", _SOIL)):
        match = pattern.fullmatch(variable)
        if match and match[1] in table[family]:
            return table[family][match[1]], int(match[2])
    return None


def find_variable(variable: str, path: Path = TABLE) -> tuple[Parameter, int]:
    """Return the parameter that a variable is, and its level (0 at the surface); ConfigError if it has no row."""
    found = _find(variable, path)
    if found is None:
        rows = [f"{name}{_LIKE[family]}" for family, names in read_parameters(path).items() for name in names]
        meant = hint(variable, rows, f"expected one under {', '.join(LEVTYPES)}")
        raise ConfigError(f"{variable!r} has no row in {path.name}, {meant}")
    return found


def parameter_of(variable: str) -> Parameter:
    """Return the parameter that a variable of a model is; ConfigError if the table has no row for it."""
    return find_variable(variable)[0]


def field_name(variable: str) -> FieldName:
    """Return how GRIB names a variable of a model: ``stl1`` is ``sot`` in soil layer 1."""
    parameter, level = find_variable(variable)
    return FieldName(parameter.short_name, parameter.levtype, level)


_WINDS = frozenset({"u", "v", "10u", "10v", "100u", "100v"})


def variable_name(field: FieldName) -> str:
    """Return the variable of the models that a field is, before any conversion; for others their own name.

    Soil temperature is ``sot`` in soil layer 1 or 2 in open data, ``stl1`` and ``stl2`` in older GRIB.
    """
    if field.levtype == "pl":
        return f"{field.name}_{field.level}"
    if field.levtype == "sol":
        return f"{_names('soil').get(field.name, field.name)}{field.level}"
    if field.levtype != "sfc":
        return f"{field.name} on {field.levtype} {field.level}"  # of no model: nothing is taken for it
    return _names(WAVES).get(field.name) or _names("surface").get(field.name, field.name)


def is_wind(variable: str) -> bool:
    """Return whether a variable of a model is a component of the wind."""
    return variable.partition("_")[0] in _WINDS


def in_soil(short_name: str) -> bool:
    """Return whether a short name of GRIB is that of a parameter in soil layers."""
    return short_name in _names("soil")


@cache
def _names(family: str) -> Mapping[str, str]:
    rows = read_parameters()[family].items()
    return {parameter.short_name: name for name, parameter in rows if parameter.part is None}


def may_miss(field: FieldName) -> bool:
    """Return whether values of a field in GRIB may be missing; not of one that the table has no row for.

    A statistic over time may miss those that its parameter may.
    """
    found = _find(variable_name(replace(field, name=split_name(field.name)[0])), TABLE)
    return found is not None and found[0].missing is not None


def parts_of(variable: str, path: Path = TABLE) -> tuple[str, ...]:
    """Return what the models have of a field: cosine and sine of a direction, in this order; else the field itself."""
    found = [row for rows in read_parameters(path).values() for row in rows.values() if row.part]
    parts = {row.part.kind: row.name for row in found if row.part and row.part.of == variable}
    return (parts["cosine"], parts["sine"]) if len(parts) == 2 else (variable,)


def is_direction(variable: str, path: Path = TABLE) -> bool:
    """Return whether a field holds degrees of a direction, of which means are made by its cosine and sine."""
    return parts_of(variable, path) != (variable,)


def delivered(variables: Iterable[str], path: Path = TABLE) -> tuple[str, ...]:
    """Return the fields that are delivered of what a model makes, sorted: a direction in place of its parts."""
    rows = ((name, find_variable(name, path)[0]) for name in variables)
    return tuple(sorted({row.part.of if row.part else name for name, row in rows}))


def check_variables(where: str, read: Iterable[str], written: Collection[str], path: Path = TABLE) -> None:
    """Raise ConfigError, naming `where` a model stands, for the first of its variables whose row does not suffice."""
    for variable in dict.fromkeys([*read, *written]):
        try:
            parameter, level = find_variable(variable, path)
        except ConfigError as error:
            raise ConfigError(f"{where}: variables: {error}") from None
        field = parameter.part.of if parameter.part else variable
        if lacking := [one for one in parts_of(field, path) if parameter.part and one not in written]:
            raise ConfigError(f"{where}: variables: {variable!r} without {lacking[0]!r}, expected both or neither")
        if variable in written and find_variable(field, path)[0].bits is None:
            raise ConfigError(f"{where}: variables: {field!r} is written, expected bits in its row of {path.name}")
        if variable in read and not {level, OTHER} & set(parameter.ranges or ()):
            raise ConfigError(f"{where}: variables: {variable!r} is read, expected a range in its row of {path.name}")


def accumulated(variables: Iterable[str], path: Path = TABLE) -> tuple[str, ...]:
    """Return those of `variables` that are amounts over a period, sorted."""
    return tuple(sorted(name for name in variables if find_variable(name, path)[0].accumulates))


def bits_for(variables: Iterable[str], overrides: Mapping[str, int] | None = None) -> dict[str, int]:
    """Return the bits per value of each variable.

    `overrides` are by variable (``t_500``) or parameter (``t``), the former going first. Raises
    ConfigError for an override that fits no variable and for a variable without bits in the table.
    """
    names, overrides = list(variables), overrides or {}
    known = {*names, *(split_variable(name)[0] for name in names)}
    for key, bits in overrides.items():
        if key not in known:
            meant = hint(key, known, "expected a parameter or variable of the model")
            raise ConfigError(f"config: forecast.packing.{key}: not written by this model, {meant}")
        check_bits(f"config: forecast.packing.{key}", bits)
    chosen = {}
    for name in names:
        own = parameter_of(name).bits
        if own is None:
            raise ConfigError(f"{name!r} is written, expected bits in its row of {TABLE.name}")
        chosen[name] = overrides.get(name, overrides.get(split_variable(name)[0], own))
    return chosen
