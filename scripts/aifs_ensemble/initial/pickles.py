"""Conversion of existing ``input_state_member_NNN.pkl`` files, without running what a pickle can hold.

A pickle is a program. Only what plain numpy arrays and dates need may be named in it and done by it; anything else is
refused before it is called (`common/strict_pickle.py`). Even so: convert pickles you made yourself, and delete them
afterwards.
"""

from __future__ import annotations

import hashlib
import io
import logging
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np

from aifs_ensemble.common.config import Config
from aifs_ensemble.common.errors import InputError
from aifs_ensemble.common.strict_pickle import RefusedError, StrictUnpickler, common_names, numpy_names, plain_call
from aifs_ensemble.fields.grids import grid_coordinates
from aifs_ensemble.fields.state import State, write_state
from aifs_ensemble.initial.build import assemble
from aifs_ensemble.initial.source import Inputs, Values, input_times

LOG = logging.getLogger(__name__)

_TIMES = (bytes, str, int, timedelta, timezone)


class _PlainUnpickler(StrictUnpickler):
    """Loads arrays and dates; refuses everything else."""

    names = (
        common_names()
        | numpy_names()
        | {f"datetime.{cls.__name__}": plain_call(cls.__name__, cls, *_TIMES) for cls in (date, datetime)}
        | {f"datetime.{cls.__name__}": plain_call(cls.__name__, cls, *_TIMES) for cls in (timedelta, timezone)}
    )


def load_plain(data: bytes, where: str) -> Any:
    """Return the content of a pickle of plain arrays and dates.

    Raises InputError, naming `where`, for a pickle that names anything else, or is none.
    """
    try:
        return _PlainUnpickler(io.BytesIO(data)).load()
    except RefusedError as error:
        raise InputError(f"{where}: refused: {error}, expected only numpy arrays and dates") from None
    except Exception as error:  # a damaged pickle may raise anything
        raise InputError(f"{where}: not a readable pickle ({type(error).__name__}: {error})") from None


def _as_time(value: Any, where: str) -> datetime:
    if isinstance(value, np.datetime64):
        value = value.astype("datetime64[s]").item()
    if isinstance(value, datetime):
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
    if isinstance(value, date):
        return datetime(value.year, value.month, value.day, tzinfo=UTC)
    raise InputError(f"{where}: date is {type(value).__name__} {value!r}, expected a date and time")


def _array(name: str, value: Any, points: int, where: str) -> Values:
    """Return a field as float32 ``(2, value)``."""
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "fiu":
        kind = value.dtype if isinstance(value, np.ndarray) else type(value).__name__
        raise InputError(f"{where}: {name} is {kind}, expected an array of numbers")
    if value.shape != (2, points):
        raise InputError(f"{where}: {name} has shape {value.shape}, expected (2, {points}): T-6h and T on the grid")
    return value.astype(np.float32)


def pickle_inputs(config: Config, data: bytes, where: str) -> Inputs:
    """Return the fields of a pickled input state: ``{"date": T, "fields": {name: (2, value)}}``."""
    content = load_plain(data, where)
    if not isinstance(content, Mapping) or not isinstance(content.get("fields"), Mapping) or "date" not in content:
        raise InputError(f"{where}: expected a dictionary with 'date' and 'fields'")
    time = _as_time(content["date"], where)
    if time != config.cycle_time:
        raise InputError(f"{where}: date {time:%Y-%m-%d %H:%M} UTC, expected the cycle {config.cycle}")
    points = grid_coordinates(config.model.grid).points
    arrays = {str(name): _array(str(name), value, points, where) for name, value in content["fields"].items()}
    fields = {at: {name: values[i] for name, values in arrays.items()} for i, at in enumerate(input_times(config))}
    source = {"kind": "pickle", "files": [Path(where).name], "sha256": hashlib.sha256(data).hexdigest()}
    return Inputs(fields, {"source": source, "interpolation": {"grid": config.model.grid, "from": {}}})


def convert_pickle(config: Config, pickled: Path, member: int, path: Path) -> State:
    """Convert one pickled input state to the state file `path`, with the same checks as any other.

    Raises InputError for a pickle that is refused, lacks inputs or is implausible.
    """
    LOG.warning("%s: a pickle can run code when it is loaded; only arrays and dates are accepted here", pickled)
    try:
        data = pickled.read_bytes()
    except (FileNotFoundError, IsADirectoryError):
        raise InputError(f"{pickled}: no such file") from None
    state = assemble(config, member, pickle_inputs(config, data, str(pickled)))
    write_state(path, state, keep_equal=True, durable=True)
    return state
