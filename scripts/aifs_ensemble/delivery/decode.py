"""Leads of a member decoded: every message of a few of them, and of what was made coarse of these."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from aifs_ensemble.common.config import Config
from aifs_ensemble.common.manifest import FileRecord, LeadRecord, MemberManifest
from aifs_ensemble.common.parameters import bits_for
from aifs_ensemble.common.storage import MissingError, Storage
from aifs_ensemble.delivery.blocks import make_blocks
from aifs_ensemble.delivery.scratch import lead_file_paths
from aifs_ensemble.delivery.standing import SCRATCH
from aifs_ensemble.forecast.settings import area_of, daily_of, variables_of

if TYPE_CHECKING:
    from aifs_ensemble.fields.grib_encoder import OutputSpec

DEEP_LEADS = 2  # of each member


@dataclass(frozen=True)
class Decoded:
    """How many messages were decoded, and what is wrong by lead: of leads, and of their `coarse` files."""

    messages: int
    problems: Mapping[int, str]
    coarse: Mapping[int, str]


def decode_some(config: Config, manifest: MemberManifest, place: str, storage: Storage | None) -> Decoded:
    """Check every message of a few leads on scratch or at the destination, the same ones each time."""
    from aifs_ensemble.fields.coarse_check import check_coarse_lead
    from aifs_ensemble.fields.grib_check import check_lead

    member, spec = manifest.member, _spec(config, manifest)
    storage = None if place == SCRATCH else storage
    chosen = random.Random(f"{config.cycle} {member}").sample(manifest.leads, min(DEEP_LEADS, len(manifest.leads)))
    problems, coarse, decoded = {}, {}, 0
    for record in chosen:
        data = _lead_bytes(config, member, record, manifest.leads, storage)
        if data is not None:
            index = _file_bytes(config, member, record.index, storage)
            decoded += record.messages
            if wrong := check_lead(Path(record.grib.name), spec, record.lead, data=data, index=index):
                problems[record.lead] = _first(wrong)
        if record.coarse is None:
            continue
        grib, lines = (_file_bytes(config, member, file, storage) for file in record.coarse.files)
        if grib is not None and lines is not None:  # what is lost is told without decoding
            decoded += record.coarse.messages
            if wrong := check_coarse_lead(record.coarse, spec, record.lead, grib, lines):
                coarse[record.lead] = _first(wrong)
    return Decoded(decoded, problems, coarse)


def _first(wrong: Sequence[str]) -> str:
    more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
    return f"{wrong[0]}{more}"


def _spec(config: Config, manifest: MemberManifest) -> OutputSpec:
    """Return how the messages of a member must be written; its settings are those of the configuration."""
    from aifs_ensemble.fields.grib_encoder import output_spec

    forecast = config.forecast
    return output_spec(
        config.model,
        config.cycle,
        manifest.member,
        ensemble_size=manifest.ensemble_size,
        bits=bits_for(config.model.delivered, forecast.packing),
        accumulate=forecast.accumulate,
        variables=variables_of(config.model, manifest),
        daily=daily_of(manifest),
        area=area_of(manifest),
    )


def _lead_bytes(
    config: Config, member: int, record: LeadRecord, records: Iterable[LeadRecord], storage: Storage | None
) -> bytes | None:
    """Return the GRIB of a lead: a file of scratch, an object or a piece of a block; None when its local copy went."""
    data = _file_bytes(config, member, record.grib, storage)
    if data is not None or storage is None:
        return data
    for block in make_blocks(config.cycle, member, records, config.delivery.block_hours):
        if record in block.leads:
            before = sum(other.grib.size for other in block.leads if other.lead < record.lead)
            key = config.objects.block(member, block.start, block.end)
            return storage.get_range(key, before, record.grib.size)
    return None


def _file_bytes(config: Config, member: int, file: FileRecord, storage: Storage | None) -> bytes | None:
    """Return a lead's file at the destination, or without `storage` on scratch; None when it went."""
    if storage is None:
        paths = lead_file_paths(config.scratch, member, file)
        return paths[0].read_bytes() if paths else None
    with suppress(MissingError):
        return storage.get_bytes(config.objects.published(file.name))
    return None
