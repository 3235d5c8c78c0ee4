"""The table of parameters: what each is called in GRIB, how it is packed, what is plausible, how it is drawn.

A variable of a model is a parameter on a level: ``t_500`` is ``t`` on 500 hPa, ``stl1`` is ``stl`` in soil layer 1,
``2t`` is ``2t``. The table is config/parameters.yaml, whose first lines explain its keys.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from aifs_ensemble.common.errors import ConfigError
from aifs_ensemble.common.text import hint
from aifs_ensemble.common.yaml_tables import check_row, read_table

TABLE = Path(__file__).parents[3] / "config" / "parameters.yaml"
FEWEST_BITS, MOST_BITS = 8, 24
# what products make of two components; the names are ECMWF's
OTHER = "other"  # the range of levels that a row does not name

Pair = tuple[float, float]
_LEVTYPES = {"pressure": "pl", "soil": "sol", "waves": "sfc", "surface": "sfc"}
WAVES = "waves"
_ON_ONE_LEVEL = ("surface", WAVES)
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


@dataclass(frozen=True)
class MapStyle:
    """How a parameter is drawn, in units that people use; empty or None where it follows from the statistics.

    Attributes
    ----------
    title : what people call it
    palette : name of its colours
    levels : between colours
    spread : levels of the standard deviation of an ensemble
    lines : distance of contour lines
    """

    title: str
    palette: str | None = None
    levels: tuple[float, ...] = ()
    spread: tuple[float, ...] = ()
    lines: float | None = None


@dataclass(frozen=True)
class Part:
    """What a model has of a direction: the ``cosine`` or ``sine`` of `of`, which is what GRIB has."""

    of: str
    kind: str


@dataclass(frozen=True)
class Parameter:
    """One row of the table.

    Attributes
    ----------
    name : in the models, without the level
    family : ``pressure``, ``soil``, ``waves`` or ``surface``
    levtype : ``sfc``, ``pl`` or ``sol``
    part : of which direction it is the cosine or sine; GRIB's names and units are then those of the direction
    short_name, param_id, grib_units : ECMWF's names of it in GRIB2, its units as delivered
    type_of_level : of a field on one level; None where the parameter implies it
    units, factor : units of the models, and what takes them to those of GRIB
    bits, reason : bits per value in GRIB and why; None for what is not written
    ranges : smallest and largest plausible value of an analysis, by level; None for what is not read
    statistics : global mean and standard deviation, by level
    largest : largest value, of what a network divides by it
    accumulates : whether it is an amount over a period
    missing : ``sea`` or ``land``, where values may be missing; None for nowhere
    standard_name : CF name of what is delivered
    colors : ``diverging`` or ``sequential``
    thresholds : of probabilities, in units of GRIB
    map : how it is drawn
    """

    name: str
    family: str
    levtype: str
    part: Part | None
    short_name: str
    param_id: int
    grib_units: str
    type_of_level: str | None
    units: str
    factor: float
    bits: int | None
    reason: str
    ranges: Mapping[int | str, Pair] | None
    statistics: Mapping[int | str, Pair] | None
    largest: float | None
    accumulates: bool
    missing: str | None
    standard_name: str | None
    colors: str
    thresholds: tuple[float, ...]
    map: MapStyle

    @property
    def cf_units(self) -> str:
        """Units as delivered, as CF spells them."""
        return cf_units(self.grib_units)

    def plausible(self, level: int) -> Pair:
        """Return smallest and largest plausible value on a level, in the models' units; ConfigError without any."""
        limits = (self.ranges or {}).get(level, (self.ranges or {}).get(OTHER))
        if limits is None:
            raise ConfigError(f"{TABLE.name}: {self.name}: no range for level {level}, expected one or {OTHER}")
        return limits


def cf_units(grib: str) -> str:
    """Return units that GRIB spells ``m s**-1`` as CF spells them: ``m s-1``; ``1`` for what has none."""
    return {"(0 - 1)": "1", "Numeric": "1", "dimensionless": "1"}.get(grib, grib.replace("**", ""))


_NUMBER = (int, float)
_ROW = {"grib": dict}
_PART_ROW = {"part": dict}
_PART = {"of": str, "is": str}
_ROW_OPTIONAL = {
    "units": str,
    "factor": _NUMBER,
    "bits": int,
    "reason": str,
    "range": (list, dict),
    "statistics": (list, dict),
    "largest": _NUMBER,
    "accumulates": bool,
    "missing": (str, type(None)),
    "standard_name": str,
    "colors": str,
    "thresholds": list,
    "map": dict,
}
_MAP = {"title": str, "palette": str, "levels": list, "spread": list, "lines": _NUMBER}
_GRIB = {"shortName": str, "paramId": int, "units": str}
_PART_OPTIONAL = {key: _ROW_OPTIONAL[key] for key in ("range", "statistics")}
MISSING = ("sea", "land")
_CHOICES = {"missing": (*MISSING, None), "colors": ("diverging", "sequential")}


def _part_row(where: str, name: str, family: str, rows: Mapping[str, Any]) -> Parameter:
    """Return a row that is the cosine or sine of another one of its family, checked."""
    row = rows[name]
    check_row(row, where, _PART_ROW, _PART_OPTIONAL)
    check_row(part := row["part"], f"{where}: part", _PART, {})
    if part["is"] not in ("cosine", "sine"):
        raise ConfigError(f"{where}: part.is: {part['is']!r}, expected cosine or sine")
    if not isinstance(whole := rows.get(part["of"]), dict) or "part" in whole:
        raise ConfigError(f"{where}: part.of: {part['of']!r}, {hint(part['of'], rows, 'expected a row beside it')}")
    own = {key: row[key] for key in _PART_OPTIONAL if key in row}
    shared = {key: whole[key] for key in ("grib", "missing") if key in whole}
    parameter = _row(where, name, family, {**shared, **own})
    return replace(parameter, part=Part(part["of"], part["is"]), units="1")


def _row(where: str, name: str, family: str, row: Any) -> Parameter:
    """Return a row of the table, checked."""
    check_row(row, where, _ROW, _ROW_OPTIONAL)
    grib = row["grib"]
    check_row(grib, f"{where}: grib", _GRIB, {"typeOfLevel": str} if family in _ON_ONE_LEVEL else {})
    for key, choices in _CHOICES.items():
        if row.get(key, choices[-1]) not in choices:
            raise ConfigError(f"{where}: {key}: {row[key]!r}, expected {' or '.join(map(str, filter(None, choices)))}")
    if ("units" in row) != ("factor" in row):
        raise ConfigError(f"{where}: units and factor, expected both or neither: units of the model, and to GRIB's")
    if "bits" in row:
        _check_bits(f"{where}: bits", row["bits"])
        if not row.get("reason"):
            raise ConfigError(f"{where}: reason is missing, expected why {row['bits']} bits, in one line")
    ranges, statistics = (_by_level(row.get(key), family, f"{where}: {key}") for key in ("range", "statistics"))
    for low, high in (ranges or {}).values():
        if not low < high:
            raise ConfigError(f"{where}: range: {low:g} to {high:g}, expected the smaller value first")
    return Parameter(
        name=name,
        family=family,
        levtype=_LEVTYPES[family],
        part=None,
        short_name=grib["shortName"],
        param_id=grib["paramId"],
        grib_units=grib["units"],
        type_of_level=grib.get("typeOfLevel"),
        units=row.get("units", cf_units(grib["units"])),
        factor=float(row.get("factor", 1)),
        bits=row.get("bits"),
        reason=row.get("reason", ""),
        ranges=ranges,
        statistics=statistics,
        largest=row.get("largest"),
        accumulates=row.get("accumulates", False),
        missing=row.get("missing"),
        standard_name=row.get("standard_name"),
        colors=row.get("colors", "sequential"),
        thresholds=_numbers(row.get("thresholds", []), f"{where}: thresholds"),
        map=_map_style(f"{where}: map", row.get("map", {}), row.get("standard_name", name)),
    )


def _map_style(where: str, row: Any, name: str) -> MapStyle:
    check_row(row, where, {}, _MAP)
    levels, spread = (_numbers(row.get(key, []), f"{where}: {key}") for key in ("levels", "spread"))
    for key, values in (("levels", levels), ("spread", spread)):
        if any(high <= low for low, high in pairwise(values)):
            raise ConfigError(f"{where}: {key}: {list(values)}, expected numbers that grow")
    title = row.get("title", name.replace("_", " ").capitalize())
    return MapStyle(title, row.get("palette"), levels, spread, row.get("lines"))


def _numbers(values: Any, where: str) -> tuple[float, ...]:
    if isinstance(values, list) and all(isinstance(v, _NUMBER) and not isinstance(v, bool) for v in values):
        return tuple(map(float, values))
    raise ConfigError(f"{where}: {values!r}, expected numbers")


def _by_level(value: Any, family: str, where: str) -> Mapping[int | str, Pair] | None:
    """Return pairs of numbers by level, under `OTHER` what is the same for all."""
    if value is None:
        return None
    by_level = {OTHER: value} if isinstance(value, list) else value
    for level in by_level:
        if family in _ON_ONE_LEVEL and level != OTHER:
            raise ConfigError(f"{where}: level {level!r}, expected two numbers and no levels")
        if level != OTHER and type(level) is not int:
            raise ConfigError(f"{where}: level {level!r}, expected a whole number or {OTHER}")
    pairs: dict[int | str, Pair] = {}
    for level, pair in by_level.items():
        numbers = _numbers(pair, where)
        if len(numbers) != 2:
            raise ConfigError(f"{where}: {pair!r}, expected two numbers")
        pairs[level] = (numbers[0], numbers[1])
    return pairs


def _check_bits(what: str, bits: Any) -> None:
    if not (isinstance(bits, int) and FEWEST_BITS <= bits <= MOST_BITS):
        raise ConfigError(f"{what}: {bits!r} bits, expected {FEWEST_BITS} to {MOST_BITS}")


@cache
def read_parameters(path: Path = TABLE) -> Mapping[str, Mapping[str, Parameter]]:
    """Return the rows by family (``pressure``, ``soil``, ``waves``, ``surface``) and name; ConfigError if wrong."""
    content = read_table(path, "a table of parameters")
    check_row(content, path.name, dict.fromkeys(_LEVTYPES, dict), {})
    table: dict[str, Mapping[str, Parameter]] = {}
    for family in _LEVTYPES:
        rows = {str(name): row for name, row in content[family].items()}
        table[family] = {
            name: _part_row(f"{path.name}: {family}: {name}", name, family, rows)
            if isinstance(row, dict) and "part" in row
            else _row(f"{path.name}: {family}: {name}", name, family, row)
            for name, row in rows.items()
        }
    return table


def split_variable(variable: str) -> tuple[str, int]:
    """Return a variable without its pressure level, and the level: ``t_500`` gives ("t", 500), ``2t`` ("2t", 0)."""
    match = _PRESSURE.fullmatch(variable)
    return (match[1], int(match[2])) if match else (variable, 0)


def has_row(variable: str) -> bool:
    """Return whether the table has a row for a variable of a model."""
    return _find(variable, TABLE) is not None


def _find(variable: str, path: Path) -> tuple[Parameter, int] | None:
    table = read_parameters(path)
    for family in _ON_ONE_LEVEL:
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
        meant = hint(variable, rows, f"expected one under {', '.join(_LEVTYPES)}")
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
    """Return whether values of a field in GRIB may be missing; not of one that the table has no row for."""
    found = _find(variable_name(field), TABLE)
    return found is not None and found[0].missing is not None


def parts_of(variable: str, path: Path = TABLE) -> tuple[str, ...]:
    """Return what the models have of a field: cosine and sine of a direction, in this order; else the field itself."""
    found = [row for rows in read_parameters(path).values() for row in rows.values() if row.part]
    parts = {row.part.kind: row.name for row in found if row.part and row.part.of == variable}
    return (parts["cosine"], parts["sine"]) if len(parts) == 2 else (variable,)


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
        _check_bits(f"config: forecast.packing.{key}", bits)
    chosen = {}
    for name in names:
        own = parameter_of(name).bits
        if own is None:
            raise ConfigError(f"{name!r} is written, expected bits in its row of {TABLE.name}")
        chosen[name] = overrides.get(name, overrides.get(split_variable(name)[0], own))
    return chosen
