"""The work folder of a member: what a forecast has done so far, outside every declared output.

    lock               held by the process that works on the member
    fingerprint.json   settings that decide the content of the leads; other settings start afresh
    journal.jsonl      one `LeadRecord` a line, appended when the lead's files have their final names
    delivered.jsonl    the same, appended by the delivery for leads verified at the destination
    attempts.jsonl     two lines (begun, ended) for each process that worked on the member
    leads/             GRIB files and indexes
    restarts/          restart states

Nothing here is believed without a look: a lead counts when its files have the size and checksum recorded.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from aifs_ensemble.common.errors import InputError, VerificationError, WorkflowError
from aifs_ensemble.common.file_identity import file_identity
from aifs_ensemble.common.files import digest, remove_leftovers, write_json
from aifs_ensemble.common.locks import HeldError, held
from aifs_ensemble.common.manifest import (
    AttemptRecord,
    LeadRecord,
    check_coarse,
    check_leads,
    lead_problem,
    record_json,
)
from aifs_ensemble.common.records import Count, JsonLines, json_object, read_record

LOG = logging.getLogger(__name__)
# Outcomes of attempts that say nothing against another one.
INTERRUPTED = ("killed", "StoppedError", "InterruptedByUserError")
SCHEMA = "aifs-ensemble/work/1"
# Small files that go with a member, so that another machine can take it up.
WORK_FILES = ("fingerprint.json", "attempts.jsonl")
_CHUNK = 8 << 20


class LeadJournal:
    """Leads of one member that were published, the last line about a lead being the one that counts."""

    def __init__(self, path: Path, cycle: str, member: int):
        self._lines = JsonLines(path, LeadRecord, "lead")
        self._cycle, self._member = cycle, member

    def read(self) -> dict[int, LeadRecord]:
        """Return the records by lead; lines that are not records of the member are left out with a line in the log."""
        records: dict[int, LeadRecord] = {}
        for record in self._lines.read():
            if problem := lead_problem(record, self._cycle, self._member):
                LOG.warning("%s: left out: %s", self._lines.path, problem)
            else:
                records[record.lead] = record
        return records

    def append(self, record: LeadRecord) -> None:
        """Add a lead whose files have their final names."""
        self._lines.append(record_json(record))

    def write(self, records: Iterable[LeadRecord]) -> None:
        """Write the journal anew, in one step."""
        self._lines.write(map(record_json, records))

    def forget(self, leads: Collection[int]) -> None:
        """Drop leads, in one step."""
        if self._lines.path.exists():
            self.write(record for lead, record in self.read().items() if lead not in leads)


@dataclass(frozen=True)
class KnownFile:
    """A file whose SHA-256 is known as long as it is the same one, on the same start of the same machine."""

    path: str
    size: Count
    mtime_ns: int
    sha256: str
    identity: str = ""

    @classmethod
    def of(cls, path: Path, known: Mapping[str, Any] | None, digest_of: Callable[[Path], str]) -> KnownFile:
        """Return the digest of `path`, taken from `known` if the file has not changed since.

        A file that is gone keeps the digest it had: a finished member needs no inputs. InputError if it had none.
        """
        try:
            status, identity = path.stat(), file_identity(path)
        except OSError:
            if known is None:
                raise InputError(f"{path}: no such file") from None
            return cls(**known)
        same = known is not None and identity and known.get("identity") == identity
        sha256 = known["sha256"] if known is not None and same else digest_of(path)
        return cls(str(path), status.st_size, status.st_mtime_ns, sha256, identity)


@dataclass(frozen=True)
class Fingerprint:
    """What `fingerprint.json` holds; `digest` is that of the settings."""

    schema: str
    digest: str
    settings: Mapping[str, Any]
    files: Mapping[str, KnownFile]


class WorkFolder:
    """The work folder of one member; see the module's description."""

    def __init__(self, root: Path, cycle: str, member: int):
        self.root = root
        self.cycle = cycle
        self.member = member
        self.leads = root / "leads"
        self.restarts = root / "restarts"
        self.journal = LeadJournal(root / "journal.jsonl", cycle, member)
        self.delivered = LeadJournal(root / "delivered.jsonl", cycle, member)
        self._attempts = JsonLines(root / "attempts.jsonl", AttemptRecord, "attempt")
        self._fingerprint = root / "fingerprint.json"

    @contextmanager
    def lock(self, seconds: float = 30.0) -> Iterator[None]:
        """Keep other processes out; WorkflowError if one does not leave within `seconds`.

        Encoder processes of a killed forecast may hold the lock for a moment longer than it lived.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            try:
                file = stack.enter_context(held(self.root / "lock", seconds))
            except HeldError as error:
                raise WorkflowError(
                    f"{self.root}: {str(error) or 'another process'} works on member {self.member}, expected nobody"
                ) from None
            file.truncate(0)
            file.write(f"process {os.getpid()} on {os.uname().nodename}")
            file.flush()
            self.leads.mkdir(exist_ok=True)
            self.restarts.mkdir(exist_ok=True)
            yield

    def known_files(self) -> dict[str, Any]:
        """Return what was recorded about the digests of input files, by role."""
        recorded = self._read_fingerprint()
        return {role: asdict(file) for role, file in recorded.files.items()} if recorded else {}

    def recorded_settings(self) -> dict[str, Any] | None:
        """Return the settings under which the folder's content was made, None if it has none."""
        recorded = self._read_fingerprint()
        return dict(recorded.settings) if recorded else None

    def _read_fingerprint(self) -> Fingerprint | None:
        try:
            data = self._fingerprint.read_bytes()
            recorded = read_record(Fingerprint, data, str(self._fingerprint))
            if recorded.schema != SCHEMA or recorded.digest != digest(recorded.settings):
                raise VerificationError(f"{self._fingerprint}: differs from its own digest: edited or damaged")
        except (FileNotFoundError, IsADirectoryError):
            return None
        except VerificationError as error:
            LOG.warning("%s, counts as missing", error)
            return None
        return recorded

    def would_clear(self, settings: Mapping[str, Any]) -> bool:
        """Return whether `adopt` would remove content that was made under other settings."""
        recorded = self.recorded_settings()
        if recorded is not None:
            return recorded != settings
        made = self.journal.read() or self.delivered.read()
        return bool(made) and digest(settings) not in self._restart_fingerprints()

    def adopt(self, settings: Mapping[str, Any], files: Mapping[str, KnownFile]) -> bool:
        """Make the folder one of `settings`; return False if content of other settings was removed for it.

        Records in a folder without a fingerprint (a new machine, to which the delivery brought them) count
        only beside a restart state that carries the same one.
        """
        recorded = self.recorded_settings()
        kept = not self.would_clear(settings)
        if not kept and recorded is not None:
            changed = [key for key in {**recorded, **settings} if recorded.get(key) != settings.get(key)]
            LOG.warning(
                "member %d: %s changed since this forecast began: its leads are made afresh",
                self.member,
                ", ".join(_change(key, recorded.get(key), settings.get(key)) for key in changed),
            )
            self._clear()
        elif not kept:
            LOG.warning("member %d: %s is missing: its leads are made afresh", self.member, self._fingerprint)
            self._clear()
        self.record_settings(settings, files)
        return kept

    def record_settings(self, settings: Mapping[str, Any], files: Mapping[str, KnownFile]) -> None:
        """Write down under which settings the folder's content is made, whatever it holds."""
        content = {
            "schema": SCHEMA,
            "digest": digest(settings),
            "settings": dict(settings),
            "files": {role: asdict(file) for role, file in files.items()},
        }
        write_json(self._fingerprint, content)

    @property
    def empty(self) -> bool:
        """Whether nothing was made yet: no lead, no restart state."""
        return not (self.journal.read() or self.delivered.read() or any(self.restarts.glob("*.safetensors")))

    def gave_up_acceleration(self) -> str:
        """Return why the last attempt that got so far took the model's own pass, empty if it did not."""
        noted = [attempt["acceleration"] for attempt in self.attempts() if attempt.get("acceleration")]
        return str(noted[-1].get("reason") or "not known") if noted and not noted[-1].get("accelerated") else ""

    def _restart_fingerprints(self) -> set[str]:
        found = set()
        for path in self.restarts.glob("*.safetensors"):
            with (
                suppress(SafetensorError, OSError, ValueError, VerificationError),
                safe_open(path, framework="numpy") as file,
            ):
                provenance = json_object((file.metadata() or {}).get("provenance", "{}"), str(path))
                found.add(str(provenance.get("fingerprint")))
        return found

    def _clear(self) -> None:
        # the journal goes first: whatever is left after a kill in the middle is then in no record
        for name in ("journal.jsonl", "delivered.jsonl", "attempts.jsonl"):
            (self.root / name).unlink(missing_ok=True)
        for folder in (self.leads, self.restarts):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()

    def finished(self, wanted: Iterable[int], *, local: bool) -> dict[int, LeadRecord]:
        """Return the records of those wanted leads that are whole, by lead.

        A lead is whole when its GRIB and index are here with the sizes and checksums recorded or, unless `local`
        files are asked for, when the delivery recorded it as verified at the destination. A coarse file that is lost or
        damaged here is forgotten: nothing is computed again for it.
        """
        journal = self.journal.read()
        delivered = {} if local else self.delivered.read()
        mine = {lead: journal[lead] for lead in wanted if lead in journal}
        with ThreadPoolExecutor(4) as executor:
            damage = dict(zip(mine, executor.map(self._damage, mine.values()), strict=True))
        whole = {}
        for lead in wanted:
            if lead in mine and damage[lead] is None:
                whole[lead] = self._sound_coarse(mine[lead], delivered.get(lead))
            elif lead in delivered:
                whole[lead] = delivered[lead]
            elif lead in mine:
                LOG.warning("member %d: lead %d h is made again: %s", self.member, lead, damage[lead])
        return whole

    def _sound_coarse(self, record: LeadRecord, delivered: LeadRecord | None) -> LeadRecord:
        """Return a whole lead without the coarse file that neither this folder nor the destination has any more."""
        if delivered is not None and delivered.coarse == record.coarse:
            return record
        if problem := check_coarse(self.leads.joinpath, [record]).get(record.lead):
            LOG.warning("member %d: %s; products will read %s", self.member, problem, record.grib.name)
            record = replace(record, coarse=None)
            self.journal.append(record)
        return record

    def _damage(self, record: LeadRecord) -> str | None:
        return check_leads(self.leads, [record]).get(record.lead)

    def remove_leftovers(self, records: Iterable[LeadRecord]) -> None:
        """Remove every file of the leads folder that is in none of the `records`."""
        known = {file.name for record in records for file in (*record.files, *record.coarse_files)}
        remove_leftovers(self.leads)
        remove_leftovers(self.root)
        for path in self.leads.iterdir():
            if path.name not in known:
                path.unlink(missing_ok=True) if path.is_file() or path.is_symlink() else shutil.rmtree(path)

    def attempts(self) -> list[dict[str, Any]]:
        """Return what is known of each process that worked on the member, in order."""
        found: dict[int, dict[str, Any]] = {}
        for content in self._attempts.read():
            found.setdefault(content.get("attempt", 0), {}).update(content)
        return list(found.values())

    def begin_attempt(self, content: Mapping[str, Any]) -> int:
        """Record the start of an attempt and return its number, counted from 1; unless more is told, it was killed."""
        number = max((attempt.get("attempt", 0) for attempt in self.attempts()), default=0) + 1
        self.record_attempt(number, {**content, "outcome": "killed"})
        return number

    def record_attempt(self, number: int, content: Mapping[str, Any]) -> None:
        """Record more about an attempt; later words about the same thing count."""
        self._attempts.append({"attempt": number, **content})


def _change(key: str, before: Any, after: Any) -> str:
    if isinstance(before, dict) or isinstance(after, dict):
        return key
    return f"{key} ({_short(before)} -> {_short(after)})"


def _short(value: Any) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= 20 else text[:12] + "..."
