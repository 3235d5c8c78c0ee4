"""Fields of a delivered member, read by byte range through the indexes beside its leads or blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from aifs_ensemble.common.config import Config
from aifs_ensemble.common.errors import InputError
from aifs_ensemble.common.names import index_file
from aifs_ensemble.common.parameters import FieldName, field_name
from aifs_ensemble.common.storage import Storage, open_destination
from aifs_ensemble.common.text import foreign
from aifs_ensemble.delivery.receipt import MemberReceipt, receipt_files
from aifs_ensemble.delivery.standing import at_destination
from aifs_ensemble.fields.field_decoder import thread_decoder
from aifs_ensemble.fields.grib_index import parse_index
from aifs_ensemble.fields.grids import grid_coordinates

Field = npt.NDArray[np.float32]
_GAP = 64 << 10  # bytes between two fields that cost less to read than another request
_HEADER = 64 << 10  # more than a message has beside its values
_LARGEST = 1 << 53  # more than an object has
_INDEXES = 8  # kept at once: a block's index serves twelve leads


@dataclass(frozen=True)
class _Range:
    offset: int
    length: int

    @property
    def end(self) -> int:
        return self.offset + self.length


class DeliveredFields:
    """Reads fields of one member at the destination. May be used from several threads.

    Attributes
    ----------
    member : its number
    digest : content digest of its manifest, which products made from it record
    untrained : whether an untrained model made it

    Raises InputError unless the member is delivered as the configuration asks for.
    """

    def __init__(self, config: Config, member: int, storage: Storage | None = None):
        self.config, self.member = config, member
        self._storage = storage or open_destination(config)
        standing = at_destination(config, self._storage, member)
        if not standing.whole or standing.manifest is None:
            raise InputError(f"{standing.name}: {standing.text}, expected a delivered member")
        self.digest = standing.manifest.content_digest
        self.untrained = standing.manifest.untrained
        self._blocks = _block_names(standing.receipt)
        self._points = grid_coordinates(config.model.grid).points
        self._index = lru_cache(_INDEXES)(self._read_index)

    def read(self, lead: int, variables: Sequence[str]) -> dict[str, Field]:
        """Return fields of one lead by variable, float32 ``(value,)`` in GRIB's units, NaN where missing.

        Neighbours in the file come with one request. Raises InputError for what the index does not name, and for bytes
        that are not the fields it names.
        """
        key = self._key(lead)
        index = self._index(index_file(key))
        ranges: dict[str, _Range] = {}
        for variable in variables:
            found = index.get((lead, field_name(variable)))
            if found is None:
                raise InputError(f"{self._storage.address(index_file(key))}: no {variable} at {lead} h")
            ranges[variable] = found
        fields: dict[str, Field] = {}
        for together in _joined(ranges):
            start = ranges[together[0]].offset
            data = self._storage.get_range(key, start, ranges[together[-1]].end - start)
            for variable in together:
                one = ranges[variable]
                where = f"{self._storage.address(key)}: {variable} at byte {one.offset}"
                fields[variable] = thread_decoder(self._points).decode(
                    data[one.offset - start : one.end - start], where
                )
        return fields

    def places(self, lead: int) -> tuple[str, dict[FieldName, tuple[int, int]]]:
        """Return the object that holds a lead, and offset and length in bytes of each of its messages, by field."""
        key = self._key(lead)
        index = self._index(index_file(key))
        return key, {name: (where.offset, where.length) for (at, name), where in index.items() if at == lead}

    def _key(self, lead: int) -> str:
        """Return the object that holds a lead."""
        keys = self.config.objects
        for end, name in self._blocks.items():
            if lead <= end:
                return keys.published(name)
        return keys.lead(self.member, lead)

    def _read_index(self, key: str) -> Mapping[tuple[int, FieldName], _Range]:
        address = self._storage.address(key)
        found: dict[tuple[int, FieldName], _Range] = {}
        longest = _HEADER + 8 * self._points
        for entry in parse_index(self._storage.get_bytes(key), Path(address)):
            try:
                name = FieldName(str(entry["param"]), str(entry["levtype"]), int(entry.get("levelist", 0)))
                lead = int(str(entry["step"]).rpartition("-")[2])
                where = _Range(int(entry["_offset"]), int(entry["_length"]))
            except (KeyError, ValueError, TypeError, OverflowError) as error:
                raise InputError(f"{address}: not an index of a forecast ({error!r})") from None
            # what nobody vouches for is not asked of the memory, nor of the service
            if not (0 <= where.offset <= _LARGEST and 0 < where.length <= longest):
                place = foreign(f"{where.length} bytes at byte {where.offset}")
                raise InputError(f"{address}: {place}, expected a message of at most {longest} bytes")
            found[lead, name] = where
        return found


def _block_names(receipt: MemberReceipt | None) -> dict[int, str]:
    """Return the blocks of a member delivered as blocks alone, by their last lead in hours, in order."""
    if receipt is None or receipt.layout != "blocks":
        return {}
    names = [file.name for file in receipt_files(receipt)]
    blocks = {int(name.removesuffix(".grib").rpartition("-")[2]): name for name in names if name.endswith(".grib")}
    return dict(sorted(blocks.items()))


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
