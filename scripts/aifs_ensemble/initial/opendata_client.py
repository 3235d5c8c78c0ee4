"""The ecmwf-opendata client with transfers that always end.

The client knows the services, spells URLs and streams, reads the index and picks ranges. Its own
transfers have no time limit, retry hundreds of times and check nothing, so they are replaced.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import requests
from ecmwf.opendata import Client
from ecmwf.opendata.client import Result
from ecmwf.opendata.urls import URLS

from aifs_ensemble.common.errors import ConfigError
from aifs_ensemble.common.http import (
    ABSENT,
    ContentError,
    Deadline,
    GuardedAdapter,
    UnreachedError,
    as_transfer_error,
)
from aifs_ensemble.common.parameters import FieldName
from aifs_ensemble.initial.rangecache import RangeCache, RangeKey, damaged_index, sha256

# Where the client gets the anonymous access token for Azure's copy.
_AZURE_TOKEN = "https://planetarycomputer.microsoft.com/api/sas/v1/token/ai4edataeuwest/ecmwf"

# its paragraphs on connections and streams are for who uses it directly
logging.getLogger("ecmwf.opendata").setLevel(logging.ERROR)


def check_sources(sources: list[str]) -> None:
    """Raise ConfigError unless each source is a name that the client knows or a base URL."""
    for source in sources:
        if source not in URLS and not source.startswith(("http://", "https://")):
            raise ConfigError(
                f"config: initial_conditions.ecmwf_open_data.sources: {source!r}, "
                f"expected a base URL or one of {', '.join(sorted(URLS))}"
            )


class IndexAdapter(GuardedAdapter):
    """Answers for an index file from the cache when it is there.

    Parameters
    ----------
    once : whether a host that could not be reached is left alone, and each index is asked for once, be it there or not
    """

    def __init__(self, cache: RangeCache, stall_seconds: float, deadline: Deadline, *, once: bool = False):
        super().__init__(stall_seconds, deadline)
        self.cache = cache
        self._once = once
        self._unreached: UnreachedError | None = None
        self._answered: dict[str, tuple[int, bytes]] = {}

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
        url = (request.url or "").partition("?")[0]  # the query carries access tokens
        is_index = request.method == "GET" and url.endswith(".index")
        if is_index and (data := self.cache.index(url)) is not None:
            return _answer(request, 200, data)
        if url in self._answered:
            status, data = self._answered[url]
            if status == 200:
                self.cache.keep_index(url, data)  # where the client's user reads it
            return _answer(request, status, data)
        if self._unreached:
            raise self._unreached
        try:
            response = super().send(request, *args, **kwargs)
        except requests.ConnectionError as error:
            told = as_transfer_error(error)
            if self._once and isinstance(told, UnreachedError):
                self._unreached = UnreachedError(str(told), again=False)
                raise self._unreached from None
            raise
        if is_index and response.ok:
            if wrong := damaged_index(response.content):
                raise ContentError(wrong, again=True)
            self.cache.keep_index(url, response.content)
        if self._once and is_index and (response.ok or response.status_code in ABSENT):
            self._answered[url] = (response.status_code, response.content)
        return response

    def forget(self, url: str) -> None:
        """Ask for an index again: what it names proved wrong."""
        self._answered.pop(url, None)


def _answer(request: requests.PreparedRequest, status: int, data: bytes) -> requests.Response:
    """Return an answer that did not come over the network."""
    response = requests.Response()
    response.status_code, response.url, response.request = status, request.url or "", request
    response._content, response._content_consumed = data, True  # type: ignore[attr-defined]
    return response


@dataclass(frozen=True)
class IndexedRange:
    """A message that an index names: where it is and what it should be."""

    url: str
    key: RangeKey
    field: FieldName
    number: int | None = None


class RangeClient(Client):
    """The ecmwf-opendata client, which returns the ranges that fit a request instead of fetching them.

    Its index files come through the cache and `adapter`.
    """

    def __init__(self, source: str, resolution: str, cache: RangeCache, adapter: IndexAdapter):
        self.cache = cache
        self.adapter = adapter
        self.index_urls: list[str] = []
        super().__init__(
            source=source,
            resol=resolution,
            maximum_retries=1,
            source_accept_ranges=True,
            source_accept_multiple_ranges=False,
        )
        self._mount()

    def _mount(self) -> None:
        for scheme in ("http://", "https://"):
            self.session.mount(scheme, self.adapter)

    def _get_azure_sas_token(self, known_key: str = "ecmwf", custom_url: str | None = None) -> str:
        # called by the constructor; the client's own version has no time limit
        self._mount()
        response = self.session.get(custom_url or _AZURE_TOKEN)
        response.raise_for_status()
        return response.json()["token"]

    def get_parts(self, data_urls: list[str], for_index: dict[str, list[str]]) -> Any:
        """Note which index files a request reads, then let the client read them."""
        self.index_urls = [url.removesuffix(".grib2") + ".index" for url in data_urls]
        return super().get_parts(data_urls, for_index)

    def _download(self, result: Result) -> Result:
        # the client's own download is the part that is replaced: see the module's docstring
        return result

    def ranges(self, request: Mapping[str, Any]) -> list[IndexedRange]:
        """Return the ranges that the index has for a request in the client's terms; none if it has none."""
        try:
            urls = self.retrieve(dict(request)).urls
        except ValueError as error:
            if "index entries" in str(error):
                return []
            raise
        found = []
        for url, parts in urls:
            index = self.cache.index(url.removesuffix(".grib2") + ".index") or b""
            entries = {(entry["_offset"], entry["_length"]): entry for entry in map(json.loads, index.splitlines())}
            digest, file = sha256(index), url.removeprefix(self.url).lstrip("/")
            for offset, length in parts:
                entry = entries[offset, length]
                field = FieldName(entry["param"], entry["levtype"], int(entry.get("levelist", 0)))
                number = int(entry["number"]) if "number" in entry else None
                found.append(IndexedRange(url, RangeKey(file, digest, offset, length), field, number))
        return found

    def fetch(self, wanted: IndexedRange) -> bytes:
        """Return the bytes of a range from the service. Raises what requests raises, or TransferError."""
        last = wanted.key.offset + wanted.key.length - 1
        headers = {"Range": f"bytes={wanted.key.offset}-{last}", "Accept-Encoding": "identity"}
        response = self.session.get(wanted.url, headers=headers, verify=self.verify)
        response.raise_for_status()
        return response.content

    def forget_indexes(self, *, wrong: bool = False) -> None:
        """Forget the index files that the last request read: they may grow, or what they name proved `wrong`."""
        for url in self.index_urls:
            self.cache.forget_index(url)
            if wrong:
                self.adapter.forget(url)
