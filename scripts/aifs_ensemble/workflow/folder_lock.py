"""Which runs work in this folder: each holds a lock that dies with its process, so that one that was killed is known.

Snakemake's own locks are files, which stay when its process is killed. They name files and no process, and let runs of
other files work beside each other. Each run therefore leaves a record beside them while it has them, and holds that
record's lock. Where Snakemake refuses to start and no such lock is held, the run that left its locks is dead.
"""

from __future__ import annotations

import os
import platform
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from aifs_ensemble.common import clock
from aifs_ensemble.common.errors import OtherRunError, VerificationError
from aifs_ensemble.common.files import json_bytes
from aifs_ensemble.common.locks import HeldError, held, marker_of
from aifs_ensemble.common.records import read_record, sealed
from aifs_ensemble.common.text import foreign
from aifs_ensemble.workflow import snakemake_internals as internals

SCHEMA = "aifs-ensemble-folder/1"
_GATE_SECONDS = 30.0
_HOW = "if none runs, the same command with --unlock removes its locks"
Say = Callable[[str], None]


@dataclass(frozen=True)
class RunRecord:
    """The record of a run that works in a folder; the time is UTC."""

    schema: str
    host: str
    process: int
    began: str

    def __str__(self) -> str:
        return f"process {self.process} on {foreign(self.host)}, begun at {foreign(self.began)}"


def hold(workflow: Any, say: Say) -> None:
    """Have this run hold a lock of its own while it has Snakemake's; where Snakemake locks nothing, it has none.

    Locks that a dead run left are removed, and `say` gets a line of it.
    """
    internals.around_lock(workflow, partial(_held, say))


@contextmanager
def _held(say: Say, snakemakes: internals.FolderLock) -> Iterator[None]:
    """Hold Snakemake's lock, and a record beside it that is locked as long as this process lives.

    Raises OtherRunError where others have Snakemake's lock, unless they are known to be dead.
    """
    folder = snakemakes.folder / "runs"
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack, internals.errors_in_one_line():
        with _gate(folder):
            own = stack.enter_context(_record(folder))
            try:
                stack.enter_context(snakemakes.take())
            except internals.FolderLockedError:
                dead = _dead(folder, own)
                snakemakes.remove()
                _forget(dead)
                before = next(iter(dead.values()))
                say(f"{_place(folder)}: the run before is dead ({before}); this one goes on from there")
                stack.enter_context(snakemakes.take())
        until_end = stack.pop_all()
    try:
        with until_end:
            yield
    finally:
        # Snakemake has removed all locks of the folder, and with them what records of the dead were for
        with suppress(OtherRunError), _gate(folder):
            _forget([path for path in folder.glob("*.json") if _is_free(path)])


@contextmanager
def _gate(folder: Path) -> Iterator[None]:
    """Keep other runs from beginning meanwhile: two that find a dead run do not both take its place."""
    with ExitStack() as stack:
        try:
            stack.enter_context(held(folder / "gate", _GATE_SECONDS))
        except HeldError:
            raise OtherRunError(
                f"{_place(folder)}: another snakemake begins in this folder, expected one at a time"
            ) from None
        yield


@contextmanager
def _record(folder: Path) -> Iterator[Path]:
    """Hold the record of this run; it goes at the end."""
    path = folder / f"{uuid.uuid4().hex}.json"
    run = RunRecord(SCHEMA, platform.node(), os.getpid(), clock.now().strftime("%Y-%m-%d %H:%M:%S UTC"))
    with held(path, 0) as file:
        file.write(json_bytes(sealed(asdict(run))).decode())
        file.flush()
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)


def _dead(folder: Path, own: Path) -> dict[Path, RunRecord]:
    """Return the runs that have left Snakemake's locks; OtherRunError unless they are known to be dead."""
    where = _place(folder)
    found = {path: _read(path) for path in sorted(folder.glob("*.json")) if path != own}
    for path, run in found.items():
        if not _is_free(path):
            raise OtherRunError(
                f"{where}: another snakemake works in this folder ({run or 'unknown'}), expected none that makes the "
                "same files; wait until it ends"
            )
    dead = {path: run for path, run in found.items() if run}
    for run in dead.values():
        if run.host != platform.node():  # its lock is perhaps not seen from here
            raise OtherRunError(f"{where}: another snakemake works in this folder, or died there ({run}); {_HOW}")
    if not dead:
        raise OtherRunError(f"{where}: another snakemake works in this folder, or died there (unknown); {_HOW}")
    return dead


def _place(folder: Path) -> Path:
    return folder.parent.parent


def _read(path: Path) -> RunRecord | None:
    try:
        return read_record(RunRecord, path.read_bytes(), str(path), schema=SCHEMA)
    except (OSError, VerificationError):
        return None


def _is_free(record: Path) -> bool:
    """Tell whether the run of a record is gone, as far as locks are seen from here."""
    try:
        with held(record, 0):
            return True
    except HeldError:
        return False


def _forget(records: Iterable[Path]) -> None:
    for path in records:
        for one in (path, marker_of(path)):
            one.unlink(missing_ok=True)
