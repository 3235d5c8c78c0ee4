"""Whether the source of initial conditions has a cycle, and every member of it: from index files alone."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import requests

from aifs_ensemble.common.config import Config
from aifs_ensemble.common.errors import InputError
from aifs_ensemble.common.http import Deadline, TransferError, as_transfer_error
from aifs_ensemble.common.names import CONTROL, format_members
from aifs_ensemble.common.parameters import field_name
from aifs_ensemble.initial.download import FieldRequest
from aifs_ensemble.initial.opendata_client import IndexAdapter, RangeClient
from aifs_ensemble.initial.rangecache import RangeCache
from aifs_ensemble.initial.source import input_times

LOG = logging.getLogger(__name__)
_SECONDS, _STALL_SECONDS = 60.0, 10.0
# what the services answer for a file that is not there
_ABSENT = (403, 404, 410)
_FIELD = "2t"  # of every member in every index


def check_published(config: Config) -> str | None:
    """Raise InputError unless a source of open data has both times of the cycle with every member that is needed.

    The sources are those of the configuration, in its order; the first that has all of it is enough. Without an answer
    of any, nothing is refused, and what is to be said of it is returned. Other kinds of sources are not looked at.
    """
    if config.initial_conditions.source != "ecmwf-open-data":
        return None
    settings = config.initial_conditions.ecmwf_open_data
    told, answered = [], False
    deadline = Deadline(min(_SECONDS, settings.deadline_seconds))
    with tempfile.TemporaryDirectory() as folder:
        for source in settings.sources:
            try:
                lacking = next(_lacking(config, source, deadline, Path(folder)), None)
            except (TransferError, requests.RequestException) as error:
                told.append(f"{source}: {as_transfer_error(error)}")
                continue
            if lacking is None:
                return None
            answered = True
            told.append(f"{source}: {lacking}")
    if not answered:
        return f"whether {config.cycle} is published is not known: {'; '.join(told)}"
    raise InputError(f"config: cycle: {config.cycle!r} is not there to start from: {'; '.join(told)}")


def _lacking(config: Config, source: str, deadline: Deadline, folder: Path) -> Iterator[str]:
    """Yield what a source lacks of the cycle, in words."""
    settings = config.initial_conditions.ecmwf_open_data
    cache = RangeCache(folder)
    client = RangeClient(
        source, settings.resolution, cache, IndexAdapter(cache, min(_STALL_SECONDS, settings.stall_seconds), deadline)
    )
    wanted = {config.state_of(member) for member in config.members}
    parameters = (field_name(_FIELD),)

    def members(time: datetime, stream: str, kind: str, numbers: list[int]) -> set[int] | None:
        """Return the members that the index has of those asked for, None without an index."""
        request = FieldRequest(time, stream, kind, parameters).mars | ({"number": numbers} if numbers else {})
        try:
            return {item.number or CONTROL for item in client.ranges(request)}
        except requests.HTTPError as error:
            if error.response is not None and error.response.status_code in _ABSENT:
                return None
            raise

    for time in input_times(config):
        if perturbed := sorted(wanted - {CONTROL}):
            found = members(time, "enfo", "pf", perturbed)
            if found is None:
                yield f"no index of {time:%Y%m%d_%H%M}"
            elif missing := set(perturbed) - found:
                yield f"{time:%Y%m%d_%H%M} lacks members {format_members(missing)}"
        if CONTROL in wanted and not (members(time, "enfo", "cf", []) or members(time, "oper", "fc", [])):
            yield f"{time:%Y%m%d_%H%M} lacks the control"
