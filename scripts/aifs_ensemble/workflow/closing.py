"""What a run says at its end."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress

from aifs_ensemble.common.acceleration import why_not_accelerated
from aifs_ensemble.common.config import Config
from aifs_ensemble.common.errors import InputError, WorkflowError
from aifs_ensemble.common.names import format_members
from aifs_ensemble.delivery.standing import (
    ABSENT,
    UNFINISHED,
    Destination,
    Standing,
    grouped,
    noted_here,
    on_scratch,
)


def closing_lines(config: Config, *, finished: bool) -> Iterator[str]:
    """Yield what a run says at its end: the ensemble's state, where it is, and the members' table.

    After a run that did not finish the ensemble's manifest is written too, so that a short ensemble
    says that it is short.
    """
    with suppress(InputError):  # no member is finished on this machine
        from aifs_ensemble.planning.tables import member_table

        yield from member_table(config).splitlines()
    if not finished and config.destination:
        from aifs_ensemble.delivery.ensemble import write_ensemble_manifest

        try:
            status = write_ensemble_manifest(config)
            yield f"ensemble {status}"
            if status.missing:
                yield f"run again to make members {format_members(status.missing)}"
        except WorkflowError as error:
            yield f"ensemble state unknown: {error}"
    yield from _where(config)
    yield from not_accelerated(config)


def _where(config: Config) -> Iterator[str]:
    """Yield where the members are that this machine has computed, and why those that are not delivered are not."""
    made = [member for member in config.members if config.scratch.manifest(member).exists()]
    try:
        waiting = {one.member: one for one in _delivered(config) if not one.done and one.member in made}
    except WorkflowError as error:
        yield f"what is delivered is unknown: {error}"
        return
    absent = [member for member, one in waiting.items() if one.state in (ABSENT, UNFINISHED)]
    if absent:
        yield f"forecasts of members {format_members(absent)} are in {config.scratch.forecasts()}, not delivered"
    others = {member: one.text for member, one in waiting.items() if member not in absent}
    if others:
        yield f"members {format_members(others)} are at {config.destination}, not as asked for: {grouped(others)}"
    if config.destination and (not made or len(absent) < len(made)):
        yield f"files are in {config.destination}/{config.cycle}"


def not_accelerated(config: Config) -> Iterator[str]:
    """Yield which members were not accelerated although they should have been, and why."""
    reasons: dict[str, list[int]] = {}
    with suppress(WorkflowError):
        known = {one.member: one.manifest for one in _delivered(config)}
        for member in config.members:
            manifest = on_scratch(config, member).manifest or known.get(member)
            if manifest and (reason := why_not_accelerated(manifest.acceleration)):
                reasons.setdefault(reason, []).append(member)
    for reason, members in reasons.items():
        yield f"members {format_members(members)}: accelerated: no, because {reason}"


def _delivered(config: Config) -> Iterable[Standing]:
    """Return the standing of every member at the destination, without asking a bucket."""
    if config.cloud_destination or not config.destination:
        return [noted_here(config, member) for member in config.members]
    return Destination(config).standings().values()
