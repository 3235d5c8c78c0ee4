"""Builds a tree in the layout, headers and index format of ECMWF open data, filled with idealised fields.

For AIFS ENS v2 the waves lie in files of their own, and miss values over land by a bitmap; snow and soil water have
numbers over sea, which mean nothing, as the service's have. Names, streams and paths of the waves are those that
icpac-igad's and ECMWF's own programs ask the service for (September 2026); no real message of theirs was at hand.

Not checked by it, because it is not there: ECMWF's own encoding choices beyond the headers that matter to
a reader (tables version, generating process), other parameters and steps of the real files, their size.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path

import eccodes
import numpy as np
from aifs_ensemble.common.config.sections import Idealised
from aifs_ensemble.common.models import Model, get_model
from aifs_ensemble.common.parameter_rows import WAVES
from aifs_ensemble.common.parameters import FieldName, delivered, has_row, parameter_of
from aifs_ensemble.fields.grids import grid_coordinates
from aifs_ensemble.initial.constants import GRAVITY
from aifs_ensemble.initial.idealised import idealised_fields
from aifs_ensemble.initial.opendata import opendata_name

MODEL = get_model("demo")
WAVE_STREAMS = {"enfo": "waef", "oper": "wave"}
# the idealised fields that stand for the control: those without perturbation have no meridional wind at all
CONTROL_FIELDS = 900
_LEVEL_TYPES = {"pl": "isobaricInhPa", "sol": "soilLayer", "sfc": None}


def member_fields(
    grid: str, time: datetime, cycle_time: datetime, member: int, model: Model = MODEL
) -> dict[str, np.ndarray]:
    """Return the idealised fields of a member, by model variable; for a direction, the direction (degrees) too."""
    fields = idealised_fields(
        grid_coordinates(grid),
        model.levels,
        time,
        cycle_time=cycle_time,
        member=member,
        settings=Idealised(),
        land_and_sea=bool(model.waves),
    )
    if model.waves:
        fields["mwd"] = np.rad2deg(np.arctan2(fields["sin_mwd"], fields["cos_mwd"])) % 360
    return fields


def encode(variable: str, values: np.ndarray, grid: str, time: datetime, **keys) -> bytes:
    """Return one GRIB 2 message; rows start at 180 E, as ECMWF's do. `keys` overrides any key.

    `number` (a member) makes it a message of the ensemble. Geopotential on levels becomes height. NaN is missing.
    """
    # what fields are derived from, such as orog, is in no model
    field = opendata_name(variable) if has_row(variable) else FieldName(variable, "sfc")
    rows, columns = grid_coordinates(grid).shape
    handle = eccodes.codes_new_from_samples("regular_ll_pl_grib2", eccodes.CODES_PRODUCT_GRIB)
    member = keys.pop("number", None)
    settings = {
        "tablesVersion": 35,
        "centre": "ecmf",
        "dataDate": int(f"{time:%Y%m%d}"),
        "dataTime": time.hour * 100,
        "stepRange": 0,
        "Ni": columns,
        "Nj": rows,
        "latitudeOfFirstGridPointInDegrees": 90,
        "longitudeOfFirstGridPointInDegrees": 180,
        "latitudeOfLastGridPointInDegrees": -90,
        "longitudeOfLastGridPointInDegrees": 180 - 360 / columns,
        "iDirectionIncrementInDegrees": 360 / columns,
        "jDirectionIncrementInDegrees": 180 / (rows - 1),
        "packingType": "grid_ccsds",
        "bitsPerValue": 16,
    }
    if member is not None:
        settings |= {"productDefinitionTemplateNumber": 1, "number": member, "numberOfForecastsInEnsemble": 51}
    settings["shortName"] = field.name
    parameter = parameter_of(variable) if has_row(variable) else None
    if variable in MODEL.constant:
        settings["typeOfLevel"] = "surface"
    elif parameter and parameter.missing and parameter.type_of_level:
        del settings["shortName"]  # `sd` is two parameters, of other units
        settings |= {"paramId": parameter.param_id, "typeOfLevel": parameter.type_of_level}
    if _LEVEL_TYPES[field.levtype]:
        settings |= {"typeOfLevel": _LEVEL_TYPES[field.levtype], "level": field.level}
    for key, value in (settings | keys).items():
        eccodes.codes_set(handle, key, value)
    height = variable.startswith("z_")
    if parameter and parameter.missing == "sea":
        values = np.nan_to_num(values)
    turned = np.roll((values / GRAVITY if height else values).reshape(rows, columns), columns // 2, axis=1)
    turned = np.ascontiguousarray(turned.ravel(), float) * (parameter.factor if parameter else 1)
    if np.isnan(turned).any():
        eccodes.codes_set(handle, "bitmapPresent", 1)
        turned[np.isnan(turned)] = eccodes.codes_get(handle, "missingValue")
    eccodes.codes_set_values(handle, turned)
    message = eccodes.codes_get_message(handle)
    eccodes.codes_release(handle)
    return message


def write_file(folder: Path, stem: str, messages: Iterable[tuple[dict[str, str], bytes]]) -> None:
    """Write messages and their index, in an order that no reader may rely on."""
    folder.mkdir(parents=True, exist_ok=True)
    shuffled = list(messages)
    random.Random(stem).shuffle(shuffled)
    offset, lines = 0, []
    with (folder / f"{stem}.grib2").open("wb") as file:
        for keys, message in shuffled:
            file.write(message)
            lines.append(json.dumps({**keys, "_offset": offset, "_length": len(message)}))
            offset += len(message)
    (folder / f"{stem}.index").write_text("\n".join(lines) + "\n")


def _index_keys(variable: str, time: datetime, stream: str, kind: str, number: int | None) -> dict[str, str]:
    field = opendata_name(variable)
    keys = {
        "domain": "g",
        "date": f"{time:%Y%m%d}",
        "time": f"{time:%H}00",
        "expver": "0001",
        "class": "od",
        "type": kind,
        "stream": stream,
        "step": "0",
    }
    if field.level:
        keys["levelist"] = str(field.level)
    keys["levtype"] = field.levtype
    if number is not None:
        keys["number"] = str(number)
    return keys | {"param": field.name}


def _ensemble(grid: str, time: datetime, cycle_time: datetime, members: Iterable[int], model: Model) -> Iterator:
    for member in members:
        fields = member_fields(grid, time, cycle_time, member, model)
        for variable in delivered(model.prognostic):
            message = encode(variable, fields[variable], grid, time, number=member)
            yield _index_keys(variable, time, _stream("enfo", variable), "pf", member), message


def _control(grid: str, time: datetime, cycle_time: datetime, stream: str, model: Model) -> Iterator:
    """Yield the control's fields at `time`: of the ensemble, or of the deterministic forecast of `stream`."""
    fields = member_fields(grid, time, cycle_time, CONTROL_FIELDS, model)
    kind, keys = ("cf", {"number": 0}) if stream == "enfo" else ("fc", {})
    for variable in delivered(model.prognostic):
        message = encode(variable, fields[variable], grid, time, **keys)
        yield _index_keys(variable, time, _stream(stream, variable), kind, None), message


def _stream(stream: str, variable: str) -> str:
    return WAVE_STREAMS[stream] if parameter_of(variable).family == WAVES else stream


def deterministic_stream(time: datetime) -> str:
    """Return the stream of the deterministic run: ``scda`` at 06 and 18 UTC before IFS cycle 50r1 (12 May 2026)."""
    return "scda" if time.hour in (6, 18) and f"{time:%Y%m%d}" < "20260512" else "oper"


def build_replica(
    root: Path,
    cycle_time: datetime,
    members: Iterable[int],
    grid: str = "10x10",
    control: Sequence[str] = ("", ""),
    model: Model = MODEL,
) -> Path:
    """Build the files of one cycle: members at T-6h and T, constants at T. Streams are those of the time.

    `control` says for each of the times where the control is: ``enfo``, ``oper`` (the stream of that run) or nowhere.
    """
    members = list(members)
    for time, place in zip((cycle_time - timedelta(hours=6), cycle_time), control, strict=True):
        folder = root / f"{time:%Y%m%d}" / f"{time:%H}z" / "ifs" / "0p25"
        ensemble = list(_ensemble(grid, time, cycle_time, members, model))
        stream = deterministic_stream(time)
        alone = list(_control(grid, time, cycle_time, stream, model)) if place == "oper" else []
        if place == "enfo":
            ensemble += _control(grid, time, cycle_time, "enfo", model)
        if time == cycle_time:
            fields = member_fields(grid, time, cycle_time, members[0], model)
            alone += [
                (_index_keys(name, time, _stream(stream, name), "fc", None), encode(name, fields[name], grid, time))
                for name in model.constant
            ]
        for messages, ending in ((ensemble, "ef"), (alone, "fc")):
            by_stream: dict[str, list] = {}
            for keys, message in messages:
                by_stream.setdefault(keys["stream"], []).append((keys, message))
            for name, part in by_stream.items():
                write_file(folder / name, f"{time:%Y%m%d%H}0000-0h-{name}-{ending}", part)
    return root
