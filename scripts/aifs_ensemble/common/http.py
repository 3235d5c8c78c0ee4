"""HTTP transfers that always end: limits of attempts and time, no whole file in answer to a range.

`GuardedAdapter` is a transport adapter of requests, so that it serves the ecmwf-opendata client as it is.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

import requests
import urllib3
from requests.adapters import HTTPAdapter

LOG = logging.getLogger(__name__)
T = TypeVar("T")
CONNECTIONS = 8  # parallel range requests to one source
MAX_INDEX_BYTES = 64 << 20  # an index of 51 members has about 2 MB
_CHUNK = 1 << 16
RETRIABLE = {408, 425, 429, 500, 502, 503, 504}
ABSENT = {403, 404, 410}  # what the services answer for a file that is not there


class TransferError(Exception):
    """A transfer failed.

    Attributes
    ----------
    again : whether the same source may do better next time
    wait : seconds that the server asked to wait, 0 if it did not
    """

    def __init__(self, reason: str, *, again: bool, wait: float = 0.0):
        super().__init__(reason)
        self.again = again
        self.wait = wait


class UnreachedError(TransferError):
    """A host could not be reached: it refuses connections, has no address, or did not answer a connection in time."""


class AbsentError(TransferError):
    """A server answers that a file is not there."""


class ContentError(TransferError):
    """An answer came whole and is wrong: what the index says may be wrong too."""


class DeadlinePassedError(TransferError):
    """The time for all downloads of a member is over."""

    def __init__(self, seconds: float):
        super().__init__(f"deadline of {seconds:g} s passed", again=False)


@dataclass
class Deadline:
    """A total time limit, running since it was made or restarted."""

    seconds: float
    start: float = field(default_factory=time.monotonic)

    @property
    def remaining(self) -> float:
        """Seconds left. Raises DeadlinePassedError when there are none."""
        left = self.start + self.seconds - time.monotonic()
        if left <= 0:
            raise DeadlinePassedError(self.seconds)
        return left

    def restart(self) -> None:
        """Let the time run anew."""
        self.start = time.monotonic()


@dataclass(frozen=True)
class Policy:
    """When a download gives up.

    Attributes
    ----------
    deadline_seconds : for everything together, waiting for another process included
    stall_seconds : without a byte, or with fewer than `slowest` bytes a second, before connecting anew
    attempts : in a row that bring nothing new
    first_wait : seconds before the second attempt, doubled before each further one up to `longest_wait`
    patience : the longest wait that a server may ask for
    """

    deadline_seconds: float = 3600.0
    stall_seconds: float = 30.0
    slowest: float = 10_000.0
    attempts: int = 6
    first_wait: float = 1.0
    longest_wait: float = 60.0
    patience: float = float("inf")


def persist(
    what: Callable[[], T], policy: Policy, deadline: Deadline, *, name: str, progress: Callable[[], int] = lambda: 0
) -> T:
    """Return what a call returns, repeated while its TransferError says that another attempt may help.

    Attempts after which `progress` has grown do not count. Waits are drawn at random from the upper half, for many
    clients fail together. Raises the last TransferError, or DeadlinePassedError where no time is left to wait.
    """
    fruitless, reached = 0, progress()
    while True:
        try:
            _ = deadline.remaining
            return what()
        except TransferError as error:
            fruitless = 1 if progress() > reached else fruitless + 1
            reached = max(reached, progress())
            if not error.again or fruitless >= policy.attempts or error.wait > policy.patience:
                raise
            usual = min(policy.first_wait * 2 ** (fruitless - 1), policy.longest_wait)
            wait = max(error.wait, random.uniform(0.5, 1) * usual)
            if wait >= deadline.remaining:
                raise DeadlinePassedError(deadline.seconds) from error
            LOG.warning("%s: %s; again in %.1f s", name, error, wait)
            time.sleep(wait)


class GuardedAdapter(HTTPAdapter):
    """Sends a request and reads its whole answer under the limits, refusing answers that were not asked for.

    Parameters
    ----------
    stall_seconds : time without a new byte after which a transfer is given up
    deadline : total time limit
    """

    def __init__(self, stall_seconds: float, deadline: Deadline):
        super().__init__(pool_connections=2, pool_maxsize=CONNECTIONS, max_retries=0)
        self.stall_seconds = stall_seconds
        self.deadline = deadline

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
        """Return the answer, read in full. Raises TransferError or what requests raises."""
        limit = min(self.stall_seconds, self.deadline.remaining)
        kwargs |= {"stream": True, "timeout": (limit, limit)}
        response = super().send(request, *args, **kwargs)
        try:
            limit_bytes = _expected_length(request, response)
            response._content = self._read(response, limit_bytes)
        finally:
            response.close()
        response._content_consumed = True  # type: ignore[attr-defined]
        return response

    def _read(self, response: requests.Response, limit: int) -> bytes:
        body = bytearray()
        try:
            # read1 returns what has come: a trickle cannot outlive the deadline
            while chunk := response.raw.read1(_CHUNK, decode_content=True):
                body += chunk
                if len(body) > limit:
                    raise TransferError(f"more than the {limit} bytes asked for", again=False)
                _ = self.deadline.remaining
        except urllib3.exceptions.ReadTimeoutError:
            raise TransferError(f"no new byte in {self.stall_seconds:g} s", again=True) from None
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise TransferError(f"broke off after {len(body)} bytes ({type(error).__name__})", again=True) from None
        announced = response.headers.get("Content-Length", "")
        if announced.isdigit() and "Content-Encoding" not in response.headers and len(body) != int(announced):
            raise TransferError(f"broke off after {len(body)} of {announced} bytes", again=True)
        return bytes(body)


def _expected_length(request: requests.PreparedRequest, response: requests.Response) -> int:
    """Return the most bytes the answer may have; TransferError if it is not the range asked for."""
    asked = str(request.headers.get("Range") or "")
    if not asked or not response.ok or response.is_redirect:
        return MAX_INDEX_BYTES
    if response.status_code != 206:
        raise TransferError(f"answers {response.status_code} with the whole file to a request for a range", again=False)
    first, last = map(int, asked.removeprefix("bytes=").split("-"))
    given = response.headers.get("Content-Range", "")
    if not given.startswith(f"bytes {first}-{last}/"):
        raise TransferError(f"sends {given or 'no Content-Range'} when asked for {asked}", again=True)
    return last - first + 1


def _retry_after(response: requests.Response) -> float:
    """Return the seconds in a Retry-After header (a number or a date), 0 if there is none."""
    text = response.headers.get("Retry-After", "").strip()
    if text.isdigit():
        return float(text)
    try:
        return max(0.0, (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return 0.0


def as_transfer_error(error: Exception) -> TransferError:
    """Return what requests raised as a TransferError that says whether to try again."""
    if isinstance(error, TransferError):
        return error
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return _refused(error.response)
    if isinstance(error, requests.ConnectionError | requests.Timeout):
        kind = UnreachedError if _unreached(error) else TransferError
        late = isinstance(error, requests.Timeout)
        return kind("no answer in time" if late else f"no connection ({_innermost(error)})", again=True)
    return TransferError(f"{type(error).__name__}: {error}", again=False)


def _refused(response: requests.Response) -> TransferError:
    status = response.status_code
    if status == requests.codes.requested_range_not_satisfiable:
        return ContentError(f"HTTP {status}, the index names bytes beyond the end of the file", again=True)
    if status in ABSENT:
        return AbsentError(f"HTTP {status}", again=False)
    return TransferError(f"HTTP {status}", again=status in RETRIABLE, wait=_retry_after(response))


def _unreached(error: requests.RequestException) -> bool:
    """Tell whether no connection came about, rather than one that broke off."""
    cause = getattr(error.args[0], "reason", None) if error.args else None
    kinds = urllib3.exceptions
    return isinstance(cause, (kinds.NewConnectionError, kinds.ConnectTimeoutError, kinds.ProxyError))


def _innermost(error: BaseException) -> str:
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return " ".join(str(error).split()) or type(error).__name__
