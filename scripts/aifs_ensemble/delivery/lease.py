"""One run of a cycle at a time: an object at the destination says who makes it, and is kept fresh while that goes on.

Snakemake's own lock knows one working directory; two checkouts, or two machines, may have the same destination. The
object is made where there is none, and replaced only in the generation that was looked at, so that of two runs that
begin together one has it. It goes when its run ends. One that was left behind holds for `STALE_SECONDS` after it was
refreshed last; less where its process is known to be gone from this machine.
"""

from __future__ import annotations

import logging
import os
import platform
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from aifs_ensemble.common import clock
from aifs_ensemble.common.config import Config
from aifs_ensemble.common.errors import OtherRunError, StorageError, VerificationError
from aifs_ensemble.common.file_identity import boot_id
from aifs_ensemble.common.files import json_bytes
from aifs_ensemble.common.records import read_record, sealed
from aifs_ensemble.common.storage import ConflictError, MissingError, ObjectInfo, Storage
from aifs_ensemble.common.text import duration, foreign

LOG = logging.getLogger(__name__)
SCHEMA = "aifs-ensemble-run/1"
REFRESH_SECONDS = 120.0
STALE_SECONDS = 900.0
_TIME = "%Y-%m-%d %H:%M:%S UTC"


@dataclass(frozen=True)
class Holder:
    """Who makes a cycle: the record at the destination. Times are UTC.

    `numbering` tells whose process numbers these are: of which start of a machine, and of which container on it.
    """

    schema: str
    id: str
    host: str
    numbering: str
    process: str
    folder: str
    started: str
    refreshed: str

    def gone(self) -> bool:
        """Tell whether its process is known to be gone: it was of this machine, and is not there any more."""
        number = self.process.partition(":")[0]
        return number.isdecimal() and self.numbering == _numbering() != "" and self.process != _process(int(number))


class RunLease:
    """The right to make a cycle at a destination.

    Parameters
    ----------
    config : names the cycle
    storage : the destination
    """

    def __init__(self, config: Config, storage: Storage):
        self._unit, self._key, self._storage = config.unit, config.objects.run, storage
        now = clock.now().strftime(_TIME)
        self._holder = Holder(
            SCHEMA, uuid.uuid4().hex, platform.node(), _numbering(), _process(os.getpid()), str(Path.cwd()), now, now
        )
        self._there: ObjectInfo | None = None
        self._over = threading.Event()

    def held(self) -> str | None:
        """Return in words who has it, None where nobody has."""
        try:
            self.left_behind()
        except OtherRunError as error:
            return str(error)
        return None

    def left_behind(self) -> ObjectInfo | None:
        """Return what a run left behind, None where there is nothing; OtherRunError while another run has it."""
        found = self._storage.stat(self._key)
        if found is not None and (other := self._look()) is not None:
            self._refuse_held(other, found)
        return found

    def take(self) -> None:
        """Have the lease from now on; OtherRunError, one line, while another run has it."""
        self.take_from(self.left_behind())

    def take_from(self, found: ObjectInfo | None) -> None:
        """Have the lease in place of what `left_behind` found, as `take` does; asks nothing of it again."""
        try:
            self._there = self._storage.put_bytes(self._content(), self._key, replacing=found)
        except ConflictError:
            raise OtherRunError(self._taken(self._look(), "began at the same time")) from None
        threading.Thread(target=self._keep, name="lease", daemon=True).start()

    def give_back(self) -> None:
        """Let others have it; nothing where it is not held."""
        self._over.set()
        held, self._there = self._there, None
        if held is not None:
            with suppress(StorageError):  # it becomes stale
                self._storage.delete(self._key, generation=held.generation)

    def refresh(self) -> bool:
        """Say that the run goes on; False when somebody else has the lease."""
        if self._there is None:
            return False
        try:
            self._there = self._storage.put_bytes(self._content(), self._key, replacing=self._there)
        except ConflictError:
            self._there = None
            LOG.warning("%s: another run makes %s now", self._storage.address(self._key), self._unit)
        except StorageError as error:
            LOG.warning("%s: not refreshed (%s)", self._storage.address(self._key), error)
        return self._there is not None

    def _keep(self) -> None:
        while not self._over.wait(REFRESH_SECONDS) and self.refresh():
            pass

    def _content(self) -> bytes:
        return json_bytes(sealed(asdict(self._holder) | {"refreshed": clock.now().strftime(_TIME)}))

    def _look(self) -> Holder | None:
        """Return who has it; None where it is gone, or is no record of ours, which holds nobody up."""
        try:
            return read_record(Holder, self._storage.get_bytes(self._key), self._key, schema=SCHEMA)
        except (MissingError, VerificationError):
            return None

    def _refuse_held(self, other: Holder, found: ObjectInfo) -> None:
        """Raise OtherRunError unless the lease was left behind."""
        age = (clock.now() - (found.updated or _time(other.refreshed))).total_seconds()
        if other.gone() or age > STALE_SECONDS:
            LOG.warning(
                "%s: left by a run that began at %s and is gone",
                self._storage.address(self._key),
                foreign(other.started),
            )
            return
        raise OtherRunError(self._taken(other, f"showed life {duration(max(age, 0))} ago"))

    def _taken(self, other: Holder | None, when: str) -> str:
        who = (
            f"{foreign(other.host)}:{foreign(other.folder)}, begun at {foreign(other.started)}" if other else "unknown"
        )
        return (
            f"{self._unit}: another run makes it ({who}, {when}), expected one at a time; if it is gone, remove "
            f"{self._storage.address(self._key)}, or wait {duration(STALE_SECONDS)} from then"
        )


@contextmanager
def alone(config: Config, storage: Storage) -> Iterator[None]:
    """Have the lease of a cycle while a command changes what there is of it; OtherRunError while a run has it.

    Nobody makes a cycle of which the destination has nothing: then nothing is written there. Where it takes no files
    from here, nobody makes it from here either, and the command meets that itself.
    """
    lease = RunLease(config, storage)
    if next(storage.list(f"{config.cycle}/"), None) is not None:
        found = lease.left_behind()
        with suppress(StorageError):
            lease.take_from(found)
    try:
        yield
    finally:
        lease.give_back()


def _time(text: str) -> datetime:
    try:
        return datetime.strptime(text, _TIME).replace(tzinfo=UTC)
    except ValueError:
        return datetime.fromtimestamp(0, UTC)


def _numbering() -> str:
    try:
        return f"{boot_id()} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _process(number: int) -> str:
    """Return what tells a process from all others of this machine, its number first; empty where it is not there."""
    try:
        # behind the name, which may hold anything in brackets
        return f"{number}:{Path(f'/proc/{number}/stat').read_text().rpartition(')')[2].split()[19]}"
    except (OSError, IndexError):
        return ""
