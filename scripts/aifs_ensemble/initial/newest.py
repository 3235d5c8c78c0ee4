"""Which cycle a word such as ``latest`` stands for: the newest whose inputs are all there for the chosen source."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import requests

from aifs_ensemble.common import clock
from aifs_ensemble.common.config import Config
from aifs_ensemble.common.cycle_words import CycleWord
from aifs_ensemble.common.errors import ConfigError, DownloadError, InputError
from aifs_ensemble.common.http import Deadline, TransferError, as_transfer_error
from aifs_ensemble.common.names import CONTROL, cycle_name, format_members
from aifs_ensemble.initial.file_source import FileSource
from aifs_ensemble.initial.opendata import ALONE, CONTROL_KIND, by_request, refuse_too_early, stream_of
from aifs_ensemble.initial.publication import due
from aifs_ensemble.initial.published import SECONDS, Indexes
from aifs_ensemble.initial.source import input_times


@dataclass(frozen=True)
class Newest:
    """The cycle that a word stands for, and what newer cycles of the word lack, in words by cycle."""

    cycle: str
    lacking: dict[str, str]


class Availability:
    """What the configured source lacks of cycles; one that does not answer is asked once, and then left alone.

    Parameters
    ----------
    cache : where index files are kept; by default nowhere
    """

    def __init__(self, cache: Path | None = None):
        self._cache = cache
        self._silent: dict[str, str] = {}

    def lacking(self, config: Config) -> str:
        """Return what is missing of the cycle's inputs, in words; an empty text where all is there.

        Raises DownloadError when no source of open data answers.
        """
        if len(config.models) > 1:
            wanting = {one.model.name: self.lacking(one) for one in config.of_each_model}
            return "; ".join(f"{model}: {missing}" for model, missing in wanting.items() if missing)
        kind = config.initial_conditions.source
        if kind == "idealised":
            return ""
        return _absent_files(config) if kind == "file" else self._of_open_data(config)

    def _of_open_data(self, config: Config) -> str:
        try:
            refuse_too_early(config)
        except InputError as error:
            return str(error)
        settings = config.initial_conditions.ecmwf_open_data
        deadline = Deadline(min(SECONDS, settings.deadline_seconds))
        told = []
        with ExitStack() as stack:
            cache = self._cache or Path(stack.enter_context(tempfile.TemporaryDirectory()))
            for source in settings.sources:
                if source in self._silent:
                    continue
                try:
                    lacks = next(_absent_fields(config, Indexes(config, source, deadline, cache / "opendata")), "")
                except (TransferError, requests.RequestException) as error:
                    self._silent[source] = str(as_transfer_error(error))
                    continue
                if not lacks:
                    return ""
                told.append(f"{source}: {lacks}")
        if not told:
            said = "; ".join(f"{source}: {why}" for source, why in self._silent.items())
            raise DownloadError(f"no source of initial conditions answers: {said}")
        return "; ".join(told)


def newest_with_inputs(
    word: CycleWord, config_of: Callable[[str], Config], availability: Availability, now: datetime | None = None
) -> Newest:
    """Return the newest cycle of a word whose inputs are all there, less the word's offset, whose are there too.

    With ``wait_hours`` it is the newest that is due, of a word with an hour within the wait: a run waits for it, and
    nobody is asked. `config_of` returns the configuration of a cycle. Raises InputError where there is none,
    DownloadError where nobody answers, both in one line with the word.
    """
    now = now or clock.now()
    lacking: dict[str, str] = {}
    for time in word.newest_first(now):
        config = config_of(cycle_name(time))
        if config.initial_conditions.source == "file":
            for one in config.of_each_model:
                _check_named(one, word)
        hours = config.initial_conditions.wait_hours
        if (due(config, time) - now).total_seconds() > 3600 * (hours if word.is_series else 0):
            lacking[config.cycle] = "not due yet"
            continue
        if hours == 0 and (missing := _asked(word, availability, config)):
            lacking[config.cycle] = missing
            continue
        if not word.offset:
            return Newest(config.cycle, lacking)
        wanted = config_of(cycle_name(time - word.offset))
        if missing := _asked(word, availability, wanted):
            raise InputError(f"config: {word.key}: {word.text!r} is {wanted.cycle}, which lacks inputs: {missing}")
        return Newest(wanted.cycle, lacking)
    said = "; ".join(f"{cycle}: {why}" for cycle, why in [*lacking.items()][:2])
    raise InputError(f"config: {word.key}: {word.text!r}: none of the last {len(lacking)} has its inputs ({said})")


def _asked(word: CycleWord, availability: Availability, config: Config) -> str:
    try:
        return availability.lacking(config)
    except DownloadError as error:
        raise DownloadError(
            f"config: {word.key}: {word.text!r} is not known: {error}; name a cycle, YYYYMMDD_HHMM"
        ) from None


def _absent_fields(config: Config, indexes: Indexes) -> Iterator[str]:
    """Yield what the indexes of a source lack of the inputs of all members, the first thing first."""
    wanted = sorted({config.state_of(member) for member in config.members})
    perturbed = [member for member in wanted if member != CONTROL]
    groups = by_request(config.model.prognostic)
    for time in reversed(input_times(config)):  # what is published last is asked for first
        for group, names in groups.items() if perturbed else ():
            found = indexes.fields(time, stream_of("enfo", group), "pf", perturbed, names)
            if found is None:
                yield f"no index of {cycle_name(time)}"
                return
            if short := [member for member in perturbed if len(found.get(member, ())) < len(names)]:
                yield f"{cycle_name(time)} lacks fields of members {format_members(short)}"
        if CONTROL in wanted and not any(
            all(
                len((indexes.fields(time, stream_of(stream, group), kind, [], names) or {}).get(CONTROL, ()))
                == len(names)
                for group, names in groups.items()
            )
            for stream, kind in (CONTROL_KIND, ALONE)
        ):
            yield f"{cycle_name(time)} lacks the control"
    for group, names in by_request(config.model.constant).items():
        found = indexes.fields(config.cycle_time, stream_of("oper", group), "fc", [], names)
        if len((found or {}).get(CONTROL, ())) < len(names):
            yield f"{config.cycle} lacks the constants"


def _absent_files(config: Config) -> str:
    """Return which files of the user's are not there."""
    source = FileSource(config)
    paths = {path for member in config.members for path in source.paths(config.state_of(member))}
    absent = sorted(str(path) for path in paths if not path.is_file())
    return f"no file {_first(absent)}" if absent else ""


def _check_named(config: Config, word: CycleWord) -> None:
    """Raise ConfigError for files whose names say nothing of the cycle: those of any would do."""
    source = FileSource(config)
    for key, patterns in (("path", source.patterns), ("control", source.control)):
        if not all("{cycle" in pattern for pattern in patterns):
            of_model = f" of {config.model.name}" if config.model_folder else ""
            raise ConfigError(
                f"config: initial_conditions.file.{key}: {patterns}{of_model}, expected {{cycle}} in it for {word.text}"
            )


def _first(names: Iterable[str]) -> str:
    first, *rest = names
    return f"{first} and {len(rest)} more" if rest else first
