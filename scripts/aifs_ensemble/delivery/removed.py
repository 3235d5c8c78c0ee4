"""What retention has removed of a member, on record: its leads are gone on purpose, and it is as whole as it was.

The record is written before anything goes. It is true of one content of the member: one that was made anew, or longer,
has nothing removed, and its delivery takes the record away.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Annotated

from pydantic import Field

from aifs_ensemble.common.errors import VerificationError
from aifs_ensemble.common.files import json_bytes
from aifs_ensemble.common.manifest import Time
from aifs_ensemble.common.records import read_record, sealed

SCHEMA = "aifs-ensemble/retention/1"
LEADS, COARSE = "leads", "coarse"  # what manifests and receipts vouch for


@dataclass(frozen=True)
class Removal:
    """When something was removed, and by which rule of ``keep``."""

    on: Time
    rule: Annotated[str, Field(pattern="^[a-z0-9-]+$")]

    def text(self, what: str) -> str:
        """Return in words what is gone."""
        named = "coarse leads" if what == COARSE else what
        return f"{named} removed by retention on {datetime.fromisoformat(self.on):%Y-%m-%d} (rule {self.rule})"


@dataclass(frozen=True)
class RemovalRecord:
    """What was removed of a member whose leads have this digest."""

    cycle: str
    member: int
    content_digest: str
    removed: Mapping[str, Removal]


def removal_bytes(record: RemovalRecord) -> bytes:
    """Return a record as it is written, sealed."""
    return json_bytes(sealed({"schema": SCHEMA, **asdict(record)}))


def parse_removals(data: bytes, name: str, *, cycle: str, member: int) -> RemovalRecord:
    """Return a record from its bytes; VerificationError naming it when it is not sound, or another member's."""
    record = read_record(RemovalRecord, data, name, schema=SCHEMA)
    if (record.cycle, record.member) != (cycle, member):
        raise VerificationError(f"{name}: of another cycle or member, expected {cycle} and {member}")
    return record
