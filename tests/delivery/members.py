"""Members as a forecast leaves them on scratch, with noise in place of fields."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from typing import Any

from aifs_ensemble.common.config import Config, merge
from aifs_ensemble.common.files import crc32c_bytes, write_bytes
from aifs_ensemble.common.manifest import FileRecord, LeadRecord, MemberManifest, write_member_manifest
from aifs_ensemble.common.names import index_file, lead_file
from aifs_ensemble.forecast.work_folder import WorkFolder

CYCLE = "20250819_0000"
MESSAGES = 3


def make_config(scratch: Path, destination: str, **over: Any) -> Config:
    """Return a configuration of two members and 24 hours; `over` is merged over it."""
    raw: dict[str, Any] = {
        "model": "demo",
        "cycle": CYCLE,
        "members": "1-2",
        "lead_hours": 24,
        "scratch": str(scratch),
        "destination": destination,
        "initial_conditions": {"source": "idealised"},
        "delivery": {"deadline_seconds": 60, "threads": 4},
    }
    merge(raw, over)
    return Config(raw)


def publish_lead(config: Config, member: int, lead: int, size: int = 3000, content: int = 0) -> LeadRecord:
    """Write one lead as the forecast publishes it: files under their final names, then a line in the journal.

    The same arguments give the same bytes.
    """
    work = WorkFolder(config.scratch.work(member), config.cycle, member)
    work.leads.mkdir(parents=True, exist_ok=True)
    noise = random.Random(f"{content} {member} {lead}").randbytes(size)
    step = size // MESSAGES
    lines = [
        json.dumps({"step": str(lead), "param": f"p{i}", "number": str(member), "_offset": i * step, "_length": step})
        for i in range(MESSAGES)
    ]
    name = lead_file(config.cycle, member, lead)
    index = ("\n".join(lines) + "\n").encode()
    files = []
    for file, data in ((name, noise), (index_file(name), index)):
        write_bytes(work.leads / file, data)
        files.append(FileRecord(file, len(data), crc32c_bytes(data)))
    record = LeadRecord(lead, files[0], files[1], MESSAGES)
    work.journal.append(record)
    return record


def finish_member(config: Config, member: int, records: list[LeadRecord]) -> MemberManifest:
    """Link the leads into the forecasts folder and write the manifest."""
    scratch = config.scratch
    scratch.forecasts().mkdir(parents=True, exist_ok=True)
    for record in records:
        for file in record.files:
            source, target = scratch.work(member) / "leads" / file.name, scratch.forecasts() / file.name
            if source.exists():
                target.unlink(missing_ok=True)
                os.link(source, target)
    manifest = MemberManifest(
        model=config.model.name,
        untrained=True,
        cycle=config.cycle,
        member=member,
        ensemble_size=50,
        grid=config.model.grid,
        leads=tuple(records),
        timings={"total": 1.0},
    )
    write_member_manifest(scratch.manifest(member), manifest)
    return manifest


def make_member(config: Config, member: int, size: int = 3000, content: int = 0) -> MemberManifest:
    """Make a finished member; the same arguments give the same bytes."""
    records = [publish_lead(config, member, lead, size, content) for lead in config.leads]
    return finish_member(config, member, records)


def expected_objects(config: Config, manifest: MemberManifest) -> dict[str, bytes]:
    """Return what the destination must hold of a member's leads, by key."""
    folder = config.scratch.work(manifest.member) / "leads"
    return {
        f"{config.cycle}/forecasts/{file.name}": (folder / file.name).read_bytes()
        for record in manifest.leads
        for file in record.files
    }


def make_real_member(config: Config, member: int, accumulate: str = "from_start") -> MemberManifest:
    """Make a finished member of real GRIB messages, as the forecast encodes them; its manifest names no settings."""
    import numpy as np
    from aifs_ensemble.common.parameters import bits_for
    from aifs_ensemble.fields.grib_encoder import FieldEncoder, output_spec
    from aifs_ensemble.fields.grib_index import index_bytes, index_entry

    bits = bits_for(config.model.delivered, {})
    spec = output_spec(config.model, config.cycle, member, ensemble_size=50, bits=bits, accumulate=accumulate)
    encoder = FieldEncoder(spec)
    records = []
    for lead in config.leads:
        record = publish_lead(config, member, lead)
        field = np.random.default_rng(lead).random(encoder.points, np.float32)
        data, entries = b"", []
        for variable in spec.variables:
            message = bytes(encoder.encode(variable, lead, field))
            entries.append(index_entry(spec, variable, lead, len(data), len(message)))
            data += message
        files = []
        for name, content in ((record.grib.name, data), (record.index.name, index_bytes(entries))):
            write_bytes(config.scratch.work(member) / "leads" / name, content)
            files.append(FileRecord(name, len(content), crc32c_bytes(content)))
        records.append(LeadRecord(lead, files[0], files[1], len(entries)))
    encoder.close()
    return finish_member(config, member, records)
