"""Fields from ECMWF open data: source after source, try after try, checked before they are kept."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import numpy.typing as npt
import requests

from aifs_ensemble.common.config.sections import EcmwfOpenData
from aifs_ensemble.common.errors import DownloadError, InputError
from aifs_ensemble.common.http import (
    CONNECTIONS,
    AbsentError,
    ContentError,
    Deadline,
    DeadlinePassedError,
    Policy,
    TransferError,
    UnreachedError,
    as_transfer_error,
    persist,
)
from aifs_ensemble.common.names import CONTROL
from aifs_ensemble.common.parameters import FieldName
from aifs_ensemble.fields.grib_reader import Header, decode, read_header, split_messages
from aifs_ensemble.initial.opendata_client import IndexAdapter, IndexedRange, RangeClient, check_sources
from aifs_ensemble.initial.rangecache import RangeCache, RangeKey, sha256

LOG = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Fetched:
    """One field: header, grid name, values float32 ``(value,)`` and the SHA-256 of its message."""

    header: Header
    grid: str
    values: npt.NDArray[np.float32]
    digest: str
    size: int
    key: RangeKey


@dataclass(frozen=True)
class FieldRequest:
    """One request for one level type: what the client is asked for, and what must come of it.

    `number` is the member, None for the control and a deterministic forecast, which indexes give no number. All are
    at step 0.
    """

    time: datetime
    stream: str
    type: str
    parameters: tuple[FieldName, ...]
    number: int | None = None

    @property
    def levtype(self) -> str:
        return self.parameters[0].levtype

    @property
    def mars(self) -> dict[str, Any]:
        """The request in the client's terms."""
        request: dict[str, Any] = {
            "date": f"{self.time:%Y%m%d}",
            "time": self.time.hour,
            "stream": self.stream,
            "type": self.type,
            "step": 0,
            "levtype": self.levtype,
            "param": sorted({p.name for p in self.parameters}),
        }
        if self.levtype != "sfc":
            request["levelist"] = sorted({p.level for p in self.parameters})
        if self.number is not None:
            request["number"] = [self.number]
        return request

    def __str__(self) -> str:
        member = "" if self.number is None else f" member {self.number}"
        return f"{self.time:%Y%m%d_%H%M} {self.stream} {self.type}{member} {self.levtype}"


@dataclass(frozen=True)
class FetchedFields:
    """The fields of one request, in the order of its parameters, and where they came from."""

    request: FieldRequest
    fields: tuple[Fetched, ...]
    source: str

    @property
    def provenance(self) -> dict[str, Any]:
        """Return source, files, index digests and a digest over all messages."""
        return {
            "request": str(self.request),
            "source": self.source,
            "files": sorted({f.key.file for f in self.fields}),
            "index_sha256": sorted({f.key.index for f in self.fields}),
            "messages": len(self.fields),
            "bytes": sum(f.size for f in self.fields),
            "sha256": sha256("".join(f.digest for f in self.fields).encode()),
        }


class NoFieldsError(InputError):
    """The sources that answered have no field of a request."""


class AbsentFieldsError(DownloadError):
    """No source delivers; at least one answers that it has no such file."""


class UnreachedSourcesError(DownloadError):
    """No source could be reached."""


class MissingFieldsError(ContentError):
    """A source answers, but lacks fields; `all` says whether it has none of those asked for."""

    def __init__(self, request: FieldRequest, missing: list[FieldName]):
        self.all = len(missing) == len(request.parameters)
        names = ", ".join(map(str, missing))
        super().__init__(f"lacks {len(missing)} of {len(request.parameters)} fields: {names}", again=False)


class Downloader:
    """Fetches the fields of requests from the first source that delivers them whole.

    Parameters
    ----------
    sources : names known to the client, or base URLs, in order of preference
    settings : ``resolution``, ``attempts`` per source, ``deadline_seconds`` for all requests together,
        ``stall_seconds``
    cache : folder of the range cache
    once : for many requests that may each go without: a source that could not be reached is not tried again, an index
        file is asked for once, and a source that fails is told of by the error alone
    """

    def __init__(self, sources: list[str], settings: EcmwfOpenData, cache: Path, *, once: bool = False):
        check_sources(sources)
        self.sources = list(sources)
        self.resolution: str = settings.resolution
        self.cache = RangeCache(cache)
        self.policy = Policy(
            deadline_seconds=settings.deadline_seconds,
            stall_seconds=settings.stall_seconds,
            attempts=settings.attempts,
            first_wait=0.5,
            longest_wait=20.0,
            patience=60.0,  # a server that asks for a longer pause is left for the next source
        )
        self.deadline = Deadline(self.policy.deadline_seconds)
        self._once_only = once
        self._adapters: dict[str, IndexAdapter] = {}
        self._clients: dict[str, RangeClient] = {}
        self._left: set[str] = set()

    def fetch(self, request: FieldRequest) -> FetchedFields:
        """Return the fields of a request. A request served before is served from the same source's cache.

        Raises InputError when the sources that answered lack fields (NoFieldsError: all of them), DownloadError
        when none answered in time (AbsentFieldsError where a file is not there, UnreachedSourcesError where no source
        could be reached); one line that says what each source did.
        """
        name = f"{request}|{self.resolution}|{request.mars}"
        reasons: dict[str, TransferError] = {}
        for source in self._order(self.cache.record(name)):
            try:
                fetched = self._from_source(source, request)
            except TransferError as error:
                # from 12 May 2026 on the ensemble has no control of its own: nothing to be warned of
                usual = request.type == "cf" and isinstance(error, MissingFieldsError) and error.all
                level = logging.DEBUG if self._once_only else logging.INFO if usual else logging.WARNING
                LOG.log(level, "%s: %s: %s", source, request, error)
                reasons[source] = error
                if isinstance(error, DeadlinePassedError):
                    break
                if not isinstance(error, MissingFieldsError):
                    self._demote(source)
            else:
                self.cache.keep_record(name, {"source": source, "request": str(request)})
                self._tell_left(reasons)
                return fetched
        told = "; ".join(f"{source}: {error}" for source, error in reasons.items())
        if all(isinstance(error, UnreachedError) for error in reasons.values()):
            raise UnreachedSourcesError(f"open data {request}: {told}")
        lacking = [error.all for error in reasons.values() if isinstance(error, MissingFieldsError)]
        absent = any(isinstance(error, AbsentError) for error in reasons.values())
        kind: type[InputError | DownloadError] = AbsentFieldsError if absent else DownloadError
        if lacking:
            kind = NoFieldsError if all(lacking) else InputError
        raise kind(f"open data {request}: {told}")

    def _tell_left(self, reasons: Mapping[str, TransferError]) -> None:
        """Say once of each source that could not be reached, and that others serve in its place."""
        for source, error in reasons.items() if self._once_only else ():
            if isinstance(error, UnreachedError) and source not in self._left:
                self._left.add(source)
                LOG.warning("%s: %s; it is not asked again", source, error)

    def _order(self, record: Any) -> list[str]:
        """Return the sources, the one that served this request before first: its index is in the cache."""
        before = record.get("source") if isinstance(record, dict) else None
        return sorted(self.sources, key=lambda source: source != before)

    def _demote(self, source: str) -> None:
        """Try a source that failed after the others from now on."""
        self.sources.remove(source)
        self.sources.append(source)

    def _from_source(self, source: str, request: FieldRequest) -> FetchedFields:
        name = f"{source}: {request}"
        return persist(lambda: self._once(source, request), self.policy, self.deadline, name=name)

    def _client(self, source: str) -> RangeClient:
        if source not in self._clients:
            if source not in self._adapters:  # it remembers, also where no client comes about
                limit = self.policy.stall_seconds
                self._adapters[source] = IndexAdapter(self.cache, limit, self.deadline, once=self._once_only)
            self._clients[source] = RangeClient(source, self.resolution, self.cache, self._adapters[source])
        return self._clients[source]

    def _once(self, source: str, request: FieldRequest) -> FetchedFields:
        client: RangeClient | None = None
        try:
            client = self._client(source)
            ranges = client.ranges(request.mars)
            by_name = _by_name(ranges)
            missing = [p for p in request.parameters if p not in by_name]
            if missing:
                raise MissingFieldsError(request, missing)
            fetched = self._fetch(client, request, [by_name[p] for p in request.parameters])
        except requests.RequestException as error:
            raise as_transfer_error(error) from error
        except ContentError as error:
            if client is not None:
                client.forget_indexes(wrong=not isinstance(error, MissingFieldsError))
            raise
        return FetchedFields(request, tuple(fetched[p] for p in request.parameters), source)

    def _fetch(
        self, client: RangeClient, request: FieldRequest, ranges: list[IndexedRange]
    ) -> dict[FieldName, Fetched]:
        """Return the checked field of each range, from the cache or the service.

        Every range that arrives whole is kept, whatever becomes of the others.
        """
        fetched = {}
        absent = []
        for item in ranges:
            data = self.cache.range(item.key)
            if data is None:
                absent.append(item)
            else:
                fetched[item.field] = _checked(data, item, request)
        failure: Exception | None = None
        given_up = Event()

        def fetch(item: IndexedRange) -> bytes | None:
            return None if given_up.is_set() else client.fetch(item)

        with ThreadPoolExecutor(CONNECTIONS) as pool:
            waiting = {pool.submit(fetch, item): item for item in absent}
            for future in as_completed(waiting):
                item = waiting[future]
                try:
                    if (data := future.result()) is not None:
                        fetched[item.field] = _checked(data, item, request)
                        self.cache.keep_range(item.key, data)
                except (TransferError, requests.RequestException) as error:
                    failure = failure or error
                    given_up.set()
        if failure is not None:
            raise failure
        return fetched


def _by_name(ranges: list[IndexedRange]) -> dict[FieldName, IndexedRange]:
    """Return ranges by field. Raises ContentError for an index that names a field twice, with other bytes."""
    found: dict[FieldName, IndexedRange] = {}
    for item in ranges:
        before = found.setdefault(item.field, item)
        if before.key != item.key:
            places = " and ".join(f"{key.length} bytes at byte {key.offset}" for key in (before.key, item.key))
            raise ContentError(f"{item.key.file}: its index names {item.field} twice, {places}", again=False)
    return found


def _checked(data: bytes, item: IndexedRange, request: FieldRequest) -> Fetched:
    """Return the field of a range. Raises ContentError unless it is the one whole message that its index says."""
    where = f"{item.key.file} at byte {item.key.offset}"
    try:
        messages = list(split_messages(data, where))
        if len(messages) != 1:
            raise ContentError(f"{where}: {len(messages)} messages, expected 1", again=True)
        header = read_header(data, where)
        # the control's messages are numbered 0, a deterministic forecast's may say anything
        member, number = (
            (CONTROL, header.number or CONTROL) if request.type == "cf" else (request.number, header.number)
        )
        found = (header.field, number if member is not None else None, header.base_time, header.step)
        expected = (item.field, member, request.time, "0")
        if found != expected:
            raise ContentError(f"{where}: {header}, expected {item.field} of {request}", again=True)
        grid, values = decode(data, where)
        if np.nanmin(values) == np.nanmax(values):
            # what zeroed data decode to; no field that is fetched is the same everywhere
            raise ContentError(f"{where}: {header.field} is {np.nanmin(values):g} everywhere", again=True)
    except InputError as error:
        raise ContentError(str(error), again=True) from None
    return Fetched(header, grid, values, sha256(data), len(data), item.key)
