"""Which jobs of several units share a machine.

Snakemake puts jobs of a group together in no order. Members of all cycles would meet on every machine then: each
would wait for the initial states of all of them, and one cycle that fails would take the others with it. So forecasts
are put together cycle by cycle, the last few of one with the first of the next, and other jobs with those of their
cycle alone. Two models share no machine: each has its software, and what fails of one leaves the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from itertools import product
from typing import Any

from aifs_ensemble.common.units import split_unit, unit_of
from aifs_ensemble.workflow import snakemake_internals as internals
from aifs_ensemble.workflow.cycle_run import CycleRun
from aifs_ensemble.workflow.members_here import FORECAST_RULE


def group_by_unit(workflow: Any, cycles: Mapping[str, CycleRun]) -> None:
    """Divide the groups of all rules by unit, those of the forecasts by machine; after the rules are read."""
    if not internals.is_coordinator(workflow):
        return
    machines = _Machines(workflow, cycles)
    for rule in workflow.rules:
        internals.group_by(workflow, rule, machines.of if rule.name == FORECAST_RULE else _unit)


def _unit(wildcards: Mapping[str, str]) -> str | None:
    unit = unit_of(wildcards)
    return unit and unit.replace("/", "-")  # the name of a group may be that of a file


class _Machines:
    """The forecasts to run, divided into as many a machine as the profile says."""

    def __init__(self, workflow: Any, cycles: Mapping[str, CycleRun]):
        self._workflow, self._cycles = workflow, cycles

    def of(self, wildcards: Mapping[str, str]) -> str | None:
        """Return the number of a member's machine; None for one whose forecast was not to run."""
        return self._numbers.get((unit_of(wildcards) or "", wildcards["member"]))

    @cached_property
    def _numbers(self) -> dict[tuple[str, str], str]:
        """The machine of each forecast, by unit and member.

        Those of cycles that have their initial states share none with those that have not: where states of a cycle
        could not be made, only its own neighbours wait, and the next run makes these.
        """
        jobs = internals.jobs_to_run(self._workflow) or []
        found = [(unit_of(named) or "", named["member"]) for rule, named in jobs if rule == FORECAST_RULE]
        size = internals.group_size(self._workflow, "members")
        waiting = {unit_of(named) for rule, named in jobs if rule == "initial_member"}
        numbers: dict[tuple[str, str], str] = {}
        first = 0
        models = sorted({split_unit(unit)[0] for unit, _ in found})
        for of_waiting, model in product((False, True), models):
            those = sorted(
                (unit, member)
                for unit, member in found
                if (unit in waiting) == of_waiting and split_unit(unit)[0] == model
            )
            numbers |= {one: f"{first + place // size:03d}" for place, one in enumerate(those)}
            first += -(-len(those) // size)
        return numbers
