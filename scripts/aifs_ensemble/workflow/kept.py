"""Members that stay as they are delivered, whatever scratch holds: their rules ask for nothing.

Snakemake makes a file again when what it was made from is gone or newer, as soon as any job needs that. A delivered
member's leads, restart states and initial state on scratch are nobody's to keep, so nothing of such a member may
depend on them. Its standing at the destination decides, and the rules that make it have no inputs then.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from aifs_ensemble.common import environment
from aifs_ensemble.common.config import Config
from aifs_ensemble.common.errors import ConfigError, StorageError, VerificationError
from aifs_ensemble.common.names import format_members, parse_members
from aifs_ensemble.common.storage import open_destination
from aifs_ensemble.delivery.ensemble import needs_writing
from aifs_ensemble.delivery.standing import OTHER_SETTINGS, Destination, Standing, noted_here, refusal
from aifs_ensemble.products.deliver import newer_than_members

# what is forced by name of these, or of a file, is made although it is delivered
MAKE_MEMBERS = {"checkpoint_prepare", "initial_cycle", "initial_member", "forecast_member", "sync_member"}
_LOOK_SECONDS = 20.0


@dataclass(frozen=True)
class Kept:
    """Members that are delivered as asked for, and what was seen of a destination that was looked at.

    `seen` is None where this machine's own notes of a bucket were enough, or nobody could look. `digests` are those of
    the members' manifests.
    """

    members: frozenset[int] = frozenset()
    seen: Destination | None = field(default=None, compare=False)
    digests: Mapping[int, str] = field(default_factory=dict, compare=False)

    def __contains__(self, member: int | str) -> bool:
        return int(member) in self.members

    def tell_jobs(self, cycle: str) -> None:
        """Leave a cycle's members to the jobs that this process starts here, which ask for the same files."""
        told = _told() | {cycle: format_members(self.members)}
        os.environ[environment.KEPT] = " ".join(f"{name}:{members}" for name, members in told.items() if members)

    @classmethod
    def from_environment(cls, cycle: str) -> Kept:
        """Return the members of a cycle that were left to this job; none where nobody did."""
        text = _told().get(cycle, "")
        try:
            return cls(frozenset(parse_members(text)) if text else frozenset())
        except ConfigError:
            raise ConfigError(f"{environment.KEPT}: {text!r}, expected members") from None


def _told() -> dict[str, str]:
    """Return the members that were left to this process and those that it starts, by cycle."""
    entries = os.environ.get(environment.KEPT, "").split()
    return {cycle: members for cycle, _, members in (entry.partition(":") for entry in entries)}


def forced(rules: frozenset[str], *, everything: bool) -> bool:
    """Tell whether a user forces members to be made: by ``--forceall``, or by rules or files of ``--forcerun``."""
    return everything or any(name in MAKE_MEMBERS or "/" in name for name in rules)


def look(config: Config, destination: Destination | None, say: Callable[[str], None]) -> Kept:
    """Return the members of the configuration that are delivered as asked for.

    `destination` is what rented machines deliver to. Without it a folder is listed, and a bucket where this machine's
    notes lack a member; one that does not answer is said, and the notes count. Raises VerificationError for members
    that were delivered with other settings.
    """
    if not config.destination:
        return Kept()
    noted = {}
    if destination is None and config.cloud_destination:
        noted = {member: noted_here(config, member) for member in config.members}
        if all(one.done for one in noted.values()):
            return _kept(noted)
    try:
        there = destination or Destination(config, open_destination(config, within=_LOOK_SECONDS))
        standings = there.standings()
    except StorageError as error:
        say(f"without looking into {config.destination}: {error}")
        return _kept(noted)
    if other := {member: one.reason for member, one in standings.items() if one.state == OTHER_SETTINGS}:
        raise VerificationError(f"{standings[min(other)].name}: {refusal(other)}")
    return _kept(standings, there)


def _kept(standings: Mapping[int, Standing], seen: Destination | None = None) -> Kept:
    done = {member: one for member, one in standings.items() if one.done}
    digests = {member: one.manifest.content_digest for member, one in done.items() if one.manifest}
    return Kept(frozenset(done), seen, digests)


def delivered_elsewhere(config: Config, kept: Kept, key: str, copy: Path, used: Collection[int]) -> bool:
    """Tell whether a bucket has an object that is as asked for, of which this machine has no copy.

    Only of a bucket that this machine delivers to itself: its copies on scratch are how Snakemake sees it. Products of
    the ensemble are made of the members `used`.
    """
    there = kept.seen
    if there is None or key not in there.listed or copy.exists():
        return False
    if key == config.objects.ensemble_manifest:
        return needs_writing(there) is None
    members = [member for member in config.members if _of_member(config, key, member)] or used
    if not all(member in kept for member in members):
        return False
    manifests = [config.objects.manifest(member) for member in members]
    return key in manifests or newer_than_members(there.listed, key, manifests)


def _of_member(config: Config, key: str, member: int) -> bool:
    keys = config.objects
    return key in (keys.manifest(member), keys.member_netcdf(member, config.products.grid), keys.weekly(member))


def summaries(config: Config, kept: Kept, there: Callable[[str], bool]) -> list[str]:
    """Return the keys of the initial states' summaries to compare: of members to make, and of others if still there."""
    wanted = {member: config.objects.initial_summary(member) for member in config.members}
    return [key for member, key in wanted.items() if member not in kept or there(key)]
