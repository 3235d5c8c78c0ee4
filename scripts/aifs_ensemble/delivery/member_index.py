"""The indexes of all leads of a member in one small object, so that a reader of many leads asks once.

It is nothing but the index files one after another, those of coarse leads last, compressed. Whoever reads it cuts it up
by the sizes in the member's manifest, and believes a piece whose checksum is the one recorded there: what is stale,
damaged or another's is as if it were not there.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Iterable, Sequence

from aifs_ensemble.common.config import Config
from aifs_ensemble.common.files import crc32c_bytes
from aifs_ensemble.common.manifest import FileRecord, LeadRecord


def wants_member_index(config: Config) -> bool:
    """Tell whether products are asked for that read leads, and these are there as such.

    A comparison of two models does not count: each is delivered as a run of it alone delivers it.
    """
    products, others = config.products, ("coarse", "compare")
    sections = (getattr(products, name) for name in type(products).model_fields if name not in others)
    return config.delivery.layout != "blocks" and any(getattr(section, "enabled", False) for section in sections)


def _indexes(records: Sequence[LeadRecord]) -> list[FileRecord]:
    return [record.index for record in records] + [record.coarse.index for record in records if record.coarse]


def member_index(records: Sequence[LeadRecord], read: Callable[[FileRecord], bytes]) -> bytes:
    """Return the object's bytes, the same for the same records; `read` returns the content of one index."""
    return gzip.compress(b"".join(map(read, _indexes(records))), mtime=0)


def parse_member_index(data: bytes, records: Iterable[LeadRecord]) -> dict[str, bytes]:
    """Return the content of each index by its file's name, as far as it is the one that the records tell."""
    files = _indexes(list(records))
    whole = sum(file.size for file in files)
    try:
        # no more than there can be is unpacked, whatever the object says
        text = zlib.decompressobj(wbits=31).decompress(data, whole + 1)
    except zlib.error:
        return {}
    found, start = {}, 0
    for file in files:
        piece = text[start : start + file.size]
        start += file.size
        if len(piece) == file.size and crc32c_bytes(piece) == file.crc32c:
            found[file.name] = piece
    return found
