"""Names of cycles, members, leads and files: the one place that spells them, and reads them back.

A member is a number, or text that stands for one: the wildcard ``{member}`` of a rule, the ``*`` of a search.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from aifs_ensemble.common.errors import ConfigError

STEP_HOURS = 6
MAX_LEAD_HOURS = 960
CONTROL = 0  # the member that starts from the unperturbed analysis
# in the record of a state's source: the member of the source whose state it is, where several members share it
STATE_OF = "state_of_member"
BENCHMARKS = "logs/benchmarks"
FETCHED = "logs/fetched"  # records of runs, where there is no scratch
_CYCLE = re.compile(r"\d{8}_\d{4}")
_RANGE = re.compile(r"(\d+)(?:-(\d+))?")
# as `member_name` and its like spell them, in ASCII: a name that would be spelled differently is none of ours
_MEMBER = re.compile(r"member([0-9]{3})")
_MEMBER_IN_KEY = re.compile(r"(?<![^/_.])member[0-9]{3}(?![^/_.])")
_LEAD_FILE = re.compile(r"aifs_ens_forecast_([0-9]{8}_[0-9]{4})_member([0-9]{3})_h([0-9]{3})\.grib2")
_COARSE_FILE = re.compile(r"aifs_ens_forecast_[0-9]{8}_[0-9]{4}_member[0-9]{3}_h[0-9]{3}_[0-9px]+deg\.(?:grib2|index)")
_BLOCK_FILE = re.compile(r"aifs_ens_forecast_[0-9]{8}_[0-9]{4}_member[0-9]{3}_h([0-9]{3})-([0-9]{3})\.grib")
_RESTART = re.compile(r"h([0-9]{3})\.safetensors")


def parse_cycle(text: str) -> datetime:
    """Return the cycle ``YYYYMMDD_HHMM`` as a UTC time; ConfigError if it is not one."""
    try:
        if not _CYCLE.fullmatch(text):
            raise ValueError
        return datetime.strptime(text, "%Y%m%d_%H%M").replace(tzinfo=UTC)
    except (ValueError, TypeError):
        raise ConfigError(f"cycle: {text!r} is not a cycle, expected YYYYMMDD_HHMM such as 20250819_0000") from None


def cycle_name(time: datetime) -> str:
    """Return a time, UTC, as a cycle is spelled."""
    return f"{time:%Y%m%d_%H%M}"


def parse_members(value: str | int | Iterable[int | str], largest: int = 999) -> tuple[int, ...]:
    """Return sorted member numbers of ``1-50``, ``0-50``, ``1,5,10-12``, an integer or a list of these.

    Number 0 is the control, perturbed members start at 1. Raises ConfigError for anything else, for a number named
    twice and for one above `largest`.
    """
    expected = "expected numbers and ranges such as 1-50 or 1,5,10-12"
    items = [value] if isinstance(value, (str, int)) else list(value)
    pieces = [piece.strip() for item in items for piece in str(item).split(",")]
    members: list[int] = []
    for piece in pieces:
        match = _RANGE.fullmatch(piece)
        if not match:
            raise ConfigError(f"members: {piece!r} is not a member or a range, {expected}")
        first, last = int(match[1]), int(match[2] or match[1])
        if not CONTROL <= first <= last <= largest:
            raise ConfigError(f"members: {piece!r} is outside 0 to {largest} or runs backwards, {expected}")
        members.extend(range(first, last + 1))
    repeated = sorted({m for m in members if members.count(m) > 1})
    if repeated:
        raise ConfigError(f"members: {format_members(repeated)} named more than once in {value!r}")
    if not members:
        raise ConfigError(f"members: nothing named, {expected}")
    return tuple(sorted(members))


def format_members(members: Iterable[int]) -> str:
    """Return members as the shortest list of ranges, e.g. ``1-3,7``."""
    ordered = sorted(members)
    runs: list[list[int]] = []
    for member in ordered:
        if runs and member == runs[-1][1] + 1:
            runs[-1][1] = member
        else:
            runs.append([member, member])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def count_members(wanted: Iterable[int], found: Iterable[int] | None = None) -> str:
    """Return how many members are wanted, or were found of them, e.g. ``50 of 50 members and the control``."""
    asked = set(wanted)
    have = asked if found is None else asked & set(found)
    if asked == {CONTROL}:
        return "the control" if CONTROL in have else "not the control"
    number = f"{len(asked - {CONTROL})} members"
    text = number if found is None else f"{len(have - {CONTROL})} of {number}"
    return text if CONTROL not in asked else f"{text} {'and' if CONTROL in have else 'without'} the control"


def lead_hours(last: int, step: int = STEP_HOURS) -> tuple[int, ...]:
    """Return the lead times in hours, ``step`` to ``last``; ConfigError if they are not whole steps."""
    if last < step or last % step or last > MAX_LEAD_HOURS:
        raise ConfigError(f"lead_hours: {last} is not a multiple of {step} between {step} and {MAX_LEAD_HOURS}")
    return tuple(range(step, last + 1, step))


def member_name(member: int | str) -> str:
    """Return e.g. ``member003``; text stands as it is: ``member{member}``, ``member*``."""
    return f"member{member}" if isinstance(member, str) else f"member{member:03d}"


def parse_member_name(name: str) -> int | None:
    """Return the member of e.g. ``member003``; None for another name."""
    match = _MEMBER.fullmatch(name)
    return int(match[1]) if match else None


def member_in(key: str) -> str | None:
    """Return the name of the member that a key or a file's name has as one of its parts, or None."""
    match = _MEMBER_IN_KEY.search(key)
    return match[0] if match else None


def lead_name(lead: int) -> str:
    """Return e.g. ``h006``."""
    return f"h{lead:03d}"


class LeadName(NamedTuple):
    """What the name of a lead's GRIB file says; `lead` in hours."""

    cycle: str
    member: int
    lead: int


def lead_file(cycle: str, member: int | str, lead: int) -> str:
    """Return the GRIB file name of one lead of one member."""
    return f"aifs_ens_forecast_{cycle}_{member_name(member)}_{lead_name(lead)}.grib2"


def parse_lead_file(name: str) -> LeadName | None:
    """Return what the name of a lead's GRIB file says; None for another name."""
    match = _LEAD_FILE.fullmatch(name)
    return LeadName(match[1], int(match[2]), int(match[3])) if match else None


def coarse_file(cycle: str, member: int | str, lead: int, grid: str) -> str:
    """Return the GRIB file name of one lead of one member on a regular grid."""
    return f"{lead_file(cycle, member, lead).removesuffix('.grib2')}_{grid_label(grid)}.grib2"


def is_coarse_file(name: str) -> bool:
    """Tell whether a file is called as a coarse lead or its index is."""
    return _COARSE_FILE.fullmatch(name) is not None


def index_file(grib: str) -> str:
    """Return the name of the index beside a GRIB file."""
    return grib.removesuffix(".grib2").removesuffix(".grib") + ".index"


def block_file(cycle: str, member: int | str, start: int, end: int) -> str:
    """Return the name of a block of leads, which holds the steps after `start` up to `end`."""
    return f"aifs_ens_forecast_{cycle}_{member_name(member)}_h{start:03d}-{end:03d}.grib"


def parse_block_file(name: str) -> tuple[int, int] | None:
    """Return start and end in hours of a block's file name; None for another name."""
    match = _BLOCK_FILE.fullmatch(name)
    return (int(match[1]), int(match[2])) if match else None


def restart_file(lead: int) -> str:
    """Return the file name of the restart state after `lead` hours."""
    return f"{lead_name(lead)}.safetensors"


def parse_restart_file(name: str) -> int | None:
    """Return the lead in hours of a restart state's file name; None for another name."""
    match = _RESTART.fullmatch(name)
    return int(match[1]) if match else None


def checkpoint_file(model: str) -> str:
    """Return where a model's checkpoint is, built or fetched: relative to scratch, or to the destination."""
    return f"checkpoints/{model}.ckpt"


def unit_name(model: str, cycle: str) -> str:
    """Return the name of a cycle, or of a cycle of one of several models: ``demo/20250819_0000``."""
    return f"{model}/{cycle}" if model else cycle


def log_file(cycle: str, rule: str, member: str = "", model: str = "") -> str:
    """Return the log of a rule's job; `member` where each member has its own job, `model` in a run of several."""
    return _of_model(f"logs/{rule}/{cycle}/{member_name(member) if member else rule}.log", model)


def benchmark_file(cycle: str, rule: str, member: str = "", model: str = "") -> str:
    """Return the table of what a rule's job took; `member` and `model` as in `log_file`."""
    return _of_model(f"{BENCHMARKS}/{rule}/{cycle}/{member_name(member) if member else rule}.tsv", model)


def benchmarks_folder(model: str = "") -> str:
    """Return where those tables are, in the folder that snakemake was started in."""
    return _of_model(BENCHMARKS, model)


def report_folder(cycle: str, model: str = "") -> str:
    """Return where the pages of a run's report are, in the folder that snakemake was started in."""
    return _of_model(f"logs/report/{cycle}", model)


def _of_model(path: str, model: str) -> str:
    """Return where a log is in a run of several models: ``logs/demo/...`` for ``logs/...``."""
    return path.replace("logs/", f"logs/{model}/", 1) if model else path


def grid_label(grid: str) -> str:
    """Return a regular grid as names of files have it: ``1p5deg`` for ``1.5x1.5``, ``1x0p5deg`` for ``1x0.5``."""
    east, north = grid.replace(".", "p").split("x")
    return f"{east}deg" if east == north else f"{east}x{north}deg"


def place_label(place: str) -> str:
    """Return a place as names of files have it: ``addis-ababa``; empty for a name without a letter of a to z."""
    plain = unicodedata.normalize("NFKD", place).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")


@dataclass(frozen=True)
class Scratch:
    """Where things are under the scratch prefix of one cycle."""

    root: Path
    cycle: str

    @property
    def base(self) -> Path:
        return self.root / self.cycle

    def initial(self, member: int | str) -> Path:
        return self.base / "initial" / f"{member_name(member)}.safetensors"

    def work(self, member: int | str) -> Path:
        """The member's work folder: the forecast's own truth, never a declared output."""
        return self.base / "work" / member_name(member)

    def forecasts(self) -> Path:
        return self.base / "forecasts"

    def published(self, name: str) -> Path:
        """Where a lead, a coarse lead or an index of a finished member is, by the name of its file."""
        return self.base / _folder(name) / name

    def lead(self, member: int | str, lead: int) -> Path:
        return self.forecasts() / lead_file(self.cycle, member, lead)

    def manifest(self, member: int | str) -> Path:
        return self.base / "manifests" / f"{member_name(member)}.json"

    def metrics(self, member: int | str) -> Path:
        return self.base / "metrics" / f"{member_name(member)}.csv"

    def receipt(self, member: int | str) -> Path:
        return self.base / "receipts" / f"{member_name(member)}.json"

    def delivered(self, member: int | str) -> Path:
        """The copy on scratch of a manifest in a bucket, by which Snakemake knows that it is there."""
        return self.copy(Keys(self.cycle).manifest(member))

    def copy(self, key: str) -> Path:
        """The copy on scratch of an object in a bucket."""
        return self.base / "delivered" / PurePosixPath(key).relative_to(self.cycle)

    def copied_key(self, path: Path) -> str | None:
        """The object in a bucket that a file is the copy of; None for another file."""
        copies = self.base / "delivered"
        return f"{self.cycle}/{path.relative_to(copies).as_posix()}" if path.is_relative_to(copies) else None


@dataclass(frozen=True)
class Keys:
    """Names of objects under the destination, relative to it."""

    cycle: str

    @property
    def day(self) -> str:
        """The cycle's day, ``YYYYMMDD``."""
        return self.cycle.partition("_")[0]

    def folder(self, part: str) -> str:
        """What the keys of one kind begin with, such as ``manifests``."""
        return f"{self.cycle}/{part}/"

    def published(self, name: str) -> str:
        """The key of a lead, a coarse lead, a block or an index, by the name of its file."""
        return self.folder(_folder(name)) + name

    def lead(self, member: int | str, lead: int) -> str:
        return self.published(lead_file(self.cycle, member, lead))

    def index(self, member: int | str, lead: int) -> str:
        return index_file(self.lead(member, lead))

    def member_index(self, member: int | str) -> str:
        """The indexes of all leads of a member."""
        return f"{self.lead(member, 0).rpartition('_')[0]}.index.gz"

    def block(self, member: int | str, start: int, end: int) -> str:
        return self.published(block_file(self.cycle, member, start, end))

    def manifest(self, member: int | str) -> str:
        return f"{self.cycle}/manifests/{member_name(member)}.json"

    def receipt(self, member: int | str) -> str:
        return f"{self.cycle}/receipts/{member_name(member)}.json"

    def retention(self, member: int | str) -> str:
        """The record of what rules of `keep` removed of a member."""
        return f"{self.cycle}/retention/{member_name(member)}.json"

    def status(self, member: int | str) -> str:
        return f"{self.cycle}/status/{member_name(member)}.json"

    def metrics(self, member: int | str) -> str:
        return f"{self.cycle}/metrics/{member_name(member)}.csv"

    def restarts(self, member: int | str) -> str:
        """What the keys of a member's restart states and resume points begin with."""
        return f"{self.cycle}/restarts/{member_name(member)}/"

    def restart(self, member: int | str, lead: int) -> str:
        return self.restarts(member) + restart_file(lead)

    def resume_point(self, member: int | str, lead: int) -> str:
        """Beside a mirrored restart state: the leads delivered when it was."""
        return self.restart(member, lead).removesuffix(".safetensors") + ".json"

    def initial(self, member: int | str) -> str:
        return f"{self.cycle}/initial/{member_name(member)}.safetensors"

    def initial_summary(self, member: int | str) -> str:
        """The record of an initial state, by which members are compared."""
        return f"{self.cycle}/initial/{member_name(member)}.json"

    @property
    def initial_cycle(self) -> str:
        """The record of what the initial states of a cycle share."""
        return f"{self.cycle}/initial/cycle.json"

    @property
    def initial_members(self) -> str:
        """The comparison of all initial states."""
        return f"{self.cycle}/initial/members.json"

    def member_netcdf(self, member: int | str, grid: str) -> str:
        """A member on a regular grid, under the name that users' scripts know: ``1p5deg`` is 1.5 x 1.5 degrees."""
        name = grid_label(grid)
        return f"{self.cycle}/{name}_nc/aifs_ensemble_forecast_{name}_{member_name(member)}.nc"

    def weekly(self, member: int | str) -> str:
        """Means and sums of one member over the configured periods."""
        return self.product(f"weekly/{member_name(member)}.nc")

    def product(self, name: str) -> str:
        """A product of the whole ensemble."""
        return self.folder("products") + name

    def stamp(self, job: str) -> str:
        """Of which members a job has made its products of the ensemble."""
        return self.product(f"stamps/{job}.json")

    def statistics(self, first: int, last: int, kind: str, window: int = 0) -> str:
        """A kind of statistics over the members, of one lead or of several; `window` hours long, of amounts."""
        leads = lead_name(last) if first == last else f"{lead_name(first)}-{last:03d}"
        over = f"_{window:03d}h" if window else ""
        end = "nc" if kind == "ens" else "grib2"
        return self.product(f"ensemble/aifs_ens_{self.cycle}_{leads}-{kind}{over}.{end}")

    @property
    def cube(self) -> str:
        """What the ensemble as one data set is made of: the record of its files."""
        return self.product("cube.json")

    @property
    def virtual_cube(self) -> str:
        """The folder of the data set that refers to the leads."""
        return self.product("ensemble.icechunk")

    @property
    def regular_cube(self) -> str:
        """The folder of the data set on a regular grid."""
        return self.product("ensemble.zarr")

    @property
    def quintiles(self) -> str:
        """Probabilities of climatological classes, under the name that users' scripts know."""
        return self.product(f"ensemble_quintile_probabilities_{self.day}.nc")

    @property
    def model_quintiles(self) -> str:
        """Probabilities of the classes of the model's own climate."""
        return self.product(f"ensemble_quintile_probabilities_model_climate_{self.day}.nc")

    def submission(self, name: str) -> str:
        """A file of a submission to AI Weather Quest."""
        return self.product(f"aiwq/{name}")

    def evaluation(self, name: str) -> str:
        """A table or figure of scores."""
        return self.product(f"evaluation/{name}")

    def map(self, name: str) -> str:
        """A map, or a postage stamp of all members."""
        return self.product(f"maps/{name}")

    def meteogram(self, name: str) -> str:
        """A picture of a place, or its figures."""
        return self.product(f"meteograms/{name}")

    @property
    def page(self) -> str:
        """The page to look at what a cycle has."""
        return f"{self.cycle}/index.html"

    @property
    def run(self) -> str:
        """Who makes the cycle at the moment."""
        return f"{self.cycle}/run.json"

    @property
    def ensemble_manifest(self) -> str:
        return f"{self.cycle}/manifest.json"

    @property
    def success(self) -> str:
        return f"{self.cycle}/_SUCCESS"


def _folder(name: str) -> str:
    """Return the folder of a published file."""
    return "coarse" if is_coarse_file(name) else "forecasts"


def file_name(key: str) -> str:
    """Return the last part of a destination key."""
    return PurePosixPath(key).name


def sound_key(key: str) -> bool:
    """Tell whether a key can be one of ours: relative, printable, and no part of it empty, ``.``, ``..`` or too long.

    In a bucket names may hold anything; on this machine they would be paths.
    """
    parts = key.split("/")
    return key.isprintable() and not {"", ".", ".."} & {*parts} and all(len(part.encode()) <= 255 for part in parts)
