"""Room on scratch: what kind of file system it is, how much a run may take there, and what may go when it runs out."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from heapq import nlargest
from pathlib import Path

from aifs_ensemble.common import environment
from aifs_ensemble.common.areas import shares
from aifs_ensemble.common.config import Config
from aifs_ensemble.common.errors import DiskFullError, PlanError
from aifs_ensemble.common.manifest import FileRecord, LeadRecord
from aifs_ensemble.common.names import Scratch, member_name
from aifs_ensemble.common.text import size

LOG = logging.getLogger(__name__)

# A container's own layer is shared with its images and small (38 GB on the machines where runs were lost to it).
OVERLAY_TYPES = {"overlay", "overlayfs", "aufs", "fuse.fuse-overlayfs"}
OVERLAY_MOST = 2 << 30
MEMORY_TYPES = {"tmpfs", "ramfs", "devtmpfs"}
# Left free for logs, indexes and whatever else the machine writes: a twentieth of the disk, at most 2 GiB.
RESERVE_SHARE = 0.05
RESERVE_MOST = 2 << 30
# Leads of a streaming member that wait on scratch beside those in transfer.
WAITING_LEADS = 4
MB = 1e6
# Folders of a cycle on scratch with what its members take most room for.
HELD = ("forecasts", "coarse", "work")
MOUNTS = Path("/proc/self/mounts")
MEMORY = Path("/proc/meminfo")


def reserve(total: float) -> int:
    """Return the bytes that a run leaves free of a file system of `total` bytes."""
    return min(RESERVE_MOST, int(total * RESERVE_SHARE))


@dataclass(frozen=True)
class FileSystem:
    """A mounted file system; `total` and `free` in bytes, free being what this user may take."""

    mount: str
    kind: str
    total: int
    free: int

    @property
    def overlay(self) -> bool:
        """Whether it is a container's own layer."""
        return self.kind in OVERLAY_TYPES

    @property
    def memory(self) -> bool:
        """Whether it lives in memory."""
        return self.kind in MEMORY_TYPES

    @property
    def reserve(self) -> int:
        """Bytes that a run leaves free."""
        return reserve(self.total)


def file_system(path: Path, mounts: Path = MOUNTS) -> FileSystem:
    """Return the file system that `path` is or would be on; in memory no more is free than the memory that is."""
    existing = _existing(path)
    usage = os.statvfs(existing)
    mount, kind = _mount_of(existing.resolve(), mounts)
    free = usage.f_bavail * usage.f_frsize
    if kind in MEMORY_TYPES:
        free = min(free, _memory_available(free))
    return FileSystem(mount, kind, usage.f_blocks * usage.f_frsize, free)


def same_file_system(one: Path, other: Path) -> bool:
    """Tell whether two paths are, or would be, on the same file system."""
    return _existing(one).stat().st_dev == _existing(other).stat().st_dev


def _existing(path: Path) -> Path:
    return next(p for p in (path.absolute(), *path.absolute().parents) if p.exists())


def _memory_available(otherwise: int) -> int:
    """Return the bytes of memory that programs can still have, `otherwise` where the kernel does not tell."""
    try:
        lines = MEMORY.read_text().splitlines()
    except OSError:
        return otherwise
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:")), otherwise)


def _mount_of(path: Path, mounts: Path) -> tuple[str, str]:
    """Return mount point and type of the deepest mount above `path`; later lines hide earlier ones."""
    found = ("/", "unknown")
    try:
        lines = mounts.read_text().splitlines()
    except OSError:
        return found
    for line in lines:
        _, mount, kind, *_ = line.split(" ")
        mount = mount.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\")
        if path.is_relative_to(mount) and len(mount) >= len(found[0]):
            found = (mount, kind)
    return found


def check_scratch(config: Config, needed: float, *, held: float = 0, mounts: Path = MOUNTS) -> FileSystem:
    """Raise PlanError unless scratch has room for `needed` bytes, `held` of them there already, on a suitable system.

    A container's own layer is refused for more than a demonstration, unless the environment says that it lies on a
    disk rented for scratch. With a scratch budget, that is the room there is. Returns the file system.
    """
    scratch = config.scratch_root
    system = file_system(scratch, mounts)
    if system.overlay and needed > OVERLAY_MOST and environment.LAYER_ON_RENTED_DISK not in os.environ:
        raise PlanError(
            f"config: scratch: {scratch} is on the container's own layer ({system.kind}, {size(system.free)} free), "
            f"expected a mounted disk or memory with {size(needed)}"
        )
    if system.memory:
        LOG.info("scratch %s is in memory (%s, %s free)", scratch, system.mount, size(system.free))
    free = system.free - system.reserve
    if needed - held > free:
        raise PlanError(
            f"config: scratch: {scratch} has {size(max(free, 0))} to give on {system.mount} ({system.kind}), "
            f"expected {size(needed - held)}"
        )
    budget = config.delivery.scratch_budget_mb
    if budget is not None and needed > budget * MB:
        raise PlanError(f"config: delivery.scratch_budget_mb: {budget:g}, expected at least {needed / MB:.0f}")
    return system


@dataclass(frozen=True)
class MemberSizes:
    """Bytes of a member's parts on scratch: one lead, one restart state, its initial state; `coarse` is of the lead."""

    lead: float
    restart: float
    state: float = 0.0
    coarse: float = 0.0

    @classmethod
    def of(
        cls, config: Config, points: int, bytes_per_value: float, restart_mb: float, coarse_values: int = 0
    ) -> MemberSizes:
        """Return the sizes of a member on a grid of so many points; `bytes_per_value` is of a packed field.

        A lead also has `coarse_values` in its coarse file.
        """
        model = config.model
        lead = (config.lead_fields * points * kept_share(config, bytes_per_value) + coarse_values) * bytes_per_value
        state = 4.0 * 2 * len(model.inputs) * points
        return cls(lead, restart_mb * 1e6, state, coarse_values * bytes_per_value)


def kept_share(config: Config, bytes_per_value: float) -> float:
    """Return the share of a packed field's bytes that a lead holds: of an area its values, and a bit for each point."""
    if config.area is None:
        return 1.0
    inside, rows = shares(config.area)
    return inside + rows / 8 / bytes_per_value


def coarse_values(config: Config) -> int:
    """Return the number of values in the coarse file of a lead, 0 where none is asked for."""
    if not config.coarse_variables:
        return 0
    east, north = map(float, config.coarse_grid.split("x"))
    return len(config.coarse_variables) * round(360 / east) * (round(180 / north) + 1)


def room_needed(
    config: Config, sizes: MemberSizes, members: int, at_once: int, *, rented: bool = False, to_make: int | None = None
) -> float:
    """Return the bytes of scratch that one machine holds at its peak: for plan, start and job alike.

    Parameters
    ----------
    members : those that the machine makes, one group or the ensemble
    at_once : those of them that run at the same time
    rented : the machine goes when its members are made, and other machines deliver what does not stream
    to_make : leads that are still to be written, all of the members' by default

    A streaming delivery needs room for its transfers and a few leads that wait, since delivered leads go when room is
    asked for. Otherwise, or where local copies stay, members are there whole.
    """
    running = min(at_once, members)
    there, leads = _there(config, members, running, rented=rented)
    leads *= there
    if to_make is not None:
        leads = min(leads, to_make)
    return leads * sizes.lead + running * _while_it_runs(config, sizes)


def room_of_models(each: Sequence[tuple[Config, MemberSizes, int]], at_once: int) -> float:
    """Return what `room_needed` does, of a machine that makes members of several models and delivers them itself.

    `each` has how many members of a model that machine makes. Of all models together `at_once` run at the same time:
    any may be among them, so that those count which hold most.
    """
    members = sum(count for *_, count in each)
    running, there = min(at_once, members), 0
    of_leads: list[float] = []
    of_running: list[float] = []
    for config, sizes, count in each:
        there, leads = _there(config, members, running)  # as many of either model: the keys are those of both
        of_leads += [leads * sizes.lead] * count
        of_running += [_while_it_runs(config, sizes)] * count
    return sum(nlargest(there, of_leads)) + sum(nlargest(running, of_running))


def _there(config: Config, members: int, running: int, *, rented: bool = False) -> tuple[int, int]:
    """Return how many members have leads on scratch at the same time, and how many leads each has."""
    member = len(config.leads)
    if config.keep_scratch:
        return members, member
    if config.delivery.streaming:
        return running, min(member, config.delivery.threads + WAITING_LEADS)
    # here as many wait for their delivery, which goes before further forecasts (the priority of rule sync_member)
    return members if rented else min(members, 2 * running), member


def _while_it_runs(config: Config, sizes: MemberSizes) -> float:
    """Return the bytes that a member has beside its leads, as long as it runs."""
    return sizes.state + (config.forecast.restarts_kept + 1) * sizes.restart


@dataclass(frozen=True)
class ScratchBudget:
    """The room a run may take below its scratch folder: a number of bytes, or (None) what is free less a reserve.

    Both models of a run share it.
    """

    root: Path
    limit: int | None

    @classmethod
    def of(cls, config: Config) -> ScratchBudget:
        """Return the budget that a configuration sets."""
        limit = config.delivery.scratch_budget_mb
        root = config.scratch_root.parent if config.model_folder else config.scratch_root
        return cls(root, None if limit is None else int(limit * MB))

    def short(self, more: int) -> int:
        """Return how many bytes are wanting for `more` bytes, 0 when there is room."""
        if self.limit is not None:
            return max(0, tree_bytes(self.root) + more - self.limit)
        system = file_system(self.root)
        return max(0, more + system.reserve - system.free)


def tree_bytes(*places: Path) -> int:
    """Return the bytes of files, and of those below folders; what has several links is counted once."""
    seen: dict[tuple[int, int], int] = {}
    for parent, _, files in (found for place in places for found in _walk(place)):
        for name in files:
            try:
                status = os.stat(os.path.join(parent, name))  # noqa: PTH118, PTH116 (a Path each is slow)
            except FileNotFoundError:
                continue
            seen[status.st_dev, status.st_ino] = status.st_size
    return sum(seen.values())


def _walk(place: Path) -> Iterable[tuple[str, list[str], list[str]]]:
    """Walk through a folder; of a file, the file alone."""
    return [(str(place.parent), [], [place.name])] if place.is_file() else os.walk(place)


def room_held(config: Config, members: Collection[int] | None = None) -> int:
    """Return the bytes of scratch that leads and restart states of the cycle hold already, of all members or some."""
    if members is None:
        return tree_bytes(*(config.scratch.base / folder for folder in HELD))
    found = (path for member in members for path in config.scratch.base.glob(f"*/*{member_name(member)}*"))
    return tree_bytes(*(path for path in found if path.parent.name in HELD))


def remove_leads(scratch: Scratch, member: int, records: Iterable[LeadRecord], *, indexes: bool) -> int:
    """Remove the local copies of leads, coarse and whole (with `indexes` these too); return the bytes that this freed.

    Only for leads whose copies at the destination were verified. A GRIB of another size in the work folder belongs
    to a newer run: that lead stays there.
    """
    freed = 0
    for record in records:
        work = scratch.work(member) / "leads"
        newer = _size(work / record.grib.name) not in (None, record.grib.size)
        gribs = (record.grib, *record.coarse_files[:1])
        for file in (*record.files, *record.coarse_files) if indexes else gribs:
            places = [scratch.published(file.name), *([] if newer else [work / file.name])]
            held = [path for path in places if path.exists()]
            for path in held:
                path.unlink(missing_ok=True)
            freed += file.size if held else 0
    return freed


def lead_file_paths(scratch: Scratch, member: int, file: FileRecord) -> list[Path]:
    """Return the local copies of a published file, those of the right size first; one file of two names is one copy.

    The work folder comes first: until a member is finished, the folder of finished ones may hold an earlier run's.
    """
    paths = [scratch.work(member) / "leads" / file.name, scratch.published(file.name)]
    paths = [path for path in paths if path.exists()]
    if len(paths) == 2 and paths[0].samefile(paths[1]):
        paths.pop()
    return sorted(paths, key=lambda path: _size(path) != file.size)


def _size(path: Path) -> int | None:
    """Return a file's size in bytes, None when there is none."""
    try:
        return path.stat().st_size
    except OSError:
        return None


def no_room(config: Config, wanting: int) -> DiskFullError:
    """Return the error for a scratch that stayed full although everything delivered was removed."""
    return DiskFullError(
        f"config: scratch: {config.given.scratch}: {size(wanting)} wanting with nothing delivered left to remove"
    )
