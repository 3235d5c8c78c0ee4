"""Indexes beside GRIB files, in the form of ECMWF's open data: one JSON object a line.

`_offset` and `_length` say where a message lies, so that a reader fetches three fields of a lead
without the other hundred; ecmwf-opendata and earthkit read the same form.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import eccodes
import numpy as np
import numpy.typing as npt

from aifs_ensemble.common.errors import InputError
from aifs_ensemble.common.names import index_file
from aifs_ensemble.common.text import foreign
from aifs_ensemble.fields.ccsds import read_values
from aifs_ensemble.fields.grib_encoder import OutputSpec, daily_name, grib_parameter

Entry = dict[str, Any]


def index_entry(spec: OutputSpec, variable: str, lead: int, offset: int, length: int, statistic: str = "") -> Entry:
    """Return the index entry of one message; keys and their order are those of AIFS ENS open data.

    The control has no ``number``, as in ECMWF's. Only a daily statistic has a period as its ``step``: ``24-48``.
    """
    parameter = grib_parameter(variable)
    time = spec.cycle_time
    entry: Entry = {
        "domain": "g",
        "date": time.strftime("%Y%m%d"),
        "time": time.strftime("%H%M"),
        "expver": spec.expver,
        "class": "ai",
        "type": spec.type,
        "stream": "enfo",
        "step": spec.step_range(variable, lead, statistic) if statistic else str(lead),
    }
    if parameter.level is not None:
        entry["levelist"] = str(parameter.level)
    entry["levtype"] = parameter.levtype
    if spec.type == "pf":
        entry["number"] = str(spec.member)
    entry |= {
        "param": daily_name(variable, statistic)[0] if statistic else parameter.short_name,
        "model": spec.grib_model,
        "_offset": offset,
        "_length": length,
    }
    return entry


def index_bytes(entries: Iterable[Mapping[str, Any]]) -> bytes:
    """Return entries as the content of an index file."""
    return "".join(json.dumps(entry) + "\n" for entry in entries).encode()


def read_index(path: Path) -> list[Entry]:
    """Return the entries of an index file; InputError naming file and line if it is not one."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path}: no such file, expected an index") from None
    return parse_index(content, path)


def parse_index(content: bytes, path: Path) -> list[Entry]:
    """Return the entries of an index by its bytes; InputError naming `path` and line if it is not one."""
    entries = []
    for number, line in enumerate(content.splitlines(), 1):
        try:
            entry = json.loads(line)
            if not {"_offset", "_length", "param"} <= entry.keys():
                raise ValueError("no _offset, _length or param")
        except (ValueError, AttributeError, RecursionError) as error:
            raise InputError(f"{path}: line {number}: not an index entry ({foreign(error)})") from None
        entries.append(entry)
    return entries


def select(entries: Sequence[Entry], **request: str | int | Sequence[str | int]) -> list[Entry]:
    """Return the entries that match a request such as ``param="t", levelist=[500, 850]``."""
    wanted = {
        key: {str(v) for v in (value if isinstance(value, (list, tuple)) else [value])}
        for key, value in request.items()
    }
    return [entry for entry in entries if all(str(entry.get(key)) in values for key, values in wanted.items())]


def read_messages(grib: Path, entries: Iterable[Entry]) -> list[bytes]:
    """Return the GRIB messages of index entries; InputError if the file does not hold them there."""
    messages = []
    with open(grib, "rb") as file:
        for entry in entries:
            file.seek(entry["_offset"])
            message = file.read(entry["_length"])
            if len(message) != entry["_length"] or message[:4] != b"GRIB" or message[-4:] != b"7777":
                where = f"{entry['param']} at byte {entry['_offset']}"
                raise InputError(f"{grib}: no GRIB message of {entry['_length']} bytes for {where}, as indexed")
            messages.append(message)
    return messages


def read_fields(grib: Path | str, **request: str | int | Sequence[str | int]) -> npt.NDArray[np.float32]:
    """Return the fields of a GRIB file that match a request, float32 ``(field, value)``, in file order.

    Missing values are NaN. Only the bytes of these fields are read. InputError if nothing matches.
    """
    grib = Path(grib)
    path = grib.with_name(index_file(grib.name))
    chosen = select(read_index(path), **request)
    if not chosen:
        raise InputError(f"{path}: nothing matches {request}")
    fields = []
    for message in read_messages(grib, chosen):
        handle = eccodes.codes_new_from_message(message)
        try:
            fields.append(read_values(handle, np.float32))
        finally:
            eccodes.codes_release(handle)
    return np.stack(fields)
