"""What members are doing on this machine, as their work folders tell it: for runs that deliver only at the end."""

from __future__ import annotations

import fcntl
import platform
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from aifs_ensemble.cloud.status import COMPUTED, FAILED, RUNNING, STARTING, WAITING, MemberStatus
from aifs_ensemble.config import Config
from aifs_ensemble.journal import WorkFolder
from aifs_ensemble.outstanding import whole_manifest
from aifs_ensemble.runrecords import INTERRUPTED


def with_scratch(config: Config, statuses: Sequence[MemberStatus]) -> list[MemberStatus]:
    """Return the statuses with those that the destination knows nothing of filled in from scratch."""
    return [_on_scratch(config, s) if s.state == WAITING and not s.updated else s for s in statuses]


def _on_scratch(config: Config, status: MemberStatus) -> MemberStatus:
    member, leads = status.member, set(config.leads)
    path = config.scratch.manifest(member)
    if whole_manifest(path, leads) is not None:
        return _at(replace(status, state=COMPUTED, step=len(leads)), path)
    root = config.scratch.work(member)
    if not root.is_dir():
        return status
    work = WorkFolder(root, config.cycle, member)
    done = len(leads & set(work.journal.read()))
    if _held(root / "lock"):
        journal = root / "journal.jsonl"
        return _at(replace(status, state=RUNNING if done else STARTING, step=done), journal if done else root / "lock")
    attempts = work.attempts()
    outcome = str(attempts[-1].get("outcome", "")) if attempts else ""
    if outcome.partition(":")[0] not in ("", "finished", *INTERRUPTED):
        return _at(replace(status, state=FAILED, step=done, error=outcome), root / "attempts.jsonl")
    left = f"{done} of {len(leads)} leads made, nobody works on it" if done else ""
    return replace(status, step=done, error=left)


def _at(status: MemberStatus, path: Path) -> MemberStatus:
    """Return a status with this machine and the time at which `path` was written."""
    try:
        updated = path.stat().st_mtime
    except OSError:
        updated = 0.0
    return replace(status, host=platform.node(), updated=updated)


def _held(lock: Path) -> bool:
    """Tell whether a forecast holds the lock of a work folder; whoever wants it waits longer than this takes."""
    try:
        with open(lock) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
