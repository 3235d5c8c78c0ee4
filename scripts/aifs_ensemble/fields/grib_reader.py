"""GRIB messages as fields on grids known by name, in one scanning order.

Whatever the message says about order, fields come with rows from north to south and longitudes from
0 eastward, so that one set of interpolation weights serves every source on the same grid.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import eccodes
import numpy as np
import numpy.typing as npt

from aifs_ensemble.common.errors import InputError
from aifs_ensemble.common.parameters import FieldName, in_soil, may_miss
from aifs_ensemble.common.text import foreign
from aifs_ensemble.fields.ccsds import read_values
from aifs_ensemble.fields.grids import CLASSICAL, grid_coordinates, octahedral_rows

_LATITUDE = 2e-3  # degrees: GRIB 1 keeps three decimals
_HEADER = 16  # bytes: "GRIB", edition, and the total length of a GRIB 2 message


@dataclass(frozen=True)
class Header:
    """What a message says it is.

    `number` is the ensemble member (None for a deterministic forecast); `time` is when it is valid.
    """

    field: FieldName
    number: int | None
    time: datetime
    base_time: datetime
    step: str
    units: str
    expver: str = ""

    def __str__(self) -> str:
        member = "" if self.number is None else f" member {self.number}"
        return f"{self.field}{member} at {self.time:%Y-%m-%d %H} UTC"


@dataclass(frozen=True)
class Location:
    """Where a field lies in a file, and its header.

    `part` is its number from 0 in a message of several fields, None where a message has one.
    """

    path: Path
    offset: int
    length: int
    header: Header
    part: int | None = None

    def read(self) -> bytes:
        """Return the bytes of a message that has this field alone."""
        with self.path.open("rb") as file:
            file.seek(self.offset)
            if self.part is None:
                return file.read(self.length)
            with several_fields(file):
                for _ in range(self.part):
                    eccodes.codes_release(eccodes.codes_grib_new_from_file(file))
                handle = eccodes.codes_grib_new_from_file(file)
                try:
                    return bytes(eccodes.codes_get_message(handle))
                finally:
                    eccodes.codes_release(handle)


@contextmanager
def several_fields(file: IO[bytes]) -> Iterator[None]:
    """Let ecCodes give each field of a message that has several; of the process, so for short."""
    eccodes.codes_grib_multi_support_on()
    eccodes.codes_grib_multi_support_reset_file(file)  # what it knows of an earlier file in the same place
    try:
        yield
    finally:
        eccodes.codes_grib_multi_support_off()


@contextmanager
def _handle(data: bytes, where: str) -> Iterator[Any]:
    try:
        handle = eccodes.codes_new_from_message(data)
    except eccodes.CodesInternalError as error:
        raise InputError(f"{where}: not a GRIB message ({foreign(error)})") from None
    try:
        yield handle
    finally:
        eccodes.codes_release(handle)


def _text(handle: Any, key: str, default: str = "") -> str:
    return eccodes.codes_get_string(handle, key) if eccodes.codes_is_defined(handle, key) else default


def message_length(head: bytes) -> int:
    """Return the length in bytes of the message that starts with `head`; 0 if none does.

    The first 8 bytes say it in GRIB 1 (three bytes), the first 16 in GRIB 2 (eight bytes).
    """
    if len(head) < _HEADER or head[:4] != b"GRIB":
        return 0
    if head[7] == 1:
        return int.from_bytes(head[4:7], "big")
    return int.from_bytes(head[8:16], "big") if head[7] == 2 else 0


def split_messages(data: bytes, where: str) -> Iterator[tuple[int, bytes]]:
    """Yield offset and bytes of each message of `data`.

    Raises InputError, naming `where`, for bytes that are no whole message.
    """
    offset = 0
    while offset < len(data):
        length = message_length(data[offset : offset + _HEADER])
        message = data[offset : offset + length]
        if not length or len(message) != length or message[-4:] != b"7777":
            raise InputError(f"{where}: no whole GRIB message at byte {offset} of {len(data)}")
        yield offset, message
        offset += length


def _time(handle: Any, date: str, time: str) -> datetime:
    day, clock = eccodes.codes_get_long(handle, date), eccodes.codes_get_long(handle, time)
    return datetime.strptime(f"{day:08d}{clock:04d}", "%Y%m%d%H%M").replace(tzinfo=UTC)


# a parameter there is another one than that of the surface: geopotential on a model level is no orography
_OTHER_SURFACES = (
    *("hybrid", "hybridLayer", "hybridHeight", "hybridPressure", "sigma", "eta", "theta", "thetaLayer"),
    *("potentialVorticity", "isothermal", "tropopause", "maxWind", "heightAboveSea", "isobaricLayer"),
    *("adiabaticCondensation", "freezingLevel"),
)
_PA_PER_HPA = 100


def _level(handle: Any) -> tuple[str, int]:
    """Return the kind of level, ``pl``, ``sol``, ``sfc`` or that of another surface, and the level (hPa, layer)."""
    kind = _text(handle, "typeOfLevel")
    level = eccodes.codes_get_long(handle, "level") if eccodes.codes_is_defined(handle, "level") else 0
    if kind == "isobaricInhPa":
        return "pl", level
    if kind == "isobaricInPa":
        return ("pl", level // _PA_PER_HPA) if level and level % _PA_PER_HPA == 0 else (kind, level)
    if kind in _OTHER_SURFACES:
        return kind, level
    return ("sol", level) if in_soil(_text(handle, "shortName")) else ("sfc", 0)


def _header(handle: Any, where: str) -> Header:
    try:
        levtype, level = _level(handle)
        number = _text(handle, "number") or _text(handle, "perturbationNumber")
        # local definitions give deterministic forecasts a number too: 0 of 0
        single = number == "0" and _text(handle, "numberOfForecastsInEnsemble", "0") == "0"
        return Header(
            field=FieldName(_text(handle, "shortName"), levtype, level),
            number=int(number) if number.isdigit() and not single else None,
            time=_time(handle, "validityDate", "validityTime"),
            base_time=_time(handle, "dataDate", "dataTime"),
            step=_text(handle, "stepRange", "0"),
            units=_text(handle, "units"),
            expver=_text(handle, "experimentVersionNumber"),
        )
    except (eccodes.CodesInternalError, ValueError) as error:
        raise InputError(f"{where}: unreadable header ({foreign(error)})") from None


def read_header(data: bytes, where: str) -> Header:
    """Return what one message says it is; InputError, naming `where`, if it cannot be read."""
    with _handle(data, where) as handle:
        return _header(handle, where)


def scan_file(path: Path) -> list[Location]:
    """Return the fields of a GRIB file, headers only: the file may be larger than memory.

    Bytes between messages are passed over. Raises InputError naming the file when it is absent, holds no message or
    ends within one.
    """
    found: list[Location] = []
    try:
        with path.open("rb") as file, several_fields(file):
            while (handle := eccodes.codes_grib_new_from_file(file, headers_only=True)) is not None:
                offset, length = (eccodes.codes_get_long(handle, key) for key in ("offset", "totalLength"))
                where = f"{path}: message {len(found) + 1}"
                found.append(Location(path, offset, length, _header(handle, where)))
                eccodes.codes_release(handle)
    except (FileNotFoundError, IsADirectoryError):
        raise InputError(f"{path}: no such GRIB file") from None
    except eccodes.CodesInternalError as error:
        raise InputError(f"{path}: no whole GRIB message after message {len(found)} ({foreign(error)})") from None
    if not found:
        raise InputError(f"{path}: no GRIB message in {path.stat().st_size} bytes")
    seen: dict[int, int] = {}
    shared = {offset for offset, count in Counter(location.offset for location in found).items() if count > 1}
    for place, location in enumerate(found):
        if location.offset in shared:
            part = seen[location.offset] = seen.get(location.offset, -1) + 1
            found[place] = replace(location, part=part)
    return found


def decode(data: bytes, where: str) -> tuple[str, npt.NDArray[np.float32]]:
    """Return grid name and values, float32 ``(value,)``, of one message.

    Missing values of a parameter that may miss some (`common.parameters.may_miss`) are NaN. Raises InputError, naming
    `where`, when another value is missing, not finite or does not decode, when all are missing, or when the grid is not
    a global Gaussian or regular latitude-longitude one.
    """
    grid, values, held = decode_rows(data, where)
    if held is not None:
        latitudes = grid_coordinates(grid).latitudes[held]
        raise InputError(
            f"{where}: rows from {latitudes[0]:.4g} to {latitudes[-1]:.4g} N of {grid}, as leads of "
            "forecast.output.area hold, expected the whole grid"
        )
    return grid, values


def decode_rows(data: bytes, where: str) -> tuple[str, npt.NDArray[np.float32], slice | None]:
    """Return grid name, values as `decode` does, and which of them the message holds: None for all.

    A message may hold some whole rows of a reduced Gaussian grid, as leads of an area do. Values of the other rows are
    NaN, and any of its own may be missing. Raises what `decode` raises of other messages.
    """
    with _handle(data, where) as handle:
        try:
            grid, shift, held = _grid_name(handle, where)
            values = read_values(handle, np.float32)
            missing = eccodes.codes_get_long(handle, "numberOfMissing")
            levtype, level = _level(handle)
            name = FieldName(_text(handle, "shortName"), levtype, level)
        except eccodes.CodesInternalError as error:
            raise InputError(f"{where}: does not decode ({foreign(error)})") from None
        points = grid_coordinates(grid).points if held is None else held.stop - held.start
        if len(values) != points:
            raise InputError(f"{where}: {len(values)} values, expected {points} on {grid}")
        some = held is not None or (may_miss(name) and missing < points)
        bad = np.isinf(values) if some else ~np.isfinite(values)
        if count := int(bad.sum()):
            raise InputError(f"{where}: {count} of {points} values missing or not finite, expected none")
        if held is None:
            return grid, _in_order(handle, values, grid, shift), None
    globe = np.full(grid_coordinates(grid).points, np.nan, np.float32)
    globe[held] = values
    return grid, globe, held


def _in_order(handle: Any, values: npt.NDArray[np.float32], grid: str, shift: int) -> npt.NDArray[np.float32]:
    """Return `values` from north to south, from longitude 0 eastward."""
    northward = eccodes.codes_get_long(handle, "jScansPositively")
    if not shift and not northward:
        return values
    rows = values.reshape(grid_coordinates(grid).shape)
    rows = rows[::-1] if northward else rows
    return np.roll(rows, shift, axis=1).ravel()


def _grid_name(handle: Any, where: str) -> tuple[str, int, slice | None]:
    """Return a message's grid, by how many columns to roll its rows to start at 0 east, and what it holds of the grid.

    Raises InputError for a grid that is neither global nor whole rows of a reduced one, or scanned in an order that is
    not a plain one.
    """
    kind = _text(handle, "gridType")
    odd = [key for key in ("iScansNegatively", "jPointsAreConsecutive", "alternativeRowScanning")
           if _text(handle, key, "0") != "0"]  # fmt: skip
    if odd:
        raise InputError(f"{where}: {odd[0]} is set, expected rows of latitude scanned eastward")
    if kind == "reduced_gg":
        name, held = _reduced(handle, where)
        return name, 0, held
    if kind not in ("regular_gg", "regular_ll"):
        raise InputError(f"{where}: gridType {kind}, expected reduced_gg, regular_gg or regular_ll")
    return *_regular(handle, kind, where), None


def _reduced(handle: Any, where: str) -> tuple[str, slice | None]:
    number = eccodes.codes_get_long(handle, "N")
    rows = eccodes.codes_get_array(handle, "pl")
    first = eccodes.codes_get_double(handle, "longitudeOfFirstGridPointInDegrees")
    if not first and np.array_equal(rows, octahedral_rows(number)):
        return f"O{number}", None
    if not first and number in CLASSICAL and np.array_equal(rows, grid_coordinates(f"N{number}").rows):
        return f"N{number}", None
    names = [*([f"N{number}"] if number in CLASSICAL else []), f"O{number}"]
    if not first and not eccodes.codes_get_long(handle, "jScansPositively"):
        north = eccodes.codes_get_double(handle, "latitudeOfFirstGridPointInDegrees")
        for name in names:
            if (held := _rows_held(name, north, rows)) is not None:
                return name, held
    raise InputError(f"{where}: reduced Gaussian grid of number {number}, expected a global N{number} or O{number}")


def _rows_held(name: str, north: float, rows: npt.NDArray[np.int64]) -> slice | None:
    """Return which points of a grid its rows are, the first at `north` degrees; None where they are no such rows."""
    grid = grid_coordinates(name)
    ends = np.cumsum(grid.rows)
    latitudes = grid.latitudes[ends - 1]
    row = int(np.abs(latitudes - north).argmin())
    if abs(latitudes[row] - north) > _LATITUDE or not np.array_equal(rows, grid.rows[row : row + len(rows)]):
        return None
    return slice(int(ends[row] - grid.rows[row]), int(ends[row + len(rows) - 1]))


def _regular(handle: Any, kind: str, where: str) -> tuple[str, int]:
    columns, rows = eccodes.codes_get_long(handle, "Ni"), eccodes.codes_get_long(handle, "Nj")
    first = eccodes.codes_get_double(handle, "longitudeOfFirstGridPointInDegrees") % 360
    last = eccodes.codes_get_double(handle, "longitudeOfLastGridPointInDegrees") % 360
    north = max(eccodes.codes_get_double(handle, f"latitudeOf{end}GridPointInDegrees") for end in ("First", "Last"))
    south = min(eccodes.codes_get_double(handle, f"latitudeOf{end}GridPointInDegrees") for end in ("First", "Last"))
    step = 360 / columns
    extent = f"{columns} x {rows} points, {north:g} to {south:g} N, {first:g} to {last:g} E"
    # 1e-3 degrees: GRIB 1 keeps three decimals
    whole = abs((last - first) % 360 - (360 - step)) < 2e-3
    aligned = abs(first / step - round(first / step)) * step < 2e-3
    if kind == "regular_gg":
        number = eccodes.codes_get_long(handle, "N")
        name, poleward = f"F{number}", rows == 2 * number and columns == 4 * number
    else:
        name, poleward = f"{step:g}x{180 / (rows - 1):g}", abs(north - 90) < 2e-3 and abs(south + 90) < 2e-3
    if whole and aligned and kind == "regular_ll" and not poleward:
        raise InputError(f"{where}: rows from {north:g} to {south:g} N, expected rows at both poles, 90 to -90")
    if not (whole and aligned and poleward):
        raise InputError(f"{where}: {kind} of {extent}, expected a global grid that has a point at 0 E")
    return name, round(first / step)
