"""What a run says at its end."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from aifs_ensemble.common.acceleration import why_not_accelerated
from aifs_ensemble.common.config import Config
from aifs_ensemble.common.cycles import EACH_CYCLE, name_cycles
from aifs_ensemble.common.errors import InputError, StorageError, VerificationError, WorkflowError
from aifs_ensemble.common.names import format_members
from aifs_ensemble.common.storage import MissingError, open_destination
from aifs_ensemble.common.units import each_unit, split_unit
from aifs_ensemble.delivery.ensemble import EnsembleStatus, parse_ensemble_manifest, write_ensemble_manifest
from aifs_ensemble.delivery.standing import (
    ABSENT,
    OTHER_SETTINGS,
    UNFINISHED,
    Destination,
    Standing,
    grouped,
    noted_here,
    on_scratch,
)
from aifs_ensemble.workflow.paths import delivered_here


def closing_lines(config: Config, *, finished: bool, rented: bool = False) -> Iterator[str]:
    """Yield what a run says at its end: the ensemble's state, where it is, and the members' table.

    Of a run on rented machines the bucket is asked; a bucket that this machine syncs to is not asked again. After a run
    that did not finish the ensemble's manifest is written too, so that a short ensemble says that it is short. Of
    several cycles, those of which the same is to be said share a line.
    """
    configs = config.of_each_cycle
    try:
        from aifs_ensemble.planning.tables import cycle_table, member_table

        yield from (member_table(config) if len(configs) == 1 else cycle_table(configs)).splitlines()
    except InputError:  # no member is finished on this machine
        for one in config.of_each_model if rented else ():
            if one.model.untrained:
                yield f"{one.model.title}: these are not forecasts"
    if len(configs) == 1:
        yield from _of_cycle(config, finished=finished, rented=rented)
        return
    alike: dict[str, list[str]] = {}
    any_unit = each_unit(config.units)
    for one in configs:
        for line in _of_cycle(one, finished=finished, rented=rented):
            text = line.removeprefix(f"ensemble {one.cycle}: ").replace(one.unit, any_unit)
            alike.setdefault(text.replace(one.cycle, EACH_CYCLE), []).append(one.unit)
    if finished and (compared := _compared(config, ask=rented)):
        yield compared
    for text, units in alike.items():
        yield f"{name_cycles(units)}: {_named(text, any_unit, units)}"


def _named(text: str, any_unit: str, units: list[str]) -> str:
    """Return what is said of units: of one alone, with its name."""
    if len(units) > 1:
        return text
    return text.replace(any_unit, units[0]).replace(EACH_CYCLE, split_unit(units[0])[1])


def _compared(config: Config, *, ask: bool) -> str | None:
    """Return where two models are compared; None where they are not."""
    from aifs_ensemble.products.compare.files import PAGE, comparison_key, is_compared

    if not (is_compared(config) and config.destination):
        return None
    keys = [comparison_key(cycle, PAGE) for cycle in config.cycles]
    pages = [
        f"{config.destination}/{key}" for key in keys if _is_there(config, key, config.scratch_root.joinpath, ask=ask)
    ]
    if not pages:
        return None
    more = f" and {len(pages) - 1} others" if len(pages) > 1 else ""
    how = "" if config.cloud_destination else "open "
    return f"{' and '.join(config.models)} side by side: {how}{pages[0]}{more}{' in a browser' if how else ''}"


def _is_there(config: Config, key: str, copy: Callable[[str], Path], *, ask: bool) -> bool:
    """Tell whether an object is at the destination; of a bucket that is not asked, whether its copy is here."""
    if not ask:
        return Path(delivered_here(config, key, copy)).exists()
    with suppress(StorageError):
        return open_destination(config).stat(key) is not None
    return False


def _of_cycle(config: Config, *, finished: bool, rented: bool) -> Iterator[str]:
    """Yield what is said of a cycle after the table."""
    # a run on rented machines that has ended well left there what it made; else nothing is known yet
    delivered = True if finished and rented else None
    if not finished and config.destination:
        try:
            status = write_ensemble_manifest(config)
            delivered = bool(status.delivered or status.reasons)
            yield f"ensemble {status}"
            if status.reasons:
                yield f"members {format_members(status.reasons)} do not count: {grouped(status.reasons)}"
            if again := sorted(set(status.missing) - set(others_delivered(status))):
                yield f"run again to make members {format_members(again)}"
        except WorkflowError as error:
            yield f"ensemble state unknown: {error}"
    elif config.destination:
        yield from _ensemble_said(config, ask=rented)
    yield from _where(config, delivered)
    page = config.objects.page
    wanted = finished and config.products.page.enabled and config.destination
    if wanted and _is_there(config, page, config.scratch.copy, ask=rented):
        address = f"{config.destination}/{page}"
        yield f"its page is {address}" if config.cloud_destination else f"open {address} in a browser"
    yield from not_accelerated(config)


def others_delivered(status: EnsembleStatus) -> list[int]:
    """Return the members that are there with other settings: to run again does not make them."""
    return [member for member, why in status.reasons.items() if why.startswith(OTHER_SETTINGS)]


def _ensemble_said(config: Config, *, ask: bool) -> Iterator[str]:
    """Yield what the manifest of the ensemble asked for says of it; a bucket is asked only where `ask` says so."""
    key = config.objects.ensemble_manifest
    path = config.scratch.copy(key) if config.cloud_destination else Path(str(config.destination)) / key
    with suppress(OSError, VerificationError):
        try:
            data = open_destination(config).get_bytes(key) if ask else path.read_bytes()
        except MissingError:
            return
        except StorageError as error:
            yield f"ensemble state unknown: {error}"
            return
        found = parse_ensemble_manifest(data, key if ask else str(path), config.cycle)
        if not found.as_asked(config):
            yield f"ensemble {found}"


def _where(config: Config, delivered: bool | None) -> Iterator[str]:
    """Yield where the members are that this machine has computed, and why those that are not delivered are not.

    `delivered` says whether the destination has something of a member; None where this machine's notes are to say it.
    """
    made = [member for member in config.members if config.scratch.manifest(member).exists()]
    try:
        standings = list(_delivered(config))
        waiting = {one.member: one for one in standings if not one.done and one.member in made}
    except WorkflowError as error:
        yield f"what is delivered is unknown: {error}"
        return
    absent = [member for member, one in waiting.items() if one.state in (ABSENT, UNFINISHED)]
    if absent:
        yield f"forecasts of members {format_members(absent)} are in {config.scratch.forecasts()}, not delivered"
    others = {member: one.text for member, one in waiting.items() if member not in absent}
    if others:
        yield f"members {format_members(others)} are at {config.destination}, not as asked for: {grouped(others)}"
    if delivered is None:
        delivered = any(one.state != ABSENT for one in standings)
    if config.destination and delivered:
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
