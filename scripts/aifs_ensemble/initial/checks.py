"""Physical checks of an initial state: ranges, and consistency between its fields and its two times.

Each check has a name and says what it found against its threshold, so that a mistake is caught by name:
surface pressure copied from sea level, levels in the wrong order, times 24 h apart, and so on.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from aifs_ensemble.common.errors import InputError
from aifs_ensemble.common.parameters import find_variable, parameter_of, split_variable
from aifs_ensemble.fields.grids import grid_coordinates
from aifs_ensemble.fields.state import State
from aifs_ensemble.initial import derive
from aifs_ensemble.initial.constants import GAS_CONSTANT, GRAVITY

LOG = logging.getLogger(__name__)

Field = npt.NDArray[np.floating[Any]]
_SHOWN = 4  # failures spelt out in the error line

# Relative difference between surface pressure and what the hypsometric equation gives, root mean square by area.
# A GFS analysis has 0.003 (0.007 on high ground); surface pressure copied from msl has 0.10 (0.28).
SURFACE_PRESSURE = 0.015
SURFACE_PRESSURE_HIGH_GROUND = 0.03
HIGH_GROUND = 500.0  # m

# The same against the geopotential of the pressure levels: a GFS analysis has 0.0003.
SURFACE_PRESSURE_PROFILE = 0.01

# Relative difference between a layer's thickness and that of its mean virtual temperature, root mean square.
# A GFS analysis on these levels has at most 0.008.
THICKNESS = 0.025

# 2 m dew point above 2 m temperature: by how much (K), on what share of the globe.
DEW_POINT_EXCESS = 0.5
DEW_POINT_SHARE = 0.01

# Land-sea mask from which on a point is land and must have snow and soil water.
COAST = 0.5
# Share of the sea without waves. ERA5 has none where ice covers half of it; ice covers less than a tenth in all.
SEA_ICE = 0.15

# Root mean square change from T-6h to T by area. Seen: 6 h (GFS-based replica), 12 h and 24 h (ERA5).
#          6 h    12 h   24 h
# z_500    221    390    625    m2 s-2
# t_500    1.1    2.3    3.3    K
# t_850    1.4    2.3    3.0    K
# msl      204                  Pa
CHANGES: dict[str, float] = {"z_500": 330, "t_500": 1.9, "t_850": 2.2, "msl": 420}


@dataclass(frozen=True)
class Outcome:
    """What one check found, `when` being "at T-6h", "at T" or empty for a check of both."""

    check: str
    when: str
    ok: bool
    found: str
    expected: str

    def __str__(self) -> str:
        return f"{self.check} {self.when}".rstrip() + f": {self.found}, expected {self.expected}"


@dataclass(frozen=True, eq=False)
class _View:
    """Fields of one time by variable, float32 ``(value,)``, and the area weights of their grid."""

    fields: Mapping[str, Field]
    weights: Field
    levels: tuple[int, ...]  # hPa, from the ground up
    missing: Mapping[str, str]  # where values may be missing, by variable
    label: str

    def mean(self, values: Field, where: npt.NDArray[np.bool_] | None = None) -> float:
        weights = self.weights if where is None else np.where(where, self.weights, 0)
        total = float(weights.sum())
        return float((weights * values).sum()) / total if total else 0.0

    def rms(self, values: Field, where: npt.NDArray[np.bool_] | None = None) -> float:
        return float(np.sqrt(self.mean(np.square(values, dtype=float), where)))

    def has(self, *names: str) -> bool:
        return all(name in self.fields for name in names)


def _range(variable: str, view: _View) -> Outcome:
    parameter, level = find_variable(variable)
    values, (low, high) = view.fields[variable], parameter.plausible(level)
    known = values[~np.isnan(values)] if variable in view.missing else values
    smallest, largest = float(known.min()), float(known.max())
    ok = bool(low <= smallest and largest <= high)  # false for NaN too
    found = f"{smallest:.6g} to {largest:.6g} {parameter.units}"
    return Outcome(f"range of {variable}", view.label, ok, found, f"{low:.6g} to {high:.6g}")


def _missing(view: _View) -> Iterator[Outcome]:
    """Values missing where they must not be: on land, or at sea beyond what ice may cover."""
    if not view.has("lsm"):
        return
    land = view.fields["lsm"]
    for name, place in view.missing.items():
        if not view.has(name):
            continue
        elsewhere = land >= COAST if place == "sea" else land <= 0
        share = view.mean(np.isnan(view.fields[name]).astype(float), elsewhere)
        limit, where = (0.0, "the land") if place == "sea" else (SEA_ICE, "the sea")
        yield Outcome(
            f"missing values of {name}", view.label, share <= limit, f"{share:.1%} of {where}", f"at most {limit:.0%}"
        )


def _level_order(view: _View) -> Iterator[Outcome]:
    present = [level for level in view.levels if view.has(f"z_{level}")]
    wrong = [
        f"z_{upper} not above z_{lower} at {share:.1%} of points"
        for lower, upper in pairwise(present)
        if (share := float((view.fields[f"z_{upper}"] <= view.fields[f"z_{lower}"]).mean())) > 0
    ]
    found = "; ".join(wrong[:2]) if wrong else "rising"
    yield Outcome("pressure-level order", view.label, not wrong, found, "geopotential rising with falling pressure")


def _surface_pressure(view: _View) -> Iterator[Outcome]:
    if not view.has("sp", "msl", "z", "2t"):
        return
    expected = derive.surface_pressure(view.fields["msl"], view.fields["z"], view.fields["2t"])
    difference = view.fields["sp"] / expected - 1
    high = view.fields["z"] > HIGH_GROUND * GRAVITY
    for where, mask, limit in (("", None, SURFACE_PRESSURE), (" on high ground", high, SURFACE_PRESSURE_HIGH_GROUND)):
        found = view.rms(difference, mask)
        hint = " (is it a copy of msl?)" if found > limit and np.allclose(view.fields["sp"], view.fields["msl"]) else ""
        name = f"sp against msl and orography{where}"
        yield Outcome(
            name, view.label, found <= limit, f"{found:.2%} rms{hint}", f"at most {limit:.2%} (hypsometric equation)"
        )


def _surface_pressure_profile(view: _View) -> Iterator[Outcome]:
    """Surface pressure where the geopotential of the pressure levels meets the orography, linear in ln p."""
    levels = [level for level in view.levels if view.has(f"z_{level}")]
    if len(levels) < 2 or not view.has("sp", "z"):
        return
    surface = view.fields["z"]
    estimate = np.full(surface.shape, np.nan)
    for index, (lower, upper) in enumerate(pairwise(levels)):
        below, above = view.fields[f"z_{lower}"], view.fields[f"z_{upper}"]
        here = surface < above if index == 0 else (surface >= below) & (surface < above)
        with np.errstate(divide="ignore", invalid="ignore"):
            share = (surface[here] - below[here]) / (above[here] - below[here])
        estimate[here] = np.exp(np.log(lower * 100) + share * np.log(upper / lower))
    found = view.rms(np.nan_to_num(view.fields["sp"] / estimate - 1, nan=1.0, posinf=1.0))
    limit = SURFACE_PRESSURE_PROFILE
    name = "sp against geopotential of pressure levels"
    yield Outcome(name, view.label, found <= limit, f"{found:.2%} rms", f"at most {limit:.2%}")


def _thickness(view: _View) -> Iterator[Outcome]:
    present = [level for level in view.levels if view.has(f"z_{level}", f"t_{level}", f"q_{level}")]
    if len(present) < 2:
        return
    virtual = {level: derive.virtual_temperature(view.fields[f"t_{level}"], view.fields[f"q_{level}"])
               for level in present}  # fmt: skip
    worst, layer = 0.0, ""
    for lower, upper in pairwise(present):
        thickness = view.fields[f"z_{upper}"] - view.fields[f"z_{lower}"]
        hydrostatic = GAS_CONSTANT * (virtual[lower] + virtual[upper]) / 2 * np.log(lower / upper)
        found = view.rms(thickness / hydrostatic - 1)
        if not found <= worst:
            worst, layer = found, f" from {lower} to {upper} hPa"
    limit = THICKNESS
    name = "thickness against temperature"
    yield Outcome(
        name, view.label, worst <= limit, f"{worst:.2%} rms{layer}", f"at most {limit:.2%} (hydrostatic equation)"
    )


def _dew_point(view: _View) -> Iterator[Outcome]:
    if not view.has("2d", "2t"):
        return
    share = view.mean((view.fields["2d"] > view.fields["2t"] + DEW_POINT_EXCESS).astype(float))
    found = f"2d more than {DEW_POINT_EXCESS} K above 2t on {share:.1%} of the globe"
    limit = DEW_POINT_SHARE
    yield Outcome("2d against 2t", view.label, share <= limit, found, f"at most {limit:.1%}")


def _change(before: _View, after: _View, constant: frozenset[str]) -> Iterator[Outcome]:
    moving = [name for name in after.fields if name not in constant]
    same = [name for name in moving if np.array_equal(before.fields[name], after.fields[name], equal_nan=True)]
    copied = bool(moving) and len(same) == len(moving)
    found = "all fields equal" if copied else f"{len(moving) - len(same)} of {len(moving)} fields differ"
    yield Outcome("T-6h is another time than T", "", not copied, found, "fields that change in 6 hours")
    moved = [
        Outcome(
            f"change of {name} from T-6h to T", "", change <= limit,
            f"{change:.4g} {parameter_of(name).units} rms", f"at most {limit:g} (are the times 6 h apart, not 24?)",
        )
        for name, limit in CHANGES.items()
        if after.has(name) and (change := after.rms(after.fields[name] - before.fields[name])) is not None
    ]  # fmt: skip
    yield from moved


_ONE_TIME: tuple[Callable[[_View], Iterator[Outcome]], ...] = (
    _missing,
    _level_order,
    _surface_pressure,
    _surface_pressure_profile,
    _thickness,
    _dew_point,
)


def run_checks(state: State, constant: frozenset[str], missing: Mapping[str, str]) -> list[Outcome]:
    """Return the outcome of every check of a state with the times T-6h and T.

    Parameters
    ----------
    constant : variables that do not change with time
    missing : where values may be missing, ``sea`` or ``land``, by variable
    """
    weights = grid_coordinates(state.grid).weights
    levels = {level for variable in state.variables if (level := split_variable(variable)[1])}
    view = partial(_View, weights=weights, levels=tuple(sorted(levels, reverse=True)), missing=missing)
    views = [
        view(fields=dict(zip(state.variables, fields, strict=True)), label=label)
        for fields, label in zip(state.fields, ("at T-6h", "at T"), strict=True)
    ]
    outcomes = []
    for one in views:
        outcomes += [_range(v, one) for v in state.variables if v not in constant or one is views[-1]]
        for check in _ONE_TIME:
            outcomes += check(one)
    before, after = views
    return outcomes + list(_change(before, after, constant))


def judge(outcomes: list[Outcome], policy: str, where: str) -> dict[str, Any]:
    """Return the record of the outcomes for the state's provenance.

    With `policy` ``error`` a failed check is an InputError that names `where` and what failed; with
    ``warn`` it is a line in the log and part of the record.
    """
    failed = [outcome for outcome in outcomes if not outcome.ok]
    if failed and policy == "error":
        by_check: dict[str, list[Outcome]] = {}
        # consistency says what is wrong; ranges only that something is
        for outcome in sorted(failed, key=lambda outcome: outcome.check.startswith("range")):
            by_check.setdefault(outcome.check, []).append(outcome)
        # what is wrong at both times is said once, as it is at T
        lines = [str(same[-1]) for same in by_check.values()]
        more = f"; and {len(lines) - _SHOWN} more" if len(lines) > _SHOWN else ""
        raise InputError(f"{where}: implausible: " + "; ".join(lines[:_SHOWN]) + more)
    for outcome in failed:
        LOG.warning("%s: implausible: %s", where, outcome)
    return {"made": len(outcomes), "failed": [asdict(outcome) for outcome in failed]}
