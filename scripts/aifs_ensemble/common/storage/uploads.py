"""Single attempts to send a stream to Google Cloud Storage; `gcs` decides when to repeat one.

Both kinds state the CRC32C in the object's metadata, so that the service refuses other content before an
object exists. They do not repeat requests themselves: a broken session asks the service how far it got
and goes on there, one that is gone starts again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any, BinaryIO

import requests
from google.resumable_media import InvalidResponse
from google.resumable_media.common import RetryStrategy
from google.resumable_media.requests import MultipartUpload, ResumableUpload

TIMEOUT = (10, 60)  # seconds to connect or to send a piece, and to wait for bytes
PIECE = 1 << 20  # bytes
CONTENT_TYPE = "application/octet-stream"
_SESSION_GONE = {404, 410}


class TryAgainError(Exception):
    """An attempt failed in a way that the next may not."""


class ChecksumRefusedError(TryAgainError):
    """The content cannot have the checksum that was stated: damage on the way, or in the file."""


class Pieces:
    """`size` bytes of a stream from `start` on as the body of a request, read while they are sent.

    A socket's timeout is for all that one call sends: in one piece a large body would not get over a slow line.
    """

    def __init__(self, stream: BinaryIO, start: int, size: int):
        self._stream, self._start, self._size = stream, start, size

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[bytes]:
        self._stream.seek(self._start)
        left = self._size
        while left:
            piece = self._stream.read(min(PIECE, left))
            if not piece:
                raise ChecksumRefusedError("the file became shorter while it was sent")
            left -= len(piece)
            yield piece


class PiecewiseStream:
    """A stream of `size` bytes, of which the upload only seems to read: it gets `Pieces` to send."""

    def __init__(self, stream: BinaryIO, size: int):
        self._stream, self._size = stream, size
        self._position = 0

    def tell(self) -> int:
        """Return the position in bytes."""
        return self._position

    def seek(self, position: int) -> None:
        """Go to a position in bytes."""
        self._position = position

    def read(self, size: int) -> Pieces:
        """Return the next bytes, at most `size`."""
        start = self._position
        self._position = min(start + size, self._size)
        return Pieces(self._stream, start, self._position - start)


class _SendingPieces:
    """A session that sends bodies in pieces."""

    def __init__(self, session: requests.Session):
        self._session = session

    def request(self, method: str, url: str, *, data: bytes, **options: Any) -> requests.Response:
        return self._session.request(method, url, data=Pieces(BytesIO(data), 0, len(data)), **options)


@dataclass
class WholeUpload:
    """Sends `stream` in one request each time it is called; returns the object's description."""

    session: requests.Session
    url: str
    metadata: dict[str, str]
    stream: BinaryIO

    def __call__(self) -> dict[str, Any]:
        self.stream.seek(0)
        upload = _once(MultipartUpload(self.url))
        try:
            session = _SendingPieces(self.session)
            answer = upload.transmit(session, self.stream.read(), self.metadata, CONTENT_TYPE, timeout=TIMEOUT)
        except InvalidResponse as error:
            raise _refusal(error) from error
        return _json(answer)


@dataclass
class ChunkedUpload:
    """Sends `stream` (of `size` bytes) through a resumable session, going on where the last call stopped.

    `chunk` is a multiple of 256 KiB; a piece of it is in memory. `renewed` is called whenever a session had to be
    given up.
    """

    session: requests.Session
    url: str
    metadata: dict[str, str]
    stream: PiecewiseStream
    size: int
    chunk: int
    renewed: Callable[[], None]
    _upload: ResumableUpload | None = field(default=None, init=False)

    def __call__(self) -> dict[str, Any]:
        try:
            answer = self._open() or self._send()
            self._upload = None  # ended: whoever calls again found the object wrong
            return answer
        except InvalidResponse as error:
            status = error.response.status_code
            if status == 308:
                raise TryAgainError("chunk not kept") from error
            gone = status in _SESSION_GONE and self._upload is not None
            if gone or status == 400:
                self._give_up()
            if gone:
                raise TryAgainError(f"upload session gone ({status})") from error
            raise _refusal(error) from error
        except ValueError as error:  # the stream and the session out of step
            self._give_up()
            raise TryAgainError(str(error)) from error

    def _give_up(self) -> None:
        self._upload = None
        self.renewed()

    def _open(self) -> dict[str, Any] | None:
        """Start a session, or ask a started one how far it got; return the object if it was complete."""
        if self._upload is None:
            self.stream.seek(0)
            upload = _once(ResumableUpload(self.url, self.chunk))
            upload.initiate(
                self.session, self.stream, self.metadata, CONTENT_TYPE, total_bytes=self.size, timeout=TIMEOUT
            )
            self._upload = upload
            return None
        try:
            self._upload.recover(self.session)
        except InvalidResponse as error:
            if error.response.status_code in (200, 201):
                return _json(error.response)
            raise
        return None

    def _send(self) -> dict[str, Any]:
        assert self._upload is not None
        while True:
            # the service may keep less of a chunk than it was sent
            if self.stream.tell() != self._upload.bytes_uploaded:
                self.stream.seek(self._upload.bytes_uploaded)
            answer = self._upload.transmit_next_chunk(self.session, timeout=TIMEOUT)
            if self._upload.finished:
                return _json(answer)


def _once(upload: Any) -> Any:
    """Let an upload make each request once."""
    upload._retry_strategy = RetryStrategy(max_retries=0)
    return upload


def _json(answer: requests.Response) -> dict[str, Any]:
    try:
        content = answer.json()
    except ValueError as error:
        raise TryAgainError("an answer that is no JSON") from error
    if not isinstance(content, dict) or not {"size", "crc32c", "generation"} <= set(content):
        raise TryAgainError("an answer that describes no object")
    return content


def _refusal(error: InvalidResponse) -> Exception:
    """Return the error for an upload that the service refused."""
    text = error.response.text.lower()
    if error.response.status_code == 400 and any(word in text for word in ("crc32c", "checksum", "hash")):
        return ChecksumRefusedError("the service found another checksum than was stated")
    return error
