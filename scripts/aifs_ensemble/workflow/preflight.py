"""What is checked before anything is computed: room on scratch, a destination that takes files, places of machines."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from aifs_ensemble.common import clock
from aifs_ensemble.common.config import Config
from aifs_ensemble.common.errors import ConfigError, InputError, StorageError
from aifs_ensemble.common.files import folder_problem
from aifs_ensemble.common.overlays import check_packages
from aifs_ensemble.common.storage import open_destination
from aifs_ensemble.common.text import duration
from aifs_ensemble.delivery.room import ToCome, bytes_to_come, check_room_there
from aifs_ensemble.delivery.scratch import MemberSizes, check_scratch, coarse_values, room_held, room_of_models
from aifs_ensemble.initial.file_names import check_files
from aifs_ensemble.planning.grid_sizes import grid_points
from aifs_ensemble.planning.machines import load_machines
from aifs_ensemble.planning.throughput import load_throughput
from aifs_ensemble.workflow.members_here import MembersHere

LOG = logging.getLogger(__name__)
CLOCKS_DIFFER_SECONDS = 60.0


def member_sizes(config: Config) -> MemberSizes:
    """Return the bytes of a member's parts that config/throughput.json expects of the model."""
    size = load_throughput(load_machines().gpu_specs).size(config.model.name)
    points = grid_points(config.model.grid)
    return MemberSizes.of(config, points, size.bytes_per_value, size.restart_mb, coarse_values(config))


def check_room(config: Config, here: MembersHere, own: Config | None = None) -> None:
    """Raise PlanError unless scratch has room for what this machine will hold of the run.

    What it holds already needs no further room: where local copies stay, all of it; else, for the job of a member of
    `own`, what the members beside it have of their shares. `config` is that of the run, `own` that of a unit.
    """
    names = here.models or (own or config).models
    models = [one for one in config.of_each_model if one.model.name in names]
    each = [(one, member_sizes(one), -(-here.members // len(models))) for one in models]
    needed, held = room_of_models(each, here.at_once), 0.0
    if config.keep_scratch:
        held = sum(map(room_held, config.of_each_cycle))
    elif own is not None:
        name = own.model.name
        others = [(one, sizes, count - (one.model.name == name)) for one, sizes, count in each]
        beside = room_of_models(others, here.at_once - 1)
        needed = room_of_models([(own, member_sizes(own), 1)], 1) + beside
        held = min(sum(map(room_held, config.of_each_cycle)), beside)
    system = check_scratch(config, needed, held=held)
    LOG.info(
        "scratch: %.1f GB needed for %d of %d members at once, %.1f GB free on %s",
        needed / 1e9, here.at_once, here.members, system.free / 1e9, system.mount,
    )  # fmt: skip


def check_destination_room(config: Config, work: Mapping[str, ToCome], at_once: int) -> str | None:
    """Raise PlanError unless the destination's folder has room for the leads that are still to come, of each unit.

    Of the members that are forecast `at_once` run at the same time. What scratch lacks for them counts where it is on
    the same file system. Returns in words what there is, None for a bucket.
    """
    if not config.destination or config.cloud_destination:
        return None
    units = [(config.of_unit(unit), come) for unit, come in work.items()]
    each = [bytes_to_come(one, member_sizes(one), come) for one, come in units]
    needed = sum(stay for stay, _ in each) + max((go for _, go in each), default=0.0)
    made = [(one, member_sizes(one), len(come.forecast)) for one, come in units]
    held = sum(room_held(one, come.forecast) for one, come in units)
    return check_room_there(config, needed, max(room_of_models(made, at_once) - held, 0.0))


def check_begun(config: Config, now: datetime | None = None) -> None:
    """Raise ConfigError for a cycle in the future, which no source can have; `now` is UTC."""
    now = now or clock.now()
    if config.cycle_time > now:
        raise ConfigError(
            f"config: cycle: {config.cycle!r} is in the future, expected one that has begun "
            f"(by this machine's clock it is {now:%Y%m%d_%H%M} UTC)"
        )


def check_source(config: Config, cache: Path | None = None) -> str | None:
    """Raise InputError for a cycle, or members, that the source does not have, open data or files; see `initial`."""
    if config.initial_conditions.source == "file":
        return check_files(config)
    from aifs_ensemble.initial.published import check_published  # imports the client, which plans do without

    return check_published(config, cache)


def check_sources(configs: Sequence[Config], cache: Path | None = None) -> list[str]:
    """Raise InputError where no cycle has anything to start from; return what is to be said of those that go on.

    `configs` are those of the cycles whose states are to be made. Of several, one that has nothing fails alone.
    """
    told: list[str] = []
    nothing: list[str] = []
    for config in configs:
        try:
            told += filter(None, [check_source(config, cache)])
        except InputError as error:
            nothing.append(str(error))
    if nothing and len(nothing) == len(configs):
        raise InputError("\n  ".join(nothing))
    return [*(f"{line}: it will fail, the other cycles go on" for line in nothing), *told]


def refuse_without_destination(config: Config) -> None:
    """Raise ConfigError where nothing says where members go."""
    if config.destination is None:
        raise ConfigError("config: destination is not set, expected a folder or gs://BUCKET[/PREFIX]")


def check_start(config: Config, rules: Collection[str], here: MembersHere) -> None:
    """Raise what stands in the way of a run on this machine; `rules` are those that it needs.

    An archive that is only verified, or reported on, may be read-only.
    """
    refuse_without_destination(config)
    if {*rules} - {"verify", "plan"}:
        check_scratch_folder(config)
    if {*rules} & {"forecast_member", "checkpoint_prepare", "benchmark_engine"}:
        for one in config.of_each_model:
            check_packages(one.model)
    delivers = "forecast_member" if config.delivery.streaming else "sync_member"
    if {*rules} & {delivers, "ensemble_manifest"}:
        check_destination(config)
        check_bucket(config)
    check_room(config, here)
    for line in dict.fromkeys(line for one in config.of_each_model for line in inputs_from_the_future(one)):
        LOG.warning("%s", line)


def inputs_from_the_future(config: Config) -> Iterator[str]:
    """Yield what is to be said of the run's own inputs whose time is after this machine's.

    Snakemake, which compares times, makes everything that follows from them again and again until then.
    """
    given = config.initial_conditions.file.path if config.initial_conditions.source == "file" else None
    named = [config.checkpoint, *([given] if isinstance(given, str) else given or [])]
    now = time.time()
    for path in (Path(name) for name in named if name and "://" not in name and "{" not in name):
        with suppress(OSError):
            ahead = path.stat().st_mtime - now
            if ahead > CLOCKS_DIFFER_SECONDS:
                yield f"{path}: {duration(ahead)} ahead of this machine's clock: set the clock, or touch the file"


def check_destination(config: Config, *, write: bool = True) -> None:
    """Raise StorageError unless a folder can be written to, or made; a bucket is not looked at."""
    named = config.destination
    if not named or config.cloud_destination:
        return
    if problem := folder_problem(Path(named), write=write):
        raise StorageError(f"config: destination: {named!r}, expected a folder that can be written: {problem}")


def check_bucket(config: Config) -> None:
    """Raise StorageError unless the bucket of a gs:// destination answers, within a minute."""
    if config.cloud_destination:
        one = config.of_each_cycle[0]
        next(open_destination(one, within=60.0).list(one.objects.folder("manifests")), None)


def check_scratch_folder(config: Config, *, write: bool = True) -> None:
    """Raise ConfigError unless scratch is a folder that can be written to, or made."""
    if problem := folder_problem(config.scratch_root, write=write):
        scratch = config.given.scratch
        raise ConfigError(f"config: scratch: {scratch!r}, expected a folder that can be written: {problem}")


def check_places(config: Config) -> None:
    """Raise PlanError when bucket, images and machines are in different regions, unless that is allowed."""
    from aifs_ensemble.planning.regions import check_regions

    leads = sum(round(member_sizes(one).lead) for one in config.of_each_model)
    run_bytes = leads * len(config.leads) * len(config.members) * len(config.cycles)
    for mismatch in check_regions(config, run_bytes):
        LOG.warning("%s", mismatch)
