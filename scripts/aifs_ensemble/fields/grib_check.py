"""One checker of GRIB files: parameters, keys, steps, missing values, and the index beside them.

Every check returns a list of what is wrong, one line each, empty when all is right: commands print
them, tests assert that there are none.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import eccodes
import numpy as np

from aifs_ensemble.common.daily import SUM, LeadField
from aifs_ensemble.common.errors import InputError
from aifs_ensemble.common.names import CONTROL, index_file, parse_lead_file
from aifs_ensemble.common.parameters import FieldName, may_miss
from aifs_ensemble.common.text import foreign
from aifs_ensemble.fields.area import Cut, cut_of
from aifs_ensemble.fields.ccsds import read_values
from aifs_ensemble.fields.grib_encoder import (
    PROCESSING,
    OutputSpec,
    daily_name,
    former_keys,
    grib_parameter,
    member_keys,
)
from aifs_ensemble.fields.grib_index import Entry, parse_index, read_index
from aifs_ensemble.fields.grib_reader import several_fields

_OF_FIELDS = (
    *("typeOfStatisticalProcessing", "timeIncrement"),
    *("bitmapPresent", "numberOfMissing", "latitudeOfFirstGridPoint"),
)
# set to make a template, and read back differently or not at all
_NOT_READ_BACK = {"setLocalDefinition", "productDefinitionTemplateNumber", "packingType"}


@dataclass(frozen=True)
class Message:
    """One GRIB message of a file, without its values.

    `missing` counts values that are NaN, infinite, or missing though the parameter may miss none and the grid is no
    part of the globe; minimum, mean and maximum are of the others. They are None when values were not asked for.
    """

    offset: int
    length: int
    keys: Mapping[str, Any]
    missing: int | None = None
    minimum: float | None = None
    mean: float | None = None
    maximum: float | None = None

    @property
    def name(self) -> str:
        level = self.keys.get("level")
        on_level = self.keys.get("levtype") in ("pl", "sol")
        return f"{self.keys['shortName']} {level}" if on_level else str(self.keys["shortName"])


SHOWN = (
    "shortName",
    "paramId",
    "units",
    "levtype",
    "typeOfLevel",
    "level",
    "stepRange",
    "stepType",
    "endStep",
    "number",
    "dataDate",
    "dataTime",
    "class",
    "stream",
    "type",
    "experimentVersionNumber",
    "gridType",
    "numberOfDataPoints",
    "productDefinitionTemplateNumber",
    "packingType",
    "bitsPerValue",
    "packingError",
)


def _get(handle: int, key: str) -> Any:
    try:
        return eccodes.codes_get(handle, key)
    except eccodes.CodesInternalError:
        return None


def _statistics(handle: int, may_miss: bool) -> dict[str, Any]:
    values = read_values(handle)
    good = np.isfinite(values)
    wrong = int(values.size - good.sum())
    if may_miss:
        wrong -= int(eccodes.codes_get(handle, "numberOfMissing"))
    if not good.any():
        return {"missing": wrong}
    kept = values[good]
    return {"missing": wrong, "minimum": float(kept.min()), "mean": float(kept.mean()), "maximum": float(kept.max())}


def _is_part(handle: int) -> bool:
    """Return whether a message has some rows of a reduced Gaussian grid: leads of an area miss values outside it."""
    return _get(handle, "gridType") == "reduced_gg" and not _get(handle, "global")


def _may_miss(keys: Mapping[str, Any]) -> bool:
    """Return whether the parameter of a message may miss values; not one that the table has no row for."""
    level = keys["level"] if keys["levtype"] in ("pl", "sol") else 0
    return may_miss(FieldName(keys["shortName"], keys["levtype"], level))


def messages(
    path: Path, keys: Iterable[str] = (), *, values: bool = False, data: bytes | None = None, ours: bool = True
) -> Iterator[Message]:
    """Yield the messages of a GRIB file with the keys in `SHOWN` and `keys`; with `values`, statistics too.

    With `data` these bytes are read, and `path` is only their name. Raises InputError naming file and byte for
    anything that is no whole GRIB message. A file that is not `ours` may have other bytes between and after messages,
    and messages of several fields, of which each is yielded.
    """
    names = (*SHOWN, *keys)
    with _opened(path, data) as file, nullcontext() if ours else several_fields(file):
        end = 0
        while True:
            try:
                handle = eccodes.codes_grib_new_from_file(file)
            except eccodes.CodesInternalError as error:
                raise InputError(f"{path}: no whole GRIB message at byte {end} ({foreign(error)})") from None
            if handle is None:
                break
            try:
                offset, length = int(eccodes.codes_get(handle, "offset")), int(eccodes.codes_get(handle, "totalLength"))
                if ours and offset != end:
                    raise InputError(f"{path}: {offset - end} bytes at byte {end} are no GRIB message")
                end = offset + length
                found = {name: _get(handle, name) for name in names}
                try:
                    statistics = _statistics(handle, _may_miss(found) or _is_part(handle)) if values else {}
                except eccodes.CodesInternalError as error:
                    name = f"{found['shortName']} at byte {offset}"
                    raise InputError(f"{path}: {name}: values cannot be unpacked ({foreign(error)})") from None
                yield Message(offset, length, found, **statistics)
            finally:
                eccodes.codes_release(handle)
        if ours and (size := os.fstat(file.fileno()).st_size) != end:
            raise InputError(f"{path}: {size - end} bytes at byte {end} are no whole GRIB message")


def _opened(path: Path, data: bytes | None) -> IO[bytes]:
    """Return a file that ecCodes can read: it takes real ones only."""
    if data is not None:
        file = tempfile.TemporaryFile()  # noqa: SIM115 (its reader closes it)
        file.write(data)
        file.seek(0)
        return file
    try:
        return open(path, "rb")
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}, expected a GRIB file") from None


def check_messages(path: Path, found: Sequence[Message], keys: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with the messages of a file: none, other values of `keys`, values missing or not finite."""
    wrong = [] if found else [f"{path}: no GRIB message"]
    for message in found:
        wrong += _different(path, message.name, message, keys)
        if message.missing:
            wrong.append(f"{path}: {message.name}: {message.missing} values missing or not finite")
    return wrong


def _different(path: Path, name: str, message: Message, expected: Mapping[str, Any]) -> list[str]:
    """Return which keys of a message, called `name`, are not as expected."""
    return [
        f"{path}: {name}: {key} is {message.keys[key]!r}, expected {value!r}"
        for key, value in expected.items()
        if message.keys[key] != value
    ]


def check_index(
    path: Path, found: Sequence[Message], content: bytes | None = None, daily: Sequence[bool] | None = None
) -> list[str]:
    """Return where the index beside a GRIB file (or with the bytes `content`) and the messages found there differ.

    `daily` says which of the messages should be statistics of a day, where that is known. Else each tells by itself,
    and an amount may be either.
    """
    index = path.with_name(index_file(path.name))
    try:
        entries = read_index(index) if content is None else parse_index(content, index)
    except InputError as error:
        return [str(error)]
    if len(entries) != len(found):
        return [f"{index}: {len(entries)} entries, expected the {len(found)} messages of {path.name}"]
    if daily is None:
        pairs = zip(entries, found, strict=True)
        daily = [_looks_daily(message, entry) for entry, message in pairs]
    return [
        f"{index}: line {number}: {key} is {entry.get(key)!r}, expected {value!r}"
        for number, (entry, message, of_day) in enumerate(zip(entries, found, daily, strict=True), 1)
        for key, value in _indexed(message, daily=of_day).items()
        if entry.get(key) != value
    ]


def _looks_daily(message: Message, entry: Entry) -> bool:
    """Return whether message and entry are those of a statistic of a day; of an amount only the entry may tell."""
    return message.keys["stepType"] not in ("instant", "accum") or entry.get("step") == message.keys["stepRange"]


def _indexed(message: Message, *, daily: bool) -> Entry:
    """Return what an index must say of a message, which is or is not a `daily` statistic."""
    keys = message.keys
    return {
        "_offset": message.offset,
        "_length": message.length,
        "param": keys["shortName"],
        "date": str(keys["dataDate"]),
        "time": f"{keys['dataTime']:04d}",
        "step": str(keys["stepRange"] if daily else keys["endStep"]),
        "type": keys["type"],
        "number": None if keys["type"] == "cf" else str(keys["number"]),
        "levtype": keys["levtype"],
        "levelist": str(keys["level"]) if keys["levtype"] in ("pl", "sol") else None,
        "expver": keys["experimentVersionNumber"],
    }


def check_name(path: Path, found: Sequence[Message]) -> list[str]:
    """Return where a lead's messages differ from what its file name says; nothing for other names."""
    name = parse_lead_file(path.name)
    if name is None:
        return []
    date, time = map(int, name.cycle.split("_"))
    kind = "cf" if name.member == CONTROL else "pf"
    said = {"dataDate": date, "dataTime": time, "type": kind, "number": name.member, "endStep": name.lead}
    return [
        f"{path}: {message.name}: {key} is {message.keys[key]}, the file name says {value}"
        for message in found
        for key, value in said.items()
        if message.keys[key] != value
    ]


def check_lead(
    path: Path, spec: OutputSpec, lead: int, *, data: bytes | None = None, index: bytes | None = None
) -> list[str]:
    """Return what is wrong with one lead of a member: every message, every key, its index.

    A lead that is no file here is given by its `data`, under the name `path`; its `index` is compared if given.
    """
    shared = {key: value for key, value in member_keys(spec).items() if key not in _NOT_READ_BACK}
    shared["packingType"] = "grid_ccsds"
    try:
        found = list(messages(path, (*shared, *_OF_FIELDS), values=True, data=data))
    except InputError as error:
        return [str(error)]
    former = former_keys(spec)
    if found and former and all(message.keys[key] == value for message in found for key, value in former.items()):
        shared |= former  # such members vouch for themselves
    wrong, fields = check_messages(path, found, shared), spec.fields_at(lead)
    steps = {message.keys["endStep"] for message in found}
    if lead not in steps:
        wrong.append(f"{path}: step {lead} missing")
    wrong += [f"{path}: step {step} not expected" for step in sorted(steps - {lead})]
    if data is None or index is not None:
        daily = [bool(field.statistic) for field in fields] if len(found) == len(fields) else None
        wrong += check_index(path, found, index, daily)
    if wrong:
        return wrong
    if len(found) != len(fields):
        return [f"{path}: {len(found)} messages, expected {len(fields)}"]
    for field, message in zip(fields, found, strict=True):
        wrong += _different(path, str(field), message, _expected(spec, field, lead))
        if field.variable in spec.missing:
            wrong += _too_few_or_many(path, spec, field, message)
    return wrong


def _too_few_or_many(path: Path, spec: OutputSpec, field: LeadField, message: Message) -> list[str]:
    """Return whether more values are missing than may be, or fewer than must be.

    How many the model misses, only its input says. So what is known are bounds: on the globe there are some values,
    for nothing is missing on sea and land alike. An area may have none, and lacks what is outside of it.
    """
    missing, points = message.keys["numberOfMissing"], message.keys["numberOfDataPoints"]
    least = 0 if spec.area is None else cut_of(spec.grid, spec.area).outside
    most = points - 1 if spec.area is None else points
    if least <= missing <= most:
        return []
    return [f"{path}: {field}: {missing} of {points} values are missing, expected {least} to {most}"]


def _expected(spec: OutputSpec, field: LeadField, lead: int) -> dict[str, Any]:
    """Return the keys of a message that are those of its field."""
    variable, statistic = field
    parameter = grib_parameter(variable)
    amount = SUM if variable in spec.accumulated else ""
    name = daily_name(variable, statistic) if statistic else (parameter.short_name, parameter.param_id)
    expected = {
        "shortName": name[0],
        "paramId": name[1],
        "units": parameter.units,
        "levtype": parameter.levtype,
        "stepRange": spec.step_range(variable, lead, statistic),
        "productDefinitionTemplateNumber": 11 if statistic or amount else parameter.template,
        "typeOfStatisticalProcessing": PROCESSING.get(statistic or amount),
        "timeIncrement": spec.timestep_hours if statistic not in ("", SUM) else 0 if statistic or amount else None,
    }
    expected |= {} if parameter.level is None else {"level": parameter.level}
    if spec.area is not None:
        return expected | _of_area(cut_of(spec.grid, spec.area), exactly=variable not in spec.missing)
    return expected | ({} if variable in spec.missing else {"bitmapPresent": 0})


def _of_area(cut: Cut, *, exactly: bool) -> dict[str, Any]:
    """Return the keys of a message that are those of its rows; `exactly` the points outside the area are missing."""
    north = round(float(cut.grid.latitudes[0]) * 1e6)
    expected = {"numberOfDataPoints": cut.grid.points, "latitudeOfFirstGridPoint": north}
    return expected | ({"numberOfMissing": cut.outside} if exactly else {})
