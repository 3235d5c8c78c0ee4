"""Manifests: what a finished member and a finished ensemble consist of.

"Done" means that a manifest verifies, never that a file exists.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from aifs_ensemble.common.errors import InputError, VerificationError
from aifs_ensemble.common.files import crc32c_file, read_json, write_json

MEMBER_SCHEMA = "aifs-ensemble/member-manifest/1"
ENSEMBLE_SCHEMA = "aifs-ensemble/ensemble-manifest/1"


@dataclass(frozen=True)
class FileRecord:
    """A published file: its name (no folder), size in bytes and base64 CRC32C."""

    name: str
    size: int
    crc32c: str


@dataclass(frozen=True)
class LeadRecord:
    """One lead of one member: the GRIB file, its index and the number of messages."""

    lead: int
    grib: FileRecord
    index: FileRecord
    messages: int

    @property
    def files(self) -> tuple[FileRecord, FileRecord]:
        """The GRIB file and its index."""
        return self.grib, self.index


@dataclass(frozen=True)
class MemberManifest:
    """Everything a member consists of and how it was made.

    `timings` are seconds by phase (``load``, ``compile``, ``steps``, ``wait_output``, ``drain``,
    ``total`` ...) and `step_seconds` those of each step computed by the last attempt.
    `attempts` has one entry per process that worked on the member. `acceleration` says which forward pass made it
    (`common.acceleration`), empty in manifests written before that was known.
    """

    model: str
    untrained: bool
    cycle: str
    member: int
    ensemble_size: int
    grid: str
    leads: tuple[LeadRecord, ...]
    seed: Mapping[str, Any] = field(default_factory=dict)
    checkpoint: Mapping[str, Any] = field(default_factory=dict)
    initial_conditions: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    device: str = ""
    acceleration: Mapping[str, Any] = field(default_factory=dict)
    machine: Mapping[str, Any] = field(default_factory=dict)
    timings: Mapping[str, float] = field(default_factory=dict)
    step_seconds: tuple[float, ...] = ()
    attempts: tuple[Mapping[str, Any], ...] = ()

    @property
    def bytes(self) -> int:
        """Size of all GRIB files and indexes."""
        return sum(record.grib.size + record.index.size for record in self.leads)

    @property
    def fields(self) -> int:
        """Number of GRIB messages."""
        return sum(record.messages for record in self.leads)

    @property
    def content_digest(self) -> str:
        """SHA-256 over every file's name, size and checksum: equal exactly when the content is."""
        lines = [f"{f.name} {f.size} {f.crc32c}\n" for record in self.leads for f in record.files]
        return hashlib.sha256("".join(lines).encode()).hexdigest()


def machine_name(machine: Mapping[str, Any]) -> str:
    """Return the name under which members that shared a machine find each other: the instance's, else the host's."""
    return str(machine.get("instance") or machine.get("name") or "?")


def write_member_manifest(path: Path, manifest: MemberManifest) -> None:
    """Write a member's manifest atomically."""
    content = {"schema": MEMBER_SCHEMA, "content_digest": manifest.content_digest, **asdict(manifest)}
    write_json(path, content)


def _file_record(content: Mapping[str, Any]) -> FileRecord:
    return FileRecord(content["name"], content["size"], content["crc32c"])


def lead_record(content: Mapping[str, Any]) -> LeadRecord:
    """Return a lead record from its JSON form."""
    grib, index = _file_record(content["grib"]), _file_record(content["index"])
    return LeadRecord(content["lead"], grib, index, content["messages"])


def parse_member_manifest(content: Mapping[str, Any], name: str) -> MemberManifest:
    """Return the manifest in `content`; VerificationError naming `name` when it is not a sound one."""
    if content.get("schema") != MEMBER_SCHEMA:
        raise VerificationError(f"{name}: schema {content.get('schema')!r}, expected {MEMBER_SCHEMA!r}")
    try:
        known = {key: value for key, value in content.items() if key in MemberManifest.__dataclass_fields__}
        known["leads"] = tuple(lead_record(record) for record in content["leads"])
        known["step_seconds"] = tuple(content.get("step_seconds", ()))
        known["attempts"] = tuple(content.get("attempts", ()))
        manifest = MemberManifest(**known)
    except (KeyError, TypeError) as error:
        raise VerificationError(f"{name}: not a member manifest ({error!r})") from None
    if manifest.content_digest != content.get("content_digest"):
        raise VerificationError(f"{name}: content_digest differs from the leads listed")
    return manifest


def read_member_manifest(path: Path) -> MemberManifest:
    """Return the manifest in `path`; InputError or VerificationError when it is not a sound one."""
    content = read_json(path)
    if not isinstance(content, Mapping):
        raise InputError(f"{path}: not a member manifest")
    return parse_member_manifest(content, str(path))


def check_file(folder: Path, record: FileRecord) -> str | None:
    """Return what is wrong with a file against its record, or None when it is right."""
    path = folder / record.name
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        return f"{path}: missing"
    if size != record.size:
        return f"{path}: {size} bytes, expected {record.size}"
    found = crc32c_file(path)
    return None if found == record.crc32c else f"{path}: crc32c {found}, expected {record.crc32c}"


def check_leads(folder: Path, leads: Iterable[LeadRecord]) -> dict[int, str]:
    """Return the damaged leads of a folder and what is wrong with each."""
    damaged = {}
    for record in leads:
        wrong = check_file(folder, record.grib) or check_file(folder, record.index)
        if wrong:
            damaged[record.lead] = wrong
    return damaged


def ensemble_state(delivered: int, wanted: int, min_members: int) -> str:
    """Return ``complete``, ``short`` or ``failed``."""
    if delivered >= wanted:
        return "complete"
    return "short" if delivered >= min_members else "failed"
