"""Rows of the table of parameters, read and checked: what is wrong with one is a line that names it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from aifs_ensemble.common.daily import STATISTICS
from aifs_ensemble.common.errors import ConfigError
from aifs_ensemble.common.text import hint
from aifs_ensemble.common.yaml_tables import check_row

FEWEST_BITS, MOST_BITS = 8, 24
OTHER = "other"  # the range of levels that a row does not name
WAVES = "waves"
ON_ONE_LEVEL = ("surface", WAVES)
LEVTYPES = {"pressure": "pl", "soil": "sol", WAVES: "sfc", "surface": "sfc"}

Pair = tuple[float, float]


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
    template : number of GRIB2's product definition template of an ensemble member at a point in time
    units, factor : units of the models, and what takes them to those of GRIB
    bits, reason : bits per value in GRIB and why; None for what is not written
    ranges : smallest and largest plausible value of an analysis, by level; None for what is not read
    statistics : global mean and standard deviation, by level
    largest : largest value, of what a network divides by it
    accumulates : whether it is an amount over a period
    missing : ``sea`` or ``land``, where values may be missing; None for nowhere
    nameless : statistics over a day to which ecCodes gives the name of the field at a point in time
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
    template: int
    units: str
    factor: float
    bits: int | None
    reason: str
    ranges: Mapping[int | str, Pair] | None
    statistics: Mapping[int | str, Pair] | None
    largest: float | None
    accumulates: bool
    missing: str | None
    nameless: tuple[str, ...]
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
            raise ConfigError(f"parameters.yaml: {self.name}: no range for level {level}, expected one or {OTHER}")
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
    "nameless": list,
    "standard_name": str,
    "colors": str,
    "thresholds": list,
    "map": dict,
}
_MAP = {"title": str, "palette": str, "levels": list, "spread": list, "lines": _NUMBER}
_GRIB = {"shortName": str, "paramId": int, "units": str}
_GRIB_ON_ONE_LEVEL = {"typeOfLevel": str, "template": int}
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
    parameter = row_of(where, name, family, {**shared, **own})
    return replace(parameter, part=Part(part["of"], part["is"]), units="1")


def row_of(where: str, name: str, family: str, row: Any) -> Parameter:
    """Return a row of the table, checked."""
    check_row(row, where, _ROW, _ROW_OPTIONAL)
    grib = row["grib"]
    check_row(grib, f"{where}: grib", _GRIB, _GRIB_ON_ONE_LEVEL if family in ON_ONE_LEVEL else {})
    for key, choices in _CHOICES.items():
        if row.get(key, choices[-1]) not in choices:
            raise ConfigError(f"{where}: {key}: {row[key]!r}, expected {' or '.join(map(str, filter(None, choices)))}")
    if ("units" in row) != ("factor" in row):
        raise ConfigError(f"{where}: units and factor, expected both or neither: units of the model, and to GRIB's")
    if "bits" in row:
        check_bits(f"{where}: bits", row["bits"])
        if not row.get("reason"):
            raise ConfigError(f"{where}: reason is missing, expected why {row['bits']} bits, in one line")
    ranges, statistics = (_by_level(row.get(key), family, f"{where}: {key}") for key in ("range", "statistics"))
    for low, high in (ranges or {}).values():
        if not low < high:
            raise ConfigError(f"{where}: range: {low:g} to {high:g}, expected the smaller value first")
    return Parameter(
        name=name,
        family=family,
        levtype=LEVTYPES[family],
        part=None,
        short_name=grib["shortName"],
        param_id=grib["paramId"],
        grib_units=grib["units"],
        type_of_level=grib.get("typeOfLevel"),
        template=grib.get("template", 1),
        units=row.get("units", cf_units(grib["units"])),
        factor=float(row.get("factor", 1)),
        bits=row.get("bits"),
        reason=row.get("reason", ""),
        ranges=ranges,
        statistics=statistics,
        largest=row.get("largest"),
        accumulates=row.get("accumulates", False),
        missing=row.get("missing"),
        nameless=_statistics(row.get("nameless", []), f"{where}: nameless"),
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


def _statistics(names: Sequence[Any], where: str) -> tuple[str, ...]:
    for name in names:
        if name not in STATISTICS:
            raise ConfigError(f"{where}: {name!r}, expected some of {', '.join(STATISTICS)}")
    return tuple(names)


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
        if family in ON_ONE_LEVEL and level != OTHER:
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


def check_bits(what: str, bits: Any) -> None:
    if not (isinstance(bits, int) and FEWEST_BITS <= bits <= MOST_BITS):
        raise ConfigError(f"{what}: {bits!r} bits, expected {FEWEST_BITS} to {MOST_BITS}")


def rows_of(content: Mapping[str, Any], family: str, where: str) -> dict[str, Parameter]:
    """Return the rows of a family by name; ConfigError, in which `where` stands for the table, for a wrong one."""
    rows = {str(name): row for name, row in content.items()}
    return {
        name: _part_row(f"{where}: {family}: {name}", name, family, rows)
        if isinstance(row, dict) and "part" in row
        else row_of(f"{where}: {family}: {name}", name, family, row)
        for name, row in rows.items()
    }
