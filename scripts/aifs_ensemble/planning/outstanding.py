"""What of an ensemble is still missing: read from scratch, and from the destination where it is looked at."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from aifs_ensemble.common.config import Config
from aifs_ensemble.common.errors import VerificationError
from aifs_ensemble.common.manifest import MemberManifest, parse_member_manifest
from aifs_ensemble.common.names import checkpoint_file, parse_restart_file
from aifs_ensemble.delivery.standing import whole_manifest

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class MemberWork:
    """What one member still needs: forecast steps (0: computed), delivery, initial state."""

    member: int
    steps: int
    deliver: bool
    initial: bool


@dataclass(frozen=True)
class Outstanding:
    """What is missing. `looked_at` says where that was read."""

    members: tuple[MemberWork, ...]
    shared_initial: bool
    checkpoint: bool
    ensemble_manifest: bool
    looked_at: tuple[str, ...]
    manifests: tuple[MemberManifest, ...] = ()

    @property
    def to_forecast(self) -> tuple[MemberWork, ...]:
        """Members whose forecast is not whole."""
        return tuple(work for work in self.members if work.steps)

    @property
    def to_deliver(self) -> tuple[int, ...]:
        """Members that are not delivered."""
        return tuple(work.member for work in self.members if work.deliver)

    @property
    def steps(self) -> int:
        """Forecast steps still to compute, over all members."""
        return sum(work.steps for work in self.members)


def everything(config: Config) -> Outstanding:
    """Return the work of an ensemble of which nothing exists yet."""
    steps = len(config.leads)
    members = tuple(MemberWork(member, steps, deliver=True, initial=True) for member in config.members)
    return Outstanding(members, True, config["checkpoint"] is None, True, ())


def outstanding(config: Config, *, destination: bool | None = None) -> Outstanding:
    """Return what is missing on scratch and at the destination.

    A folder destination is always looked at, a bucket only when `destination` is true (it needs credentials and
    a request). A manifest that is damaged or made for other leads counts as missing. Raises StorageError when a
    destination that was asked for does not answer.
    """
    scratch = config.scratch
    wanted = set(config.leads)
    looked = [str(scratch.base)]
    delivered: set[int] = set()
    remote_restarts: dict[int, int] = {}
    look = destination if destination is not None else bool(config["destination"]) and not config.cloud_destination
    if look and config["destination"]:
        delivered, remote_restarts = _at_destination(config)
        looked.append(str(config["destination"]))
    found: list[MemberManifest] = []
    members = []
    for member in config.members:
        manifest = whole_manifest(scratch.manifest(member), wanted)
        if manifest is not None:
            found.append(manifest)
        done = manifest is not None or member in delivered
        reached = max(_newest_restart(scratch.work(member) / "restarts"), remote_restarts.get(member, 0))
        left = [lead for lead in config.leads if lead > reached]
        members.append(
            MemberWork(
                member,
                steps=0 if done else max(len(left), 1),
                deliver=not (member in delivered or (not look and scratch.receipt(member).exists())),
                initial=not done and not scratch.initial(member).exists(),
            )
        )
    shared = any(work.initial for work in members) and not (scratch.root / config.keys_.initial_cycle).exists()
    built = scratch.root / checkpoint_file(config.model.name)
    return Outstanding(
        tuple(members),
        shared_initial=shared,
        checkpoint=config["checkpoint"] is None and any(work.steps for work in members) and not built.exists(),
        ensemble_manifest=any(work.deliver or work.steps for work in members) or not _ensemble_done(config),
        looked_at=tuple(looked),
        manifests=tuple(found),
    )


def _newest_restart(folder: Path) -> int:
    return max((parse_restart_file(path.name) or 0 for path in folder.glob("*.safetensors")), default=0)


def _ensemble_done(config: Config) -> bool:
    if config["destination"] is None or config.cloud_destination:
        return False
    return (Path(config["destination"]) / config.keys_.ensemble_manifest).exists()


def _at_destination(config: Config) -> tuple[set[int], dict[int, int]]:
    """Return the members with a manifest at the destination, and each member's newest restart state there."""
    from aifs_ensemble.common.storage import open_destination  # opens a client only for gs://

    store = open_destination(config)
    keys = config.keys_
    listed = {info.key for info in store.list(f"{config.cycle}/manifests/")}

    def whole(member: int) -> bool:
        key = keys.manifest(member)
        if key not in listed:
            return False
        try:
            content = json.loads(store.get_bytes(key))
            if not isinstance(content, Mapping):
                raise VerificationError(f"{store.address(key)}: not a member manifest")
            manifest = parse_member_manifest(content, store.address(key))
        except (ValueError, VerificationError) as error:
            LOG.warning("plan: %s, counted as missing", error)
            return False
        return set(config.leads) <= {record.lead for record in manifest.leads}

    with ThreadPoolExecutor(config["delivery"]["threads"]) as pool:
        delivered = {
            member for member, is_whole in zip(config.members, pool.map(whole, config.members), strict=True) if is_whole
        }
    restarts: dict[int, int] = {}
    by_folder = {keys.restart(member, 6).rpartition("/")[0]: member for member in config.members}
    for info in store.list(f"{config.cycle}/restarts/"):
        folder, _, name = info.key.rpartition("/")
        lead = parse_restart_file(name)
        if lead is not None and folder in by_folder:
            member = by_folder[folder]
            restarts[member] = max(restarts.get(member, 0), lead)
    return delivered, restarts
