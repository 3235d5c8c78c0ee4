"""Initial states of a cycle: what members share, and one member's state."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from aifs_ensemble.common.config import Config
from aifs_ensemble.common.errors import InputError
from aifs_ensemble.common.files import write_json
from aifs_ensemble.common.models import Model
from aifs_ensemble.common.names import STATE_OF, member_name
from aifs_ensemble.common.parameters import parameter_of, split_variable
from aifs_ensemble.fields.state import State, write_state
from aifs_ensemble.initial import checks, derive
from aifs_ensemble.initial.idealised import IdealisedSource
from aifs_ensemble.initial.source import Inputs, Source, Values, input_times

LOG = logging.getLogger(__name__)


def open_source(config: Config) -> Source:
    """Return the source that the configuration names."""
    kind = config.initial_conditions.source
    if kind == "idealised":
        return IdealisedSource(config)
    if kind == "file":
        from aifs_ensemble.initial.file_source import FileSource

        return FileSource(config)
    from aifs_ensemble.initial.opendata import OpenDataSource

    return OpenDataSource(config)


def prepare_cycle(config: Config, path: Path | None = None) -> dict[str, Any]:
    """Make what all members of a cycle share, in the cache, and return a record of it.

    Index files and constants are fetched, constants interpolated, weights made: once. A member whose
    machine lacks them makes them itself. With `path` the record is written there as JSON.
    """
    record = {"cycle": config.cycle, "grid": config.model.grid, **open_source(config).prepare()}
    if path is not None:
        write_json(path, record)
    return record


def build_member(config: Config, member: int, path: Path) -> State:
    """Make the initial state of one member and write it to `path`, unless it is there already.

    With ``members_per_state`` it may be that of another member of the source, which its provenance names.

    Its variables are ``config.model.inputs``, its times T-6h and T, constants repeated. The same
    input gives the same bytes. Raises InputError for missing or implausible fields, naming them, and
    DownloadError when no source delivered.
    """
    inputs = open_source(config).read(shared := config.state_of(member))
    if shared != member:
        source = {**inputs.provenance.get("source", {}), STATE_OF: shared}
        inputs = replace(inputs, provenance={**inputs.provenance, "source": source})
    state = assemble(config, member, inputs)
    write_state(path, state, keep_equal=True, durable=True)
    LOG.info("%s: initial state of %s member %d on %s", path, config.cycle, member, state.grid)
    return state


def assemble(config: Config, member: int, inputs: Inputs) -> State:
    """Return the checked state of one member from a source's fields."""
    model, settings = config.model, config.initial_conditions
    where = f"{config.cycle} {member_name(member)}"
    origin = f"{where}{_from_files(inputs)}"
    times = input_times(config)
    constant = frozenset(model.constant)
    same = derive.constant_sources(constant)
    shared = {name: values for name, values in inputs.fields[times[-1]].items() if name in same}
    fields = []
    derived: dict[str, str] = {}
    for time in times:
        complete, formulas = _complete({**inputs.fields[time], **shared}, model.inputs, settings.derive, origin, time)
        fields.append(complete)
        derived |= formulas
    state = State(
        fields=np.stack(fields),
        times=times,
        variables=model.inputs,
        units=tuple(parameter_of(name).units for name in model.inputs),
        grid=model.grid,
        cycle=config.cycle,
        member=member,
        provenance={**inputs.provenance, "derived": derived},
    )
    _mask_sea(state, model)
    _refuse_not_finite(state, model, where)
    outcomes = checks.run_checks(state, constant, model.missing)
    state.provenance["checks"] = checks.judge(outcomes, settings.checks, where)
    return state


def _from_files(inputs: Inputs) -> str:
    """Return the names of the user's files that fields come from, for an error line; empty for other sources."""
    names = inputs.provenance.get("source", {}).get("files", [])
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f" from {', '.join(names[:3])}{more}" if names else ""


def _complete(
    fields: Mapping[str, Values], wanted: Sequence[str], allowed: Sequence[str], where: str, time: datetime
) -> tuple[npt.NDArray[np.float32], dict[str, str]]:
    """Return `wanted` as float32 ``(variable, value)`` and the formulas of those derived."""
    derived = derive.derive_missing(fields, wanted, allowed)
    missing = [name for name in wanted if name not in fields and name not in derived]
    if missing:
        could = sorted({split_variable(name)[0] for name in missing if derive.recipes(name)} - set(allowed))
        hint = f" (initial_conditions.derive may fill {', '.join(could)})" if could else ""
        raise InputError(
            f"{where}: {len(missing)} of {len(wanted)} input fields missing at {time:%Y-%m-%d %H} UTC: "
            f"{', '.join(missing)}{hint}"
        )
    values = [derived[name][0] if name in derived else fields[name] for name in wanted]
    return np.stack(values).astype(np.float32), {name: formula for name, (_, formula) in derived.items()}


def _mask_sea(state: State, model: Model) -> None:
    """Take values away where the land-sea mask says sea, of variables that the model knows over land alone.

    Sources have numbers there that mean nothing, or miss them at a coast of their own.
    """
    rows = [row for row, name in enumerate(state.variables) if model.missing.get(name) == "sea"]
    if rows:
        sea = state.variable("lsm")[-1] == 0
        for row in rows:
            state.fields[:, row, sea] = np.nan


def _refuse_not_finite(state: State, model: Model, where: str) -> None:
    """Raise InputError for a variable that is not finite, or all missing where it may miss values."""
    bad, empty = [], []
    for row, name in enumerate(state.variables):
        fields = state.fields[:, row]
        unknown = np.isnan(fields)
        if name in model.missing and unknown.any():
            fields[unknown] = np.nan  # one of many: the same content is to be the same bytes
            if unknown.all(axis=1).any():
                empty.append(name)
            fields = fields[~unknown]
        if not np.isfinite(fields).all():
            bad.append(name)
    if bad:
        raise InputError(f"{where}: not finite: {', '.join(bad)}, expected a number at every point")
    if empty:
        raise InputError(f"{where}: all missing: {', '.join(empty)}, expected values over land or sea")
