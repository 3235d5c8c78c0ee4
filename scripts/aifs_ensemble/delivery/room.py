"""Room at a destination that is a folder: what is still to come there of members, against what is free."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from aifs_ensemble.common.config import Config
from aifs_ensemble.common.errors import PlanError
from aifs_ensemble.common.names import block_file
from aifs_ensemble.common.text import size
from aifs_ensemble.delivery import scratch
from aifs_ensemble.delivery.blocks import wants_blocks, wants_leads
from aifs_ensemble.delivery.scratch import MemberSizes


@dataclass(frozen=True)
class ToCome:
    """What is to come of a cycle: `members` to deliver, of which those in `forecast` are still to be computed.

    Leads and blocks that the destination has `listed`, by their keys, need no further room.
    """

    members: Collection[int]
    forecast: Collection[int] = ()
    listed: Collection[str] = ()


def bytes_to_come(config: Config, sizes: MemberSizes, come: ToCome) -> tuple[float, float]:
    """Return the bytes that a cycle's destination will hold more, and those beside them that go again.

    Files are copied to a folder, never linked. Of a layout without leads a member's leads are there until its blocks
    are: those of one member at a time count as going again.
    """
    keys, grib = config.objects, sizes.lead - sizes.coarse
    stay, go = 0.0, 0.0
    for member in come.members:
        leads = sum(keys.lead(member, lead) not in come.listed for lead in config.leads)
        blocks = _leads_of_blocks(config, member, come.listed) if wants_blocks(config) else 0
        stay += leads * sizes.coarse + blocks * grib
        if wants_leads(config):
            stay += leads * grib
        else:
            go = max(go, leads * grib)
    return stay, go


def _leads_of_blocks(config: Config, member: int, listed: Collection[str]) -> int:
    """Return how many leads the blocks have that are not there."""
    blocks: dict[int, list[int]] = {}
    for lead in config.leads:
        blocks.setdefault((lead - 1) // config.delivery.block_hours, []).append(lead)
    found = 0
    for number, leads in blocks.items():
        name = block_file(config.cycle, member, number * config.delivery.block_hours, leads[-1])
        found += 0 if config.objects.published(name) in listed else len(leads)
    return found


def check_room_there(config: Config, needed: float, on_scratch: float = 0) -> str:
    """Raise PlanError unless a destination's folder has room for `needed` bytes; return in words what there is.

    `on_scratch` are the bytes that scratch will hold more, which count where it is on the same file system. As on
    scratch, a twentieth of the disk stays free, at most 2 GiB. A file system that says nothing of its room has enough.
    """
    folder = Path(config.destination or "")
    system = scratch.file_system(folder)
    beside = on_scratch if scratch.same_file_system(folder, config.scratch_root) else 0.0
    free = max(system.free - system.reserve, 0)
    parts = f"{size(needed)} of leads to come"
    if beside:
        parts += f", and {size(beside)} on scratch, which is there too"
    if needed and needed + beside > free and (system.total or system.free):
        raise PlanError(
            f"config: destination: {folder} has {size(free)} to give on {system.mount} ({system.kind}), "
            f"expected {size(needed + beside)}: {parts}"
        )
    return f"{folder}: {size(free)} to give, {parts}"
