"""Bits per value by parameter, and what the packing costs in accuracy."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path

import eccodes
import numpy as np
import numpy.typing as npt
import yaml

from aifs_ensemble.errors import ConfigError
from aifs_ensemble.gribcode import FieldEncoder, grib_parameter
from aifs_ensemble.names import parameter_name

TABLE = Path(__file__).parents[2] / "config" / "packing.yaml"
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


@dataclass(frozen=True)
class PackingSummary:
    """What packing did to the fields of one parameter in a file.

    Attributes
    ----------
    bits : bits per value asked for (0 where all fields are constant)
    error : largest possible error in `units`, half a step of the coarsest packing
    stored_bits : bits per value that the compressed data take, on average over the fields
    """

    parameter: str
    units: str
    fields: int
    bits: int
    error: float
    stored_bits: float
    bytes: int


def packing_summary(grib: Path) -> dict[str, PackingSummary]:
    """Return what packing did to each parameter of a GRIB file, from its headers alone."""
    found: dict[str, list[tuple[str, int, float, int, int]]] = {}
    with open(grib, "rb") as file:
        while (handle := eccodes.codes_grib_new_from_file(file)) is not None:
            try:
                name, units, bits, scale, decimal, data, points, size = (
                    eccodes.codes_get(handle, key)
                    for key in (
                        "shortName",
                        "units",
                        "bitsPerValue",
                        "binaryScaleFactor",
                        "decimalScaleFactor",
                        "section7Length",
                        "numberOfValues",
                        "totalLength",
                    )
                )
            finally:
                eccodes.codes_release(handle)
            error = math.ldexp(0.5, scale) / 10**decimal if bits else 0.0
            found.setdefault(name, []).append((units, bits, error, 8 * (data - 5) / points, size))
    return {
        name: PackingSummary(
            parameter=name,
            units=rows[0][0],
            fields=len(rows),
            bits=max(row[1] for row in rows),
            error=max(row[2] for row in rows),
            stored_bits=sum(row[3] for row in rows) / len(rows),
            bytes=sum(row[4] for row in rows),
        )
        for name, rows in found.items()
    }


@dataclass(frozen=True)
class MeasuredError:
    """Difference between a field and what is read back, in GRIB units, and the size of its message."""

    largest: float
    rms: float
    deviation: float
    bytes: int


def measure_error(encoder: FieldEncoder, variable: str, lead: int, values: npt.NDArray[np.float32]) -> MeasuredError:
    """Return the error that packing makes in one field, float32 ``(value,)`` in the model's units.

    `deviation` is the field's own standard deviation, to compare with.
    """
    message = bytes(encoder.encode(variable, lead, values))
    handle = eccodes.codes_new_from_message(message)
    try:
        decoded = eccodes.codes_get_values(handle)
    finally:
        eccodes.codes_release(handle)
    meant = values.astype(np.float64) * grib_parameter(variable).factor
    difference = decoded - meant
    rms = float(np.sqrt(np.mean(difference**2)))
    return MeasuredError(float(np.abs(difference).max()), rms, float(meant.std()), len(message))
