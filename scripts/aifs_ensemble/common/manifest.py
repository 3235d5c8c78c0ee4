"""Manifests: what a finished member and a finished ensemble consist of.

"Done" means that a manifest verifies, never that a file exists.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field
from typing_extensions import TypedDict  # what pydantic reads before Python 3.12

from aifs_ensemble.common.errors import InputError, VerificationError
from aifs_ensemble.common.files import crc32c_file, write_json
from aifs_ensemble.common.names import (
    coarse_file,
    index_file,
    lead_file,
    lead_name,
    member_name,
    parse_member_name,
)
from aifs_ensemble.common.records import Count, Crc32c, Finite, json_object, read_record, sealed
from aifs_ensemble.common.text import foreign

MEMBER_SCHEMA = "aifs-ensemble/member-manifest/2"
# Of these nothing but the leads was vouched for; they are read as they are.
OLD_MEMBER_SCHEMA = "aifs-ensemble/member-manifest/1"
ENSEMBLE_SCHEMA = "aifs-ensemble/ensemble-manifest/2"
OLD_ENSEMBLE_SCHEMA = "aifs-ensemble/ensemble-manifest/1"


GRID = r"^\d+(\.\d+)?x\d+(\.\d+)?$"  # regular grids, degrees east-west and north-south
_NO_COARSE = ("coarse", None)


def _told(**kinds: type | tuple[type, ...]) -> AfterValidator:
    """Return a check of what is read from a mapping that is otherwise free: those of its keys have these types."""

    def check(content: Mapping[str, Any]) -> Mapping[str, Any]:
        for key, kind in kinds.items():
            if content.get(key) is not None and not isinstance(content[key], kind):
                raise ValueError(f"{key} is of another type")
        return content

    return AfterValidator(check)


def _iso(text: str) -> str:
    datetime.fromisoformat(text).timestamp()
    return text


Free = Mapping[str, Any]
Machine = Annotated[Free, _told(spot=bool, peak_gpu_mb=(int, float))]
Accelerated = Annotated[Free, _told(accelerated=bool, asked=bool, reason=str)]
Time = Annotated[str, AfterValidator(_iso)]


class AttemptRecord(TypedDict, total=False):
    """What is known of one process that worked on a member; whatever else it says stays with it."""

    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]

    attempt: Count
    began: Time
    ended: Time
    outcome: str
    device: str
    acceleration: Accelerated
    machine: Machine
    versions: Free
    initial_conditions: Free
    timings: Mapping[str, Finite]
    step_seconds: list[Finite]


@dataclass(frozen=True)
class FileRecord:
    """A published file: its name (no folder), size in bytes and base64 CRC32C."""

    name: str
    size: Count
    crc32c: Crc32c


@dataclass(frozen=True)
class CoarseRecord:
    """A lead's second file: some of its fields on a regular grid, interpolated before they were packed.

    Attributes
    ----------
    grid : such as ``1.5x1.5``
    variables : of the model, in the file's order; ``all`` of its outputs
    methods : interpolation by variable; ``default`` stands for those that are not named
    weights : SHA-256 of the interpolation weights by method
    """

    grid: Annotated[str, Field(pattern=GRID)]
    variables: Literal["all"] | tuple[str, ...]
    methods: Mapping[str, str]
    weights: Mapping[str, str]
    grib: FileRecord
    index: FileRecord
    messages: Count

    @property
    def files(self) -> tuple[FileRecord, FileRecord]:
        """The GRIB file and its index."""
        return self.grib, self.index

    def method(self, variable: str) -> str:
        """Return the interpolation of a variable that is in the file."""
        return self.methods.get(variable, self.methods.get("default", ""))

    def holds(self, variable: str) -> bool:
        """Tell whether a variable of the model is in the file."""
        return self.variables == "all" or variable in self.variables


@dataclass(frozen=True)
class LeadRecord:
    """One lead of one member: the GRIB file, its index and the number of messages.

    What was made `coarse` of it comes on top: records of one lead are equal whether it is there or not, and nothing is
    computed again for its sake.
    """

    lead: Count
    grib: FileRecord
    index: FileRecord
    messages: Count
    coarse: CoarseRecord | None = field(default=None, compare=False)

    @property
    def files(self) -> tuple[FileRecord, FileRecord]:
        """The GRIB file and its index."""
        return self.grib, self.index

    @property
    def coarse_files(self) -> tuple[FileRecord, ...]:
        """The coarse GRIB file and its index, where they were made."""
        return self.coarse.files if self.coarse else ()

    @property
    def bytes(self) -> int:
        """Size of all four files."""
        return sum(file.size for file in (*self.files, *self.coarse_files))


def record_json(record: Any) -> dict[str, Any]:
    """Return a record in JSON-compatible form; leads without a coarse file do not mention one."""
    return asdict(record, dict_factory=lambda items: {key: value for key, value in items if (key, value) != _NO_COARSE})


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
    member: Annotated[int, Field(ge=0, le=999)]
    ensemble_size: Count
    grid: str
    leads: tuple[LeadRecord, ...]
    seed: Free = field(default_factory=dict)
    checkpoint: Free = field(default_factory=dict)
    initial_conditions: Free = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    settings: Annotated[Free, _told(packing=dict, output=list, daily=list, area=list)] = field(default_factory=dict)
    device: str = ""
    acceleration: Accelerated = field(default_factory=dict)
    machine: Machine = field(default_factory=dict)
    timings: Mapping[str, Finite] = field(default_factory=dict)
    step_seconds: tuple[Finite, ...] = ()
    attempts: tuple[AttemptRecord, ...] = ()

    @property
    def bytes(self) -> int:
        """Size of all GRIB files and indexes, the coarse ones too."""
        return sum(record.bytes for record in self.leads)

    @property
    def files(self) -> int:
        """Number of GRIB files and indexes."""
        return sum(len(record.files) + len(record.coarse_files) for record in self.leads)

    @property
    def fields(self) -> int:
        """Number of GRIB messages."""
        return sum(record.messages for record in self.leads)

    @property
    def content_digest(self) -> str:
        """SHA-256 over every lead's and index's name, size and checksum: equal exactly when these are.

        Coarse leads stand outside: a member is the same with them, without them, and when some are lost.
        """
        lines = [f"{f.name} {f.size} {f.crc32c}\n" for record in self.leads for f in record.files]
        return hashlib.sha256("".join(lines).encode()).hexdigest()


def machine_name(machine: Mapping[str, Any]) -> str:
    """Return the name under which members that shared a machine find each other: the instance's, else the host's."""
    return str(machine.get("instance") or machine.get("name") or "?")


def write_member_manifest(path: Path, manifest: MemberManifest) -> None:
    """Write a member's manifest atomically, sealed by a digest of all of it."""
    write_json(path, member_manifest_json(manifest))


def member_manifest_json(manifest: MemberManifest) -> dict[str, Any]:
    """Return a member's manifest as it is written, sealed."""
    content = {"schema": MEMBER_SCHEMA, "content_digest": manifest.content_digest, **record_json(manifest)}
    return sealed(content)


def lead_record(content: Mapping[str, Any]) -> LeadRecord:
    """Return a lead record from its JSON form, as a process of our own writes it: nothing is checked."""
    coarse = content.get("coarse")
    return LeadRecord(
        content["lead"],
        **_file_records(content),
        messages=content["messages"],
        coarse=coarse and _coarse_record(coarse),
    )


def _coarse_record(content: Mapping[str, Any]) -> CoarseRecord:
    variables = content["variables"]
    known = {"variables": variables if variables == "all" else tuple(variables), **_file_records(content)}
    return CoarseRecord(**{**content, **known})


def _file_records(content: Mapping[str, Any]) -> dict[str, FileRecord]:
    return {name: FileRecord(**content[name]) for name in ("grib", "index")}


def lead_problem(record: LeadRecord, cycle: str, member: int) -> str | None:
    """Return why a record is not of a lead of this member, None when it is: files have the names that it gives them."""
    gribs = [lead_file(cycle, member, record.lead)]
    if record.coarse:
        gribs.append(coarse_file(cycle, member, record.lead, record.coarse.grid))
    named = [file.name for file in (*record.files, *record.coarse_files)]
    if named == [name for grib in gribs for name in (grib, index_file(grib))]:
        return None
    return f"{lead_name(record.lead)} names other files than those of {member_name(member)} of {cycle}"


def parse_member_manifest(
    data: bytes, name: str, *, cycle: str | None = None, member: int | None = None
) -> MemberManifest:
    """Return the manifest in `data`; VerificationError naming it when it is not a sound one, or another member's.

    Cycle, member and the names of all files agree with each other, and with `cycle` and `member` where they are known.
    Keys that this version does not know stay out; the seal covers them.
    """
    manifest = read_record(MemberManifest, data, name, schema=MEMBER_SCHEMA, unsealed=OLD_MEMBER_SCHEMA)
    for what, found, expected in (("cycle", manifest.cycle, cycle), ("member", manifest.member, member)):
        if expected is not None and found != expected:
            raise VerificationError(f"{name}: of {what} {foreign(found)}, expected {expected}")
    leads = [record.lead for record in manifest.leads]
    if leads != sorted(set(leads)):
        raise VerificationError(f"{name}: leads out of order or twice")
    for record in manifest.leads:
        if problem := lead_problem(record, manifest.cycle, manifest.member):
            raise VerificationError(f"{name}: {problem}")
    if manifest.content_digest != json_object(data, name).get("content_digest"):
        raise VerificationError(f"{name}: content_digest differs from the leads listed")
    return manifest


def read_member_manifest(path: Path, cycle: str | None = None) -> MemberManifest:
    """Return the manifest in `path`; InputError when there is none, VerificationError when it is not a sound one.

    A file with a member's name must be of that member.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    return parse_member_manifest(data, str(path), cycle=cycle, member=parse_member_name(path.stem))


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


def check_coarse(place: Callable[[str], Path], leads: Iterable[LeadRecord]) -> dict[int, str]:
    """Return the leads whose coarse files are not as recorded and what is wrong; `place` gives each file's path."""
    damaged = {}
    for record in leads:
        wrong = (check_file(place(file.name).parent, file) for file in record.coarse_files)
        if found := next(filter(None, wrong), None):
            damaged[record.lead] = found
    return damaged


def ensemble_state(delivered: int, wanted: int, min_members: int) -> str:
    """Return ``complete``, ``short`` or ``failed``."""
    if delivered >= wanted:
        return "complete"
    return "short" if delivered >= min_members else "failed"
