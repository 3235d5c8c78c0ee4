"""Which process machines are rented for, and whether it still lives.

A coordinator's name is ``HOST-PID-STARTED-RANDOM``: a process id alone comes again. Commands that it starts inherit
the name, and it may stand as a label of Google Cloud.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import uuid
from pathlib import Path

import psutil

from aifs_ensemble.common import environment
from aifs_ensemble.common.file_identity import boot_id

# A process's start is computed from the machine's, which shifts when its clock is set.
_TOLERANCE_SECONDS = 5.0


def this_host() -> str:
    """Return this machine's name, as it is part of a coordinator's."""
    return re.sub(r"[^a-z0-9_-]", "-", platform.node().lower())[:30]


def new_name() -> str:
    """Return a name for this process as a coordinator."""
    started = psutil.Process().create_time()
    return f"{this_host()}-{os.getpid()}-{started:.0f}-{_token(os.getpid())}{uuid.uuid4().hex[:2]}"


def _token(process: int) -> str:
    """Return six hexadecimal digits of what stays a process's own, whatever the clock is set to; empty if not known.

    The kernel counts a process's start from the machine's (proc_pid_stat(5), field 22).
    """
    try:
        ticks = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return "000000"
    return hashlib.sha256(f"{boot_id()} {process} {ticks}".encode()).hexdigest()[:6]


def name_this_process() -> str:
    """Return the coordinator's name, given to this process now unless one that started it has one."""
    return os.environ.setdefault(environment.COORDINATOR, new_name())


def current() -> str:
    """Return the coordinator that this process belongs to; empty where a person runs a command."""
    return os.environ.get(environment.COORDINATOR, "")


def _parts(name: str) -> re.Match[str] | None:
    return re.fullmatch(r"(.+)-(\d+)-(\d+)-([0-9a-f]{8})", name)


def started_before(name: str, when: float) -> bool:
    """Return whether a coordinator certainly started before a time; False where its name does not tell."""
    found = _parts(name)
    return found is not None and int(found[3]) < when - _TOLERANCE_SECONDS


def lives(name: str) -> bool:
    """Return whether a coordinator is a process that runs on this machine; those elsewhere count as gone."""
    found = _parts(name)
    if found is None or found[1] != this_host():
        return False
    try:
        process = psutil.Process(int(found[2]))
        same = found[4].startswith(_token(process.pid))
        # names of earlier versions end in anything, and tell by the clock alone
        same = same or abs(process.create_time() - int(found[3])) < _TOLERANCE_SECONDS
        return same and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def describe(name: str) -> str:
    """Return what a person calls the coordinator of a name."""
    found = _parts(name)
    return f"process {found[2]} on {found[1]}" if found else name
