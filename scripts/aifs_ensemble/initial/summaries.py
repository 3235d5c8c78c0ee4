"""A few words on each initial state, small enough to compare all members before their forecasts are paid for."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from aifs_ensemble.common.errors import InputError, VerificationError
from aifs_ensemble.common.files import write_json
from aifs_ensemble.common.names import STATE_OF, format_members, member_name, parse_member_name
from aifs_ensemble.common.records import Count, read_record
from aifs_ensemble.fields.state import State

SCHEMA = "aifs-ensemble/initial-summary/1"


def write_summary(path: Path, state: State) -> None:
    """Write a state's summary: the digest of its prognostic fields at T, and its provenance."""
    data = np.ascontiguousarray(state.fields[-1])
    write_json(
        path,
        {
            "schema": SCHEMA,
            "cycle": state.cycle,
            "member": state.member,
            "grid": state.grid,
            STATE_OF: state_of(state),
            "fields_sha256": hashlib.sha256(data.tobytes()).hexdigest(),
            "provenance": state.provenance,
        },
    )


def state_of(state: State) -> int:
    """Return the member of the source whose state it is: the member itself, or one with which others share it."""
    source = state.provenance.get("source")
    return int(source.get(STATE_OF, state.member)) if isinstance(source, dict) else state.member


def check_members_differ(paths: Iterable[Path], path: Path) -> dict[str, Any]:
    """Write what the members' summaries say together to `path`; InputError naming members with the same fields."""
    members = _by_fields(paths)
    found = {"members": sorted(m for group in members for m in group), "distinct": len(members)}
    write_json(path, found)
    return found


def refuse_twin(path: Path) -> None:
    """Compare a member's summary with those beside it; InputError naming members with the same fields.

    A twin is refused as soon as it is made: its forecast is not paid for, and whether other members can be made
    does not matter.
    """
    own = _summary(path)
    summaries = (one for one in path.parent.glob(f"{member_name('*')}.json") if parse_member_name(one.stem) is not None)
    _by_fields(summary for summary in summaries if _summary(summary).fields_sha256 == own.fields_sha256)


@dataclass(frozen=True)
class _Summary:
    """What is compared of a summary."""

    schema: Literal["aifs-ensemble/initial-summary/1"]
    member: Count
    fields_sha256: str
    state_of_member: Count | None = None

    @property
    def origin(self) -> int:
        return self.member if self.state_of_member is None else self.state_of_member


def _summary(path: Path) -> _Summary:
    """Return the summary in a file; InputError when there is none."""
    try:
        return read_record(_Summary, path.read_bytes(), str(path))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except VerificationError:
        raise InputError(f"{path}: not the summary of an initial state") from None


def _by_fields(paths: Iterable[Path]) -> list[list[int]]:
    """Return the members of summaries, those of the same fields together.

    Raises InputError when there are such that are not meant to share a state of the source.
    """
    members: dict[str, list[int]] = defaultdict(list)
    origins: dict[str, set[int]] = defaultdict(set)
    for summary in paths:
        found = _summary(summary)
        members[found.fields_sha256].append(found.member)
        origins[found.fields_sha256].add(found.origin)
    same = [format_members(group) for digest, group in members.items() if len(origins[digest]) > 1]
    if same:
        raise InputError(
            f"initial conditions: members {' and '.join(same)} have identical fields, expected every member to differ"
        )
    return list(members.values())
