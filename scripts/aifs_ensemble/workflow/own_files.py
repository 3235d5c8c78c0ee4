"""The user's files that jobs of a run will read: looked for when it starts, in a dry-run, and by the doctor.

Snakemake knows none of them as inputs. Without a look, a product would miss its own after days of forecasts.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Collection, Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from aifs_ensemble.common import clock
from aifs_ensemble.common.config import Config
from aifs_ensemble.initial.file_names import member_files
from aifs_ensemble.products.climatology_names import climatology_path, own_climatology_path
from aifs_ensemble.products.evaluation.due import evaluated_leads, observed_path, path_at

QUINTILES, MODEL_QUINTILES, EVALUATION = "product_quintiles", "product_model_quintiles", "product_evaluation"
INITIAL = frozenset({"initial_cycle", "initial_member"})
_OR_NULL = "put it there, or set the key to null"


class OwnFile(NamedTuple):
    """A file that a job reads: the key that names it, and in words what it holds.

    `needed` tells whether the job fails without it; else it makes less, and may do without some.
    """

    key: str
    path: Path
    what: str
    needed: bool = True


class Problem(NamedTuple):
    """What is wrong with the files of a key, in one line; whether a run is refused for it, or goes on and says it."""

    text: str
    refuses: bool


def files_read(config: Config, rules: Collection[str]) -> Iterator[OwnFile]:
    """Yield the user's files that jobs of `rules` read, of one cycle of a model; none that another check looks for."""
    weekly = config.products.weekly
    weeks = [(name, period) for name in weekly.variables for period in config.periods]
    if weekly.climatology and QUINTILES in rules:
        for name, period in weeks:
            what = f"climatological quantiles of {weekly.variables[name].variable}"
            yield OwnFile("products.weekly.climatology", climatology_path(config, name, period), what)
    if weekly.model_climatology and MODEL_QUINTILES in rules:
        for name, period in weeks:
            what = f"a file of `aifs-ensemble climatology` for {weekly.variables[name].variable}"
            yield OwnFile("products.weekly.model_climatology", own_climatology_path(config, name, period), what)
    if EVALUATION in rules:
        yield from _of_evaluation(config, weeks)


def _of_evaluation(config: Config, weeks: Iterable[tuple[str, str]]) -> Iterator[OwnFile]:
    evaluation, now = config.products.evaluation, clock.now()
    times: list[datetime] = [config.cycle_time + timedelta(hours=lead) for lead in evaluated_leads(config)]
    for key in ("path", "climatology"):
        pattern = getattr(evaluation, key)
        if pattern and (key == "climatology" or evaluation.source == "file"):
            what = "an analysis" if key == "path" else "a climatology"
            for time in times:
                if time <= now:
                    yield OwnFile(f"products.evaluation.{key}", path_at(config, pattern, time, key), what, needed=False)
    if evaluation.observations:
        for name, period in weeks:
            if config.cycle_time + timedelta(hours=config.periods[period] + config.products.weekly.hours) <= now:
                path = observed_path(config, name, period)
                yield OwnFile("products.evaluation.observations", path, "an observed week", needed=False)


def of_initial_states(config: Config) -> Iterator[OwnFile]:
    """Yield the files of initial states; whether they are there, `initial.file_names.check_files` tells."""
    if config.initial_conditions.source == "file":
        for member in config.members:
            for path in member_files(config, config.state_of(member)):
                yield OwnFile("initial_conditions.file.path", path, "the GRIB of initial states")


def problems(rules: Mapping[str, Collection[str]], config: Config, *, rented: bool) -> list[Problem]:
    """Return what is wrong with the files that jobs read, a line a key; `rules` are those to run, by unit.

    With `rented` machines it tells which files never come to them.
    """
    by_key: dict[str, list[OwnFile]] = {}
    for one in config.of_each_cycle:
        wanted = rules.get(one.unit, ())
        found = [*files_read(one, wanted), *(of_initial_states(one) if rented and INITIAL & {*wanted} else ())]
        for file in found:
            by_key.setdefault(file.key, []).append(file)
    look = _never_there if rented else _absent
    return [problem for files in by_key.values() for problem in look(files)]


def _absent(files: list[OwnFile]) -> Iterator[Problem]:
    """Yield what is to be said of the files of a key that are not on this machine."""
    absent = list(dict.fromkeys(file for file in files if not file.path.is_file()))
    if not absent or (len(absent) < len({*files}) and not absent[0].needed):
        return
    key, path, what, needed = absent[0]
    more = f" (nor {len(absent) - 1} more)" if len(absent) > 1 else ""
    if not path.parent.is_dir():
        where = f"{path.parent}: no such folder, expected {path.name}{more} in it"
    else:
        where = f"{path}: no such file{more}, expected {what}"
    then = _OR_NULL if needed else "nothing is scored with it until one is there"
    yield Problem(f"config: {key}: {where}; {then}", refuses=needed)


def _never_there(files: list[OwnFile]) -> Iterator[Problem]:
    """Yield what is to be said of files of a key that rented machines are to read: they get what git knows."""
    known = _known_to_git()
    if not files[0].needed and any(Path(os.path.normpath(file.path)) in known for file in files):
        return
    for key, path, what, _ in files:
        if path.is_absolute():
            if path.exists() or path.parent.is_dir():
                yield Problem(
                    f"config: {key}: {path} is of this machine, which rented machines share no files with, expected a "
                    f"path below {Path.cwd()} that git knows (they get those), or null and products made here: "
                    "snakemake products --profile local, with the same --configfile",
                    refuses=True,
                )
            else:
                yield Problem(
                    f"config: {key}: {path}: no file of this machine: rented machines have it only if the image "
                    "cloud.cpu_image does",
                    refuses=False,
                )
            return
        if Path(os.path.normpath(path)) not in known:
            yield Problem(
                f"config: {key}: {path}: git does not know it, expected {what} that is added to git below "
                f"{Path.cwd()}: rented machines get no other file of this machine",
                refuses=True,
            )
            return


def _known_to_git() -> set[Path]:
    """Return the files that travel to rented machines: none without git, or without a clone."""
    try:
        done = subprocess.run(["git", "ls-files", "-z", "."], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return set()
    return {Path(name) for name in done.stdout.split("\0") if name}
