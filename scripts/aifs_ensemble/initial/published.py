"""Whether the source of initial conditions has a cycle, and every member of it: from index files alone."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import datetime
from itertools import product
from pathlib import Path

import requests

from aifs_ensemble.common.config import Config
from aifs_ensemble.common.errors import InputError
from aifs_ensemble.common.http import ABSENT, Deadline, TransferError, as_transfer_error
from aifs_ensemble.common.names import CONTROL, format_members
from aifs_ensemble.common.parameters import FieldName, field_name
from aifs_ensemble.initial.download import FieldRequest
from aifs_ensemble.initial.opendata import refuse_too_early
from aifs_ensemble.initial.opendata_client import IndexAdapter, RangeClient, check_sources
from aifs_ensemble.initial.rangecache import RangeCache
from aifs_ensemble.initial.source import input_times

SECONDS, _STALL_SECONDS = 60.0, 10.0
# of every member, in every index: of the atmosphere's streams, and of those of the waves
_FIELD, _WAVE = field_name("2t"), field_name("swh")


def check_published(config: Config, cache: Path | None = None) -> str | None:
    """Raise InputError unless a source of open data has both times of the cycle, and members enough.

    The sources are those of the configuration, in its order; the first that has everything is enough. Enough are
    ``min_members`` where it is set, else one: a member that is not there fails alone. What is to be said beside that
    is returned: such members, and that no source answered. Index files are kept in `cache`, by default nowhere.
    Other kinds of sources are not looked at.
    """
    if config.initial_conditions.source != "ecmwf-open-data":
        return None
    refuse_too_early(config)
    settings = config.initial_conditions.ecmwf_open_data
    enough = config.given.min_members or 1
    told: list[str] = []
    left: dict[str, set[int]] = {}
    deadline = Deadline(min(SECONDS, settings.deadline_seconds))
    with ExitStack() as stack:
        folder = cache / "opendata" if cache else Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for source in settings.sources:
            try:
                left[source], lacking = _members_there(config, Indexes(config, source, deadline, folder))
            except (TransferError, requests.RequestException) as error:
                told.append(f"{source}: {as_transfer_error(error)}")
                continue
            if not lacking:
                return None
            told.append(f"{source}: {lacking}")
    if left and max(map(len, left.values())) < enough:
        raise InputError(f"config: cycle: {config.cycle!r} has nothing to start from: {'; '.join(told)}")
    known = "lacks members" if left else "may not be published"
    return f"{config.cycle} {known}: {'; '.join(told)}"


class Indexes:
    """The index files of one source, asked for members."""

    def __init__(self, config: Config, source: str, deadline: Deadline, folder: Path):
        settings = config.initial_conditions.ecmwf_open_data
        cache = RangeCache(folder)
        adapter = IndexAdapter(cache, min(_STALL_SECONDS, settings.stall_seconds), deadline)
        check_sources([source])
        self._client = RangeClient(source, settings.resolution, cache, adapter)

    def members(self, time: datetime, stream: str, kind: str, numbers: list[int]) -> set[int] | None:
        """Return those of `numbers` that the index has, the control for none; None where there is no index."""
        found = self.fields(time, stream, kind, numbers, (_WAVE if stream in ("waef", "wave") else _FIELD,))
        return None if found is None else set(found)

    def fields(
        self, time: datetime, stream: str, kind: str, numbers: Sequence[int], names: Sequence[FieldName]
    ) -> dict[int, set[FieldName]] | None:
        """Return the fields of `names`, all of one level type, that the index has of each of `numbers` it knows.

        The control stands for no number. None where there is no index.
        """
        request = FieldRequest(time, stream, kind, tuple(names)).mars | ({"number": [*numbers]} if numbers else {})
        found: dict[int, set[FieldName]] = {}
        try:
            # the client asks for every level of every parameter
            for item in (item for item in self._client.ranges(request) if item.field in names):
                found.setdefault(CONTROL if item.number is None else item.number, set()).add(item.field)
        except requests.HTTPError as error:
            if error.response is not None and error.response.status_code in ABSENT:
                return None
            raise
        if sum(map(len, found.values())) < len(names) * max(len(numbers), 1):
            self._client.forget_indexes()  # it may grow
        return found


def _members_there(config: Config, indexes: Indexes) -> tuple[set[int], str]:
    """Return the members that can start from what a source has, and what it lacks, in words."""
    wanted = sorted({config.state_of(member) for member in config.members})
    perturbed = [member for member in wanted if member != CONTROL]
    states = set(wanted)
    lacking: list[str] = []
    streams = [("enfo", "oper"), *([("waef", "wave")] if config.model.waves else [])]
    for time, (ensemble, alone) in product(input_times(config), streams):
        found = set()
        if perturbed:
            of_members = indexes.members(time, ensemble, "pf", perturbed)
            if of_members is None:
                lacking.append(f"no index of {time:%Y%m%d_%H%M}{_named(ensemble)}")
            elif missing := set(perturbed) - of_members:
                lacking.append(f"{time:%Y%m%d_%H%M}{_named(ensemble)} lacks members {format_members(missing)}")
            found = of_members or set()
        if CONTROL in wanted:
            if indexes.members(time, ensemble, "cf", []) or indexes.members(time, alone, "fc", []):
                found |= {CONTROL}
            else:
                lacking.append(f"{time:%Y%m%d_%H%M}{_named(ensemble)} lacks the control")
        states &= found
    return {member for member in config.members if config.state_of(member) in states}, ", ".join(lacking)


def _named(stream: str) -> str:
    """Return a stream's name for an error line, nothing of the one that all models read."""
    return "" if stream == "enfo" else f" {stream}"
