"""Google Cloud Storage as the destination, through application default credentials.

google-cloud-storage does the calls on objects; uploads go through google-resumable-media, the transfer
layer below it, so that one place decides what is repeated, how a broken session goes on and when to stop:
`Retry` of google-api-core with backoff under a deadline per object. Every upload states its CRC32C, which
the service compares before the object exists, and a generation match, so that nothing is overwritten
unseen. An answer lost after the service had stored the object comes back as 412 on the next try, and is
settled by comparing checksums.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from io import SEEK_END, BytesIO
from os import environ
from pathlib import Path
from time import monotonic
from typing import Any, BinaryIO, TypeVar
from urllib.parse import quote, urlencode

import google.auth
import requests
import urllib3
from google.api_core import exceptions as api
from google.api_core.retry import Retry
from google.auth import exceptions as auth
from google.auth.credentials import AnonymousCredentials, Credentials
from google.auth.transport.requests import AuthorizedSession
from google.cloud import storage
from google.resumable_media import DataCorruption, InvalidResponse

from aifs_ensemble.common.errors import StorageError, VerificationError, WorkflowError
from aifs_ensemble.common.files import atomic_writer, crc32c_bytes, crc32c_file
from aifs_ensemble.common.names import sound_key
from aifs_ensemble.common.storage.base import MissingError, ObjectInfo, Storage, TransferSettings
from aifs_ensemble.common.storage.uploads import (
    TIMEOUT,
    ChecksumRefusedError,
    ChunkedUpload,
    PiecewiseStream,
    TryAgainError,
    WholeUpload,
)

LOG = logging.getLogger(__name__)
T = TypeVar("T")

SCOPE = "https://www.googleapis.com/auth/devstorage.read_write"
TRANSIENT_STATUS = {408, 429, 500, 502, 503, 504}
TELL_SECONDS = 30.0  # between lines in the log about requests that are repeated
_FIELDS = "items(name,size,crc32c,generation,updated),nextPageToken"
_FOLDERS = "prefixes,nextPageToken"
_CONNECTION_ERRORS = (
    ConnectionError,
    requests.exceptions.ConnectionError,
    requests.exceptions.ChunkedEncodingError,
    requests.exceptions.Timeout,
    requests.exceptions.ContentDecodingError,
    urllib3.exceptions.HTTPError,
    DataCorruption,
)


def _status(error: BaseException) -> int | None:
    """Return the HTTP status behind an error, or None."""
    if isinstance(error, InvalidResponse):
        return int(error.response.status_code)
    if isinstance(error, api.GoogleAPICallError):
        return int(error.code) if error.code else None
    return None


def _transient(error: BaseException) -> bool:
    """Tell whether an attempt that failed with `error` is worth repeating."""
    if isinstance(error, (TryAgainError, *_CONNECTION_ERRORS)):
        return True
    if isinstance(error, auth.TransportError):
        return True
    if isinstance(error, auth.RefreshError):
        return bool(getattr(error, "retryable", False))
    return _status(error) in TRANSIENT_STATUS


class GcsStorage(Storage):
    """A bucket, or what lies under a prefix of it."""

    def __init__(self, url: str, settings: TransferSettings):
        super().__init__(url, settings)
        bucket, _, prefix = url.removeprefix("gs://").rstrip("/").partition("/")
        self._told = monotonic()
        self._prefix = f"{prefix}/" if prefix else ""
        self._session, self.client = _connect(settings.threads)
        self.bucket = self.client.bucket(bucket)
        self._retry = Retry(
            predicate=lambda error: _transient(error) and not self._given_up.is_set(),
            initial=settings.backoff,
            maximum=settings.backoff_most,
            multiplier=2.0,
            timeout=settings.deadline,
            on_error=self._repeated,
        )

    def stat(self, key: str) -> ObjectInfo | None:
        blob = self._call(key, lambda: self.bucket.get_blob(self._name(key), retry=None, timeout=TIMEOUT))
        return None if blob is None else self._info(blob)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        pages = self.client.list_blobs(
            self.bucket, prefix=self._name(prefix), fields=_FIELDS, retry=self._retry, timeout=TIMEOUT
        )
        with self._listing(prefix):
            for blob in pages:
                if sound_key(str(blob.name).removeprefix(self._prefix)):
                    yield self._info(blob)

    def folders(self) -> Iterator[str]:
        pages = self.client.list_blobs(
            self.bucket, prefix=self._prefix, delimiter="/", fields=_FOLDERS, retry=self._retry, timeout=TIMEOUT
        )
        with self._listing(""):
            for _ in pages:
                pass  # names without a folder; the folders are known when all pages are read
            names = (name.removeprefix(self._prefix).rstrip("/") for name in pages.prefixes)
            yield from sorted(name for name in names if sound_key(name))

    @contextmanager
    def _listing(self, prefix: str) -> Iterator[None]:
        """Explain what ends a listing."""
        try:
            yield
        except Exception as error:
            if _status(error) == 404:
                raise MissingError(f"{self.url}: no such bucket as {self.bucket.name}") from error
            raise self._explain(error, prefix) from error

    def with_crc32c(self, info: ObjectInfo) -> ObjectInfo:
        return info

    def put_file(
        self, path: Path, key: str, *, crc32c: str | None = None, replacing: ObjectInfo | None = None
    ) -> ObjectInfo:
        try:
            expected = crc32c or crc32c_file(path)

            def check_source() -> None:
                found = crc32c_file(path)
                if found != expected:
                    raise VerificationError(f"{path}: crc32c {found}, expected {expected}")

            with open(path, "rb") as stream:
                match = replacing.generation if replacing else 0
                return self._upload(stream, key, expected, match=match, check_source=check_source)
        except FileNotFoundError:
            raise VerificationError(f"{path}: missing") from None

    def put_bytes(
        self, data: bytes, key: str, *, overwrite: bool = False, replacing: ObjectInfo | None = None
    ) -> ObjectInfo:
        there = self._bytes_present(data, key)
        if there is not None:
            return there
        match = None if overwrite else replacing.generation if replacing else 0
        return self._upload(BytesIO(data), key, crc32c_bytes(data), match=match)

    def get_bytes(self, key: str) -> bytes:
        blob = self.bucket.blob(self._name(key))
        return self._call(
            key, lambda: blob.download_as_bytes(raw_download=True, checksum="crc32c", retry=None, timeout=TIMEOUT)
        )

    def get_range(self, key: str, start: int, length: int) -> bytes:
        blob = self.bucket.blob(self._name(key))
        return self._call(
            key,
            lambda: blob.download_as_bytes(
                raw_download=True, start=start, end=start + length - 1, checksum=None, retry=None, timeout=TIMEOUT
            ),
        )

    def get_file(self, key: str, path: Path) -> None:
        blob = self.bucket.blob(self._name(key))

        def fetch() -> None:
            with atomic_writer(path) as file:
                blob.download_to_file(file, raw_download=True, checksum="crc32c", retry=None, timeout=TIMEOUT)

        self._call(key, fetch)

    def delete(self, key: str, *, generation: int | None = None) -> bool:
        blob = self.bucket.blob(self._name(key))
        try:
            self._call(key, lambda: blob.delete(if_generation_match=generation, retry=None, timeout=TIMEOUT))
        except StorageError as error:
            if _status(error.__cause__ or error) in (404, 412):
                return False
            raise
        return True

    def compose(
        self, sources: Sequence[str], key: str, *, crc32c: str, replacing: ObjectInfo | None = None
    ) -> ObjectInfo:
        blob = self.bucket.blob(self._name(key))
        blob.content_type = "application/octet-stream"
        parts = [self.bucket.blob(self._name(source)) for source in sources]
        match = replacing.generation if replacing else 0

        def attempt() -> ObjectInfo:
            blob.compose(parts, if_generation_match=match, retry=None, timeout=TIMEOUT)
            return self._info(blob)

        info = self._settling(key, None, crc32c, attempt)
        if info.crc32c != crc32c:
            self.delete(key, generation=info.generation)
            raise VerificationError(f"{self.address(key)}: composed with crc32c {info.crc32c}, expected {crc32c}")
        return info

    def location(self) -> str:
        """Return where the bucket is, e.g. ``US-CENTRAL1`` (a region) or ``EU`` (a multi-region)."""
        try:
            bucket = self._call("", lambda: self.client.get_bucket(self.bucket, retry=None, timeout=TIMEOUT))
        except StorageError as error:
            if _status(error.__cause__ or error) == 403:
                raise StorageError(
                    f"{self.url}: may not be asked where it is, expected the right storage.buckets.get, as in "
                    "roles/storage.bucketViewer"
                ) from error
            raise
        return str(bucket.location)

    def _name(self, key: str) -> str:
        return self._prefix + key

    def _info(self, blob: storage.Blob) -> ObjectInfo:
        key = str(blob.name).removeprefix(self._prefix)
        return ObjectInfo(key, int(blob.size), str(blob.crc32c), int(blob.generation), blob.updated)

    def _upload(
        self,
        stream: BinaryIO,
        key: str,
        crc32c: str,
        *,
        match: int | None,
        check_source: Callable[[], None] = lambda: None,
    ) -> ObjectInfo:
        """Send a stream in one request, or chunk by chunk in a session, until the service has it.

        `match` is the generation to replace, 0 for none there, None for any. `check_source` raises when
        the stream itself is not what `crc32c` says, which is asked once the service doubts it.
        """
        size = stream.seek(0, SEEK_END)
        metadata = {"name": self._name(key), "crc32c": crc32c}
        attempt: Callable[[], dict[str, Any]]
        if size <= self.settings.resumable_above:
            attempt = WholeUpload(self._session, self._upload_url("multipart", match), metadata, stream)
        else:
            attempt = ChunkedUpload(
                session=self._session,
                url=self._upload_url("resumable", match),
                metadata=metadata,
                stream=PiecewiseStream(stream, size),
                size=size,
                chunk=self.settings.chunk,
                renewed=lambda: self._count(sessions_renewed=1),
            )

        def send() -> ObjectInfo:
            try:
                answer = attempt()
            except ChecksumRefusedError:
                check_source()
                raise
            info = ObjectInfo(key, int(answer["size"]), answer["crc32c"], int(answer["generation"]))
            if (info.size, info.crc32c) != (size, crc32c):
                # a service that does not compare the stated checksum stored what it got: take it back
                self.delete(key, generation=info.generation)
                check_source()
                raise TryAgainError(f"stored as {info.size} bytes, crc32c {info.crc32c}")
            self._count(objects=1, bytes=size)
            return info

        return self._settling(key, size, crc32c, send)

    def _settling(self, key: str, size: int | None, crc32c: str, send: Callable[[], ObjectInfo]) -> ObjectInfo:
        """Call `send` with retries; when the name is taken, the checksum says whether by this content."""
        try:
            return self._call(key, send)
        except StorageError as error:
            if _status(error.__cause__ or error) != 412:
                raise
        there = self.stat(key)
        if there is None:
            raise StorageError(f"{self.address(key)}: changed while it was written")
        if there.crc32c == crc32c and size in (None, there.size):
            self._count(settled=1)
            return there
        raise self._conflict(key, there, there.size if size is None else size, crc32c)

    def _upload_url(self, kind: str, match: int | None) -> str:
        query: dict[str, Any] = {"uploadType": kind}
        if match is not None:
            query["ifGenerationMatch"] = match
        return f"{self.client.api_endpoint}/upload/storage/v1/b/{quote(self.bucket.name)}/o?{urlencode(query)}"

    def _call(self, key: str, function: Callable[[], T]) -> T:
        try:
            return self._retry(function)()
        except WorkflowError:
            raise
        except Exception as error:
            if isinstance(error, OSError) and not isinstance(error, requests.RequestException):
                raise  # of the local file
            raise self._explain(error, key) from _last(error)

    def _repeated(self, error: Exception) -> None:
        self._count(retries=1)
        LOG.debug("%s: repeating after %r", self.url, error)
        with self._lock:
            if monotonic() - self._told < TELL_SECONDS:
                return
            self._told = monotonic()
        LOG.warning("%s: trying again, for up to %g s: %s", self.url, self.settings.deadline, _reason(error))

    def _explain(self, error: BaseException, key: str) -> StorageError:
        """Return the one-line error for what a call on `key` ended with."""
        address = self.address(key)
        if isinstance(error, api.RetryError):
            reason = _reason(_last(error))
            return StorageError(f"{address}: not done within {self.settings.deadline:g} s, last: {reason}")
        if _status(error) == 404:
            return MissingError(f"{address}: no such object, or no such bucket as {self.bucket.name}")
        if _status(error) in (401, 403):
            return StorageError(f"{address}: refused ({_reason(error)}), expected a role such as storage.objectUser")
        return StorageError(f"{address}: {_reason(error)}")


def _last(error: BaseException) -> BaseException:
    """Return what a call that ran out of time last failed with, else `error` itself."""
    return error.cause if isinstance(error, api.RetryError) and error.cause is not None else error


def _reason(error: BaseException) -> str:
    if isinstance(error, InvalidResponse):
        text = " ".join(str(error.response.text).split())[:200]
        return f"HTTP {error.response.status_code} {text}".strip()
    if isinstance(error, requests.ConnectionError) and error.args:
        error = getattr(error.args[0], "reason", error)  # what urllib3 says beneath its count of retries
    return " ".join(str(error).split())[:300] or type(error).__name__


def _connect(threads: int) -> tuple[AuthorizedSession, storage.Client]:
    """Return a session with a connection per thread, and a client on it."""
    credentials, project = _credentials()
    session = AuthorizedSession(credentials)
    adapter = requests.adapters.HTTPAdapter(pool_connections=4, pool_maxsize=2 * threads)
    session.mount("https://", adapter)
    session.mount("http://", adapter)
    return session, storage.Client(project=project, credentials=credentials, _http=session)


def _credentials() -> tuple[Credentials, str]:
    """Return application default credentials (none for an emulator) and a project."""
    if environ.get("STORAGE_EMULATOR_HOST"):
        return AnonymousCredentials(), "emulator"
    try:
        credentials, project = google.auth.default(scopes=[SCOPE])
    except auth.GoogleAuthError as error:
        raise StorageError(
            f"gs://: no application default credentials ({_reason(error)}), "
            "expected `gcloud auth application-default login` or a machine with an identity"
        ) from error
    return credentials, project or "none"
