"""Comparison of what there is with what the manifests say, on scratch and at the destination.

A destination is compared by its listing: sizes and checksums that the service computed, so that nothing is
downloaded (a folder has to be read). A damaged member is put back to unfinished, so that a rerun makes just
what is missing: on scratch damaged files are moved aside and the manifest goes; at the destination manifest and
receipt go, and the damaged leads are forgotten in the work folder.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from aifs_ensemble.common.config import Config
from aifs_ensemble.common.errors import VerificationError
from aifs_ensemble.common.manifest import (
    LeadRecord,
    check_coarse,
    check_leads,
)
from aifs_ensemble.common.names import format_members, lead_name, member_name
from aifs_ensemble.common.storage import Storage, open_destination
from aifs_ensemble.common.text import first_of
from aifs_ensemble.delivery.decode import decode_some
from aifs_ensemble.delivery.ensemble import ensemble_problems, parse_ensemble_manifest
from aifs_ensemble.delivery.mend import forget_vanished, mend_destination, mend_manifest, mend_scratch
from aifs_ensemble.delivery.mend_coarse import mend_coarse_at_destination, mend_coarse_on_scratch
from aifs_ensemble.delivery.receipt import vouched_files
from aifs_ensemble.delivery.removed import LEADS
from aifs_ensemble.delivery.scratch import lead_file_paths
from aifs_ensemble.delivery.standing import (
    ABSENT,
    DAMAGED,
    DESTINATION,
    OTHER_SETTINGS,
    SCRATCH,
    SHORT,
    UNFINISHED,
    Destination,
    Standing,
    at_destination,
    grouped,
    on_scratch,
    refusal,
)
from aifs_ensemble.forecast.work_folder import WorkFolder

LOG = logging.getLogger(__name__)

PLACES = (SCRATCH, DESTINATION)
SOUND, REMOVED = "sound", "removed"


@dataclass(frozen=True)
class MemberCheck:
    """What was found of one member in one place.

    `state` is ``sound`` (whole, in whatever layout), ``removed`` (was sound, its leads went by retention), ``absent``
    (nothing finished is there), or the ``short``, ``other settings`` or ``damaged`` of its standing, whose `reason` it
    carries. `problems` says what is wrong by lead,
    lead 0 standing for the member's manifest, receipt and blocks. Lost or damaged `coarse` files, by lead, leave the
    member as it is.
    """

    member: int
    place: str
    state: str
    problems: Mapping[int, str] = field(default_factory=dict)
    bytes: int = 0
    decoded: int = 0
    reason: str = ""
    coarse: Mapping[int, str] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """Return one line for each problem."""
        return self._lines(self.problems)

    def coarse_lines(self) -> list[str]:
        """Return one line for each coarse file that is lost or damaged."""
        return self._lines(self.coarse)

    def _lines(self, problems: Mapping[int, str]) -> list[str]:
        return [f"{member_name(self.member)} {lead_name(lead) if lead else ''}: {text}".replace(" :", ":")
                for lead, text in sorted(problems.items())]  # fmt: skip


@dataclass(frozen=True)
class EnsembleCheck:
    """What was found of all members, and what is untrue of the ensemble's manifest (`rewritten` if it was mended)."""

    members: tuple[MemberCheck, ...]
    ensemble: tuple[str, ...] = ()
    rewritten: bool = False

    def of(self, state: str, place: str | None = None) -> list[MemberCheck]:
        """Return the checks with a state, in one place or anywhere."""
        return [check for check in self.members if check.state == state and place in (None, check.place)]

    def require_sound(self, *, mended: bool, told: bool = False) -> None:
        """Raise VerificationError, one line, when any member is damaged (and now, if `mended`, unfinished).

        It names the first problems, or counts them where each was `told`.
        """
        damaged = self.of(DAMAGED)
        if damaged:
            lines = [line for check in damaged for line in check.lines()]
            members = format_members({check.member for check in damaged})
            next_step = "they count as unfinished now: run again" if mended else "verify --mend, then run again"
            raise VerificationError(f"members {members} damaged: {first_of(lines, 3, told=told)}; {next_step}")
        coarse = [line for check in self.members for line in check.coarse_lines()]
        if coarse and not mended:
            raise VerificationError(
                f"coarse leads: {first_of(coarse, 1, told=told)}; products read the leads instead; verify --mend sends "
                "what scratch has and leaves out the rest"
            )
        if self.ensemble and not self.rewritten:
            next_step = "run again" if mended else "verify --mend writes it anew, or run again"
            raise VerificationError(f"ensemble: {first_of(self.ensemble, 1, told=told)}; {next_step}")

    def require_members(self, config: Config) -> None:
        """Raise VerificationError when members have other settings at the destination, or too few are sound there."""
        if other := self.of(OTHER_SETTINGS, DESTINATION):
            members = format_members(check.member for check in other)
            raise VerificationError(f"members {members}: {refusal({check.member: check.reason for check in other})}")
        absent = [check.member for check in self.of(ABSENT, DESTINATION)]
        sound = len(self.of(SOUND, DESTINATION)) + len(self.of(REMOVED, DESTINATION))
        if sound < config.min_members:
            short = self.of(SHORT, DESTINATION)
            which = [f"absent: {format_members(absent)}"] if absent or not short else []
            if short:
                members = format_members(check.member for check in short)
                which.append(f"short: {members} ({grouped({check.member: check.reason for check in short})})")
            raise VerificationError(
                f"{config.destination}/{config.cycle}: {sound} sound members, expected at least "
                f"{config.min_members}; {'; '.join(which)}"
            )


def verify_ensemble(config: Config) -> EnsembleCheck:
    """Compare every member with its manifests, log what is wrong, and make damaged members unfinished.

    Raises VerificationError naming damaged leads, members not delivered, or fewer sound members than `min_members`.
    """
    check = check_ensemble(config, mend=True)
    for one in check.members:
        for line in [*one.lines(), *one.coarse_lines()]:
            LOG.warning("%s: %s", one.place, line)
    for line in check.ensemble:
        LOG.warning("ensemble: %s", line)
    check.require_sound(mended=True)
    if config.destination:
        check.require_members(config)
    return check


def check_ensemble(
    config: Config, *, deep: bool = False, mend: bool = False, places: Iterable[str] = PLACES
) -> EnsembleCheck:
    """Return the comparison of every member with its manifests, in the places asked for."""
    storage = open_destination(config) if DESTINATION in places and config.destination else None
    if storage is not None:
        next(storage.list(f"{config.cycle}/"), None)  # a bucket that is not there is no ensemble without members
    wanted = [place for place in places if place != DESTINATION or storage is not None]
    jobs = [(member, place) for place in wanted for member in config.members]
    run = partial(_check_one, config, storage=storage, deep=deep, mend=mend)
    with ThreadPoolExecutor(config.delivery.threads) as pool:
        members = tuple(pool.map(run, jobs))
    if storage is None:
        return EnsembleCheck(members)
    problems = _check_manifest(config, storage, [check for check in members if check.place == DESTINATION])
    return EnsembleCheck(members, problems, rewritten=bool(problems) and mend and mend_manifest(config))


def _check_manifest(config: Config, storage: Storage, checks: Sequence[MemberCheck]) -> tuple[str, ...]:
    """Return what is untrue of the ensemble's manifest: of itself, and of the members that are there now."""
    destination = Destination(config, storage)
    key = config.objects.ensemble_manifest
    if problems := ensemble_problems(destination):
        return tuple(problems)
    sound = sorted(check.member for check in checks if check.state in (SOUND, REMOVED))
    data = destination.content(key)
    if data is None:  # until enough members are there, nothing has to say of them that they are an ensemble
        return (f"{key}: missing",) if len(sound) >= config.min_members else ()
    found = parse_ensemble_manifest(data, key, config.cycle)
    listed = sorted(entry.member for entry in found.members)
    if found.as_asked(config) or listed == sound:
        return ()
    said, there = (format_members(members) or "none" for members in (listed, sound))
    return (f"{key}: says that members {said} are delivered, sound are {there}",)


def _check_one(config: Config, job: tuple[int, str], **options: Any) -> MemberCheck:
    member, place = job
    return verify_member(config, member, place=place, **options)


def verify_member(
    config: Config,
    member: int,
    *,
    place: str = DESTINATION,
    deep: bool = False,
    mend: bool = False,
    storage: Storage | None = None,
) -> MemberCheck:
    """Compare one member with its manifest on ``scratch`` or at the ``destination``.

    With `deep` some leads and their coarse leads are decoded, all messages. With `mend` a damaged member becomes
    unfinished.
    """
    if place == SCRATCH:
        standing = on_scratch(config, member)
        check = _check_scratch(config, standing)
    else:
        storage = storage or open_destination(config)
        standing = at_destination(config, storage, member, storage.with_crc32c)
        there = None if LEADS in standing.removed else standing.manifest
        files = vouched_files(there, standing.receipt) if there else ()
        check = _check(standing, standing.problems, sum(file.size for file in files))
        check = replace(check, coarse=standing.coarse)
    untrue: Mapping[int, str] = {}  # coarse files that are as recorded, and wrong
    if deep and standing.manifest and check.state in (SOUND, SHORT):
        found = decode_some(config, standing.manifest, place, storage)
        untrue = {lead: text for lead, text in found.coarse.items() if lead not in check.coarse}
        check = replace(check, decoded=found.messages, coarse={**untrue, **check.coarse})
        if found.problems:
            check = replace(check, state=DAMAGED, problems=found.problems)
    if mend and check.coarse and check.state != DAMAGED:
        if place == SCRATCH:
            mend_coarse_on_scratch(config, member, check.coarse, untrue)
        else:
            assert storage is not None
            mend_coarse_at_destination(config, member, check.coarse, storage, untrue)
    if mend and check.state == DAMAGED:
        if place == SCRATCH:
            mend_scratch(config, member, check.problems)
        else:
            assert storage is not None
            mend_destination(config, member, check.problems, storage)
    elif mend and check.state == ABSENT and place == DESTINATION:
        assert storage is not None
        forget_vanished(config, standing, storage)
    return check


def _check_scratch(config: Config, standing: Standing) -> MemberCheck:
    """Compare the files of a member with its manifest, but those that went because their delivery was verified."""
    if standing.manifest is None:
        return _check(standing, standing.problems, 0)
    records = [r for r in standing.manifest.leads if not _removed(config, standing.member, r)]
    problems = check_leads(config.scratch.forecasts(), records)
    check = _check(standing, problems, sum(r.bytes for r in records))
    return replace(check, coarse=check_coarse(config.scratch.published, records))


def _removed(config: Config, member: int, record: LeadRecord) -> bool:
    """Tell whether a lead's local copy went because its delivery was verified."""
    if lead_file_paths(config.scratch, member, record.grib):
        return False
    return WorkFolder(config.scratch.work(member), config.cycle, member).delivered.read().get(record.lead) == record


def _check(standing: Standing, problems: Mapping[int, str], size: int) -> MemberCheck:
    """Return a check from a standing and what is wrong with the files; a damaged one tells other settings, too."""
    state = SOUND if standing.whole else ABSENT if standing.state == UNFINISHED else standing.state
    if state == SOUND and LEADS in standing.removed:
        state = REMOVED
    if problems:
        if state == OTHER_SETTINGS:
            problems = {**problems, 0: "; ".join(filter(None, (problems.get(0), standing.reason)))}
        state = DAMAGED
    elif state in (SHORT, OTHER_SETTINGS):
        problems = {**problems, 0: standing.reason}
    reason = standing.reason or standing.removed_text
    return MemberCheck(standing.member, standing.place, state, problems, size, reason=reason)
