"""Fields of GRIB objects at the destination, read by byte range through the indexes beside them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from aifs_ensemble.common.errors import InputError
from aifs_ensemble.common.files import crc32c_bytes
from aifs_ensemble.common.manifest import FileRecord
from aifs_ensemble.common.names import index_file
from aifs_ensemble.common.parameters import FieldName, field_name
from aifs_ensemble.common.storage import Storage
from aifs_ensemble.common.text import foreign
from aifs_ensemble.fields.coarse_encoder import CHECKSUM
from aifs_ensemble.fields.field_decoder import thread_decoder
from aifs_ensemble.fields.grib_index import parse_index

Field = npt.NDArray[np.float32]
_GAP = 64 << 10  # bytes between two fields that cost less to read than another request
_HEADER = 64 << 10  # more than a message has beside its values
_LARGEST = 1 << 53  # more than an object has
_INDEXES = 8  # kept at once: a block's index serves twelve leads


@dataclass(frozen=True)
class _Range:
    offset: int
    length: int
    crc32c: str | None = None

    @property
    def end(self) -> int:
        return self.offset + self.length


Ranges = Mapping[tuple[int, FieldName], _Range]


class IndexedFields:
    """Reads fields of objects of one grid, `points` values each. May be used from several threads.

    `known` returns the content of an index by its key where it is known, else None: then the object is read.
    """

    def __init__(self, storage: Storage, points: int, known: Callable[[str], bytes | None] = lambda key: None):
        self.storage, self._points, self._known = storage, points, known
        self._index = lru_cache(_INDEXES)(self._read_index)

    def read(self, key: str, lead: int, variables: Sequence[str], index: FileRecord | None = None) -> dict[str, Field]:
        """Return fields of one lead of an object by variable, float32 ``(value,)`` in GRIB's units, NaN where missing.

        Neighbours in the object come with one request. An `index` that is given is compared with its record, and
        messages with the checksums that it has of them. Raises InputError for what the index does not name, for bytes
        that are not the fields it names, and for what differs from its record.
        """
        found = self._index(index_file(key), index)
        ranges: dict[str, _Range] = {}
        for variable in variables:
            one = found.get((lead, field_name(variable)))
            if one is None:
                raise InputError(f"{self.storage.address(index_file(key))}: no {variable} at {lead} h")
            ranges[variable] = one
        fields: dict[str, Field] = {}
        for together in _joined(ranges):
            start = ranges[together[0]].offset
            data = self.storage.get_range(key, start, ranges[together[-1]].end - start)
            for variable in together:
                one = ranges[variable]
                where = f"{self.storage.address(key)}: {variable} at byte {one.offset}"
                message = data[one.offset - start : one.end - start]
                if one.crc32c is not None and crc32c_bytes(message) != one.crc32c:
                    raise InputError(f"{where}: crc32c {crc32c_bytes(message)}, expected {one.crc32c}")
                fields[variable] = thread_decoder(self._points).decode(message, where)
        return fields

    def places(self, key: str, lead: int) -> dict[FieldName, tuple[int, int]]:
        """Return offset and length in bytes of each message of one lead of an object, by field."""
        index = self._index(index_file(key), None)
        return {name: (where.offset, where.length) for (at, name), where in index.items() if at == lead}

    def _read_index(self, key: str, record: FileRecord | None) -> Ranges:
        address = self.storage.address(key)
        data = self._known(key)
        if data is None:
            data = self.storage.get_bytes(key)
        if record is not None and crc32c_bytes(data) != record.crc32c:
            raise InputError(f"{address}: crc32c {crc32c_bytes(data)}, expected {record.crc32c}")
        found: dict[tuple[int, FieldName], _Range] = {}
        longest = _HEADER + 8 * self._points
        for entry in parse_index(data, Path(address)):
            try:
                name = FieldName(str(entry["param"]), str(entry["levtype"]), int(entry.get("levelist", 0)))
                if "-" in str(entry["step"]):  # a statistic of the day, of which no product is made
                    continue
                lead = int(entry["step"])
                checksum = entry.get(CHECKSUM) if record else None
                where = _Range(int(entry["_offset"]), int(entry["_length"]), checksum)
            except (KeyError, ValueError, TypeError, OverflowError) as error:
                raise InputError(f"{address}: not an index of a forecast ({error!r})") from None
            # what nobody vouches for is not asked of the memory, nor of the service
            if not (0 <= where.offset <= _LARGEST and 0 < where.length <= longest):
                place = foreign(f"{where.length} bytes at byte {where.offset}")
                raise InputError(f"{address}: {place}, expected a message of at most {longest} bytes")
            found[lead, name] = where
        return found


def _joined(ranges: Mapping[str, _Range]) -> list[list[str]]:
    """Return variables in the order of their bytes, those that one request reads together."""
    groups: list[list[str]] = []
    end = -1
    for name in sorted(ranges, key=lambda name: ranges[name].offset):
        if groups and ranges[name].offset - end <= _GAP:
            groups[-1].append(name)
        else:
            groups.append([name])
        end = max(end, ranges[name].end)
    return groups
