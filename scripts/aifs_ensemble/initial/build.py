"""Initial states of a cycle: what members share, one member's state, and the ensemble's spread.

The workflow calls `prepare_cycle`, `build_member` and `ensemble_statistics`.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from aifs_ensemble.config import Config
from aifs_ensemble.errors import InputError
from aifs_ensemble.files import write_json
from aifs_ensemble.grids import grid_coordinates
from aifs_ensemble.initial import checks, derive
from aifs_ensemble.initial.idealised import IdealisedSource
from aifs_ensemble.initial.meaning import units
from aifs_ensemble.initial.source import Inputs, Source, Values, input_times
from aifs_ensemble.names import format_members, member_name
from aifs_ensemble.state import State, read_state, write_state

if TYPE_CHECKING:
    import pandas as pd

LOG = logging.getLogger(__name__)


def open_source(config: Config) -> Source:
    """Return the source that the configuration names."""
    kind = config["initial_conditions"]["source"]
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
    """Make the initial state of one member and write it to `path`.

    Its variables are ``config.model.inputs``, its times T-6h and T, constants repeated. The same
    input gives the same bytes. Raises InputError for missing or implausible fields, naming them, and
    DownloadError when no source delivered.
    """
    inputs = open_source(config).read(member)
    state = assemble(config, member, inputs)
    write_state(path, state)
    LOG.info("%s: initial state of %s member %d on %s", path, config.cycle, member, state.grid)
    return state


def assemble(config: Config, member: int, inputs: Inputs) -> State:
    """Return the checked state of one member from a source's fields."""
    model, settings = config.model, config["initial_conditions"]
    where = f"{config.cycle} {member_name(member)}"
    times = input_times(config)
    constant = frozenset(model.constant)
    shared = {name: values for name, values in inputs.fields[times[-1]].items() if name in constant}
    fields, derived = [], {}
    for time in times:
        complete, formulas = _complete({**inputs.fields[time], **shared}, model.inputs, settings["derive"], where, time)
        fields.append(complete)
        derived |= formulas
    state = State(
        fields=np.stack(fields),
        times=times,
        variables=model.inputs,
        units=tuple(units(name) for name in model.inputs),
        grid=model.grid,
        cycle=config.cycle,
        member=member,
        provenance={**inputs.provenance, "derived": derived},
    )
    _refuse_not_finite(state, where)
    state.provenance["checks"] = checks.judge(checks.run_checks(state, constant), settings["checks"], where)
    return state


def _complete(
    fields: Mapping[str, Values], wanted: Sequence[str], allowed: Sequence[str], where: str, time: datetime
) -> tuple[npt.NDArray[np.float32], dict[str, str]]:
    """Return `wanted` as float32 ``(variable, value)`` and the formulas of those derived."""
    derived = derive.derive_missing(fields, wanted, allowed)
    missing = [name for name in wanted if name not in fields and name not in derived]
    if missing:
        could = sorted({name.split("_")[0] for name in missing if derive.recipes(name)} - set(allowed))
        hint = f" (initial_conditions.derive may fill {', '.join(could)})" if could else ""
        raise InputError(
            f"{where}: {len(missing)} of {len(wanted)} input fields missing at {time:%Y-%m-%d %H} UTC: "
            f"{', '.join(missing)}{hint}"
        )
    values = [derived[name][0] if name in derived else fields[name] for name in wanted]
    return np.stack(values).astype(np.float32), {name: formula for name, (_, formula) in derived.items()}


def _refuse_not_finite(state: State, where: str) -> None:
    bad = [name for i, name in enumerate(state.variables) if not np.isfinite(state.fields[:, i]).all()]
    if bad:
        raise InputError(f"{where}: not finite: {', '.join(bad)}, expected a number at every point")


def ensemble_statistics(paths: Iterable[Path]) -> pd.DataFrame:
    """Return mean and spread at T of each variable over the members in `paths`.

    One row per variable: ``units``, area mean of the ensemble mean, ``spread`` (area root mean square of
    the members' standard deviation), ``smallest`` and ``largest`` value, ``members``. Pairs of equal
    members are in ``attrs["duplicates"]``. Raises InputError when all of two or more members are equal.
    """
    import pandas as pd  # slow to import, and needed only here

    files = list(paths)
    if not files:
        raise InputError("ensemble statistics: no initial states given")
    total = squares = smallest = largest = first = None
    digests: dict[str, list[int]] = {}
    for path in files:
        state = read_state(path)
        if first is None:
            first = state
            total, squares = (np.zeros(state.fields.shape[1:]) for _ in range(2))
            smallest, largest = np.full(len(state.variables), np.inf), np.full(len(state.variables), -np.inf)
        elif (state.variables, state.grid, state.cycle) != (first.variables, first.grid, first.cycle):
            raise InputError(f"{path}: another grid, cycle or variables than {files[0]}")
        digests.setdefault(hashlib.sha256(state.fields.tobytes()).hexdigest(), []).append(state.member)
        # differences from the first member keep the precision that sums of squares would lose
        anomaly = state.fields[-1].astype(float) - first.fields[-1]
        total += anomaly
        squares += anomaly**2
        smallest = np.minimum(smallest, state.fields[-1].min(axis=1))
        largest = np.maximum(largest, state.fields[-1].max(axis=1))
    assert first is not None
    duplicates = [members for members in digests.values() if len(members) > 1]
    if len(files) > 1 and len(digests) == 1:
        raise InputError(f"initial states: all {len(files)} members ({format_members(duplicates[0])}) are identical")
    for members in duplicates:
        LOG.warning("initial states: members %s are identical", format_members(members))
    count, weights = len(files), grid_coordinates(first.grid).weights
    variance = np.maximum(squares / count - (total / count) ** 2, 0) * (count / max(count - 1, 1))
    table = pd.DataFrame(
        {
            "units": first.units,
            "mean": (first.fields[-1] + total / count) @ weights,
            "spread": np.sqrt(variance @ weights),
            "smallest": smallest,
            "largest": largest,
            "members": count,
        },
        index=pd.Index(first.variables, name="variable"),
    )
    table.attrs["duplicates"] = duplicates
    return table
