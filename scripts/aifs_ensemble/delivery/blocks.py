"""Layouts at the destination: one file per lead, blocks of leads, or both.

A block is the GRIB files of its leads one after another, which is a GRIB file again. The destination puts
them together itself, so nothing is sent twice, and its checksum follows from those of the parts.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache

from aifs_ensemble.common.config import Config
from aifs_ensemble.common.files import encode_crc32c
from aifs_ensemble.common.manifest import FileRecord, LeadRecord
from aifs_ensemble.common.names import block_file, index_file

_POLYNOMIAL = 0x82F63B78  # Castagnoli, bit-reversed


@dataclass(frozen=True)
class Block:
    """The leads after `start` up to `end` hours, as one GRIB file."""

    start: int
    end: int
    grib: FileRecord
    leads: tuple[LeadRecord, ...]

    @property
    def index_name(self) -> str:
        return index_file(self.grib.name)

    def index(self, lead_indexes: Sequence[bytes]) -> bytes:
        """Return the block's index from those of its leads, in their order, with offsets moved."""
        lines = []
        start = 0
        for record, text in zip(self.leads, lead_indexes, strict=True):
            for line in text.decode().splitlines():
                entry = json.loads(line)
                entry["_offset"] += start
                lines.append(json.dumps(entry) + "\n")
            start += record.grib.size
        return "".join(lines).encode()


def wants_leads(config: Config) -> bool:
    """Tell whether the destination keeps one file per lead."""
    return config.delivery.layout in ("leads", "both")


def wants_blocks(config: Config) -> bool:
    """Tell whether the destination gets blocks."""
    return config.delivery.layout in ("blocks", "both")


def make_blocks(cycle: str, member: int, records: Iterable[LeadRecord], hours: int) -> list[Block]:
    """Return the blocks of `hours` that a member's leads make; the last one ends with the last lead."""
    groups: dict[int, list[LeadRecord]] = {}
    for record in sorted(records, key=lambda record: record.lead):
        groups.setdefault((record.lead - 1) // hours * hours, []).append(record)
    blocks = []
    for start, leads in groups.items():
        end = leads[-1].lead
        grib = FileRecord(
            name=block_file(cycle, member, start, end),
            size=sum(record.grib.size for record in leads),
            crc32c=combine_crc32c([record.grib for record in leads]),
        )
        blocks.append(Block(start, end, grib, tuple(leads)))
    return blocks


def combine_crc32c(parts: Iterable[FileRecord]) -> str:
    """Return the base64 CRC32C of files put one after another, from their own checksums and sizes.

    A CRC is a remainder of polynomials over GF(2): appending n bytes multiplies the remainder of what
    came before by x^(8n). The method is that of zlib's ``crc32_combine``, with the Castagnoli polynomial.
    """
    value = 0
    for part in parts:
        own = int.from_bytes(base64.b64decode(part.crc32c), "big")
        value = _multiply(_power(8 * part.size), value) ^ own
    return encode_crc32c(value)


def _multiply(a: int, b: int) -> int:
    """Return a * b modulo the polynomial, both bit-reversed (the highest bit is the coefficient of 1)."""
    product = 0
    for bit in range(31, -1, -1):
        if a >> bit & 1:
            product ^= b
        b = b >> 1 ^ (_POLYNOMIAL if b & 1 else 0)
    return product


@cache
def _square(exponent: int) -> int:
    """Return x^(2^exponent) modulo the polynomial."""
    return 1 << 30 if exponent == 0 else _multiply(_square(exponent - 1), _square(exponent - 1))


def _power(exponent: int) -> int:
    """Return x^exponent modulo the polynomial."""
    result, bit = 1 << 31, 0
    while exponent >> bit:
        if exponent >> bit & 1:
            result = _multiply(_square(bit), result)
        bit += 1
    return result
