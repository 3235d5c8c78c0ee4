"""The units of a run: its cycles, or with several models the pairs of a model and a cycle.

A unit has a configuration of its own, and a name: that of the cycle (``20250819_0000``), with the model's before it
where a run has several (``demo/20250819_0000``). The name is also where the unit lies below the destination.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from aifs_ensemble.common.cycles import EACH_CYCLE, EACH_DAY, cycle_of, wildcard_patterns
from aifs_ensemble.common.names import unit_name

# in place of a model in names of files: the wildcard of the rules, as {member} is
EACH_MODEL = "{model}"


def split_unit(unit: str) -> tuple[str, str]:
    """Return model and cycle of a unit; the model is empty where the unit is a cycle."""
    model, _, cycle = unit.rpartition("/")
    return model, cycle


def unit_of(wildcards: Mapping[str, str]) -> str | None:
    """Return the unit that the wildcards of a job name; None where they name none, or a model without its cycle."""
    cycle, model = cycle_of(wildcards), model_of(wildcards)
    return None if cycle is None else unit_name(model, cycle)


def model_of(wildcards: Mapping[str, str]) -> str:
    """Return the model that the wildcards of a job name; empty where they name none."""
    return wildcards.get("model") or ""


def unit_patterns(units: Iterable[str]) -> dict[str, str]:
    """Return what the wildcards of units stand for: these units' models and cycles, and no others."""
    pairs = [split_unit(unit) for unit in units]
    # in the order of the units: longer names first, should one begin like another
    models = sorted(dict.fromkeys(model for model, _ in pairs if model), key=len, reverse=True)
    cycles = dict.fromkeys(cycle for _, cycle in pairs)
    return {**({"model": "|".join(models)} if models else {}), **wildcard_patterns(cycles)}


def each_unit(units: Sequence[str], *, day: bool = False) -> str:
    """Return the name that stands for any of several units: wildcards, with `day` those of the cycle's day."""
    model, _ = split_unit(units[0])
    return unit_name(model and EACH_MODEL, EACH_DAY if day else EACH_CYCLE)
