"""One file over HTTP: resumed, watched for stalls, bounded in attempts and time."""

from __future__ import annotations

import logging
import re
import shutil
import time
from pathlib import Path

import requests
import urllib3

from aifs_ensemble.common.errors import DiskFullError, InputError
from aifs_ensemble.common.files import read_json, write_json
from aifs_ensemble.common.http import Deadline, Policy, TransferError, as_transfer_error, persist
from aifs_ensemble.model.checkpoint.remote import Remote

LOG = logging.getLogger(__name__)

_PIECE = 1 << 18
_LOG_EVERY = 15.0
_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+)")


class Download:
    """Brings a file to `part`, from where an earlier attempt or process left off.

    Beside it a small file tells which content the bytes there belong to; bytes of another content are dropped.

    Attributes
    ----------
    resumed : whether bytes of an earlier process were used
    """

    def __init__(self, remote: Remote, part: Path, policy: Policy, deadline: Deadline):
        self.remote, self.part, self.policy, self.deadline = remote, part, policy, deadline
        self.size = remote.size
        self._label = part.with_suffix(".json")
        self._version = remote.version
        self._session = requests.Session()
        self.resumed = self._take_over()

    @property
    def received(self) -> int:
        """Bytes on disk."""
        return self.part.stat().st_size if self.part.exists() else 0

    def run(self) -> None:
        """Download the rest. Raises TransferError, or DiskFullError before the first byte when there is no room."""
        with self._session:
            persist(self._attempt, self.policy, self.deadline, name=self.remote.name, progress=lambda: self.received)

    def discard(self) -> None:
        """Remove what was received."""
        self.part.unlink(missing_ok=True)
        self._label.unlink(missing_ok=True)

    def _take_over(self) -> bool:
        try:
            label = read_json(self._label)
        except InputError:
            label = {}
        mine = isinstance(label, dict) and label.get("name") == self.remote.name and label.get("version")
        if not mine or (self._version and label["version"] != self._version):
            self.discard()
            return False
        self._version = label["version"]
        return self.received > 0

    def _attempt(self) -> None:
        start = self.received
        if self.size is not None and start >= self.size:
            if start > self.size:
                self.discard()
                raise TransferError(f"{start} bytes on disk, expected {self.size}", again=True)
            return
        headers = {**self.remote.headers, "Accept-Encoding": "identity"}
        if start:
            headers["Range"] = f"bytes={start}-"
            if self.remote.version is None and self._version:
                headers["If-Range"] = self._version
        limit = min(self.policy.stall_seconds, self.deadline.remaining)
        try:
            with self._session.get(self.remote.url, headers=headers, stream=True, timeout=limit) as response:
                if response.status_code == requests.codes.requested_range_not_satisfiable:
                    self.discard()
                    raise TransferError("no bytes beyond those on disk: starting over", again=True)
                response.raise_for_status()
                self._receive(response, self._begin(response, start))
        except requests.RequestException as error:
            raise as_transfer_error(error) from None

    def _begin(self, response: requests.Response, start: int) -> int:
        """Return where the answer starts, after checking that it continues what is on disk."""
        total: int | None
        matched = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if response.status_code == requests.codes.partial_content:
            if not matched or int(matched[1]) != start:
                raise TransferError(
                    f"sends {response.headers.get('Content-Range')} when asked from {start}", again=True
                )
            total = int(matched[2])
        else:
            start, length = 0, response.headers.get("Content-Length", "")
            total = int(length) if length.isdigit() else None
        if self.size is not None and total is not None and total != self.size:
            self.discard()
            raise TransferError(f"{total} bytes offered, expected {self.size}", again=True)
        self.size = self.size if total is None else total
        self._remember(response)
        if self.size is not None:
            self._check_room(self.size - start)
        return start

    def _remember(self, response: requests.Response) -> None:
        """Keep which content the bytes belong to; without a strong validator they are of no use to a later process."""
        validator = response.headers.get("ETag", "")
        if self.remote.version is None:
            self._version = validator if validator and not validator.startswith("W/") else None
        write_json(self._label, {"name": self.remote.name, "version": self._version})

    def _check_room(self, needed: int) -> None:
        free = shutil.disk_usage(self.part.parent).free
        if free < needed:
            raise DiskFullError(f"{self.part.parent}: {free} bytes free, the checkpoint needs {needed} more")

    def _receive(self, response: requests.Response, start: int) -> None:
        watch = _Watch(self.policy, self.deadline, self.remote.name, start, self.size)
        # Opened for appending, so that what is on disk stays until an answer starts over.
        with open(self.part, "ab") as file:
            file.truncate(start)
            try:
                # read1 returns what has come, so that a trickle is seen as one.
                while piece := response.raw.read1(_PIECE):
                    file.write(piece)
                    watch.add(len(piece))
            except urllib3.exceptions.ReadTimeoutError:
                raise TransferError(f"no byte in {self.policy.stall_seconds:g} s", again=True) from None
            except (urllib3.exceptions.HTTPError, ConnectionError) as error:
                raise TransferError(f"broke off at byte {file.tell()} ({type(error).__name__})", again=True) from None
        if self.size is not None and self.received < self.size:
            raise TransferError(f"broke off at byte {self.received} of {self.size}", again=True)


class _Watch:
    """Sees that bytes keep coming, within the deadline, and says how far they are."""

    def __init__(self, policy: Policy, deadline: Deadline, name: str, received: int, size: int | None):
        self._policy, self._deadline, self._name = policy, deadline, name
        self._received, self._size = received, size
        self._window = (time.monotonic(), received)
        self._logged = (time.monotonic(), received)

    def add(self, count: int) -> None:
        """Count bytes; TransferError when they come too slowly, DeadlinePassedError when time is over."""
        self._received += count
        now = time.monotonic()
        since, before = self._window
        if now - since >= self._policy.stall_seconds:
            rate = (self._received - before) / (now - since)
            if rate < self._policy.slowest:
                raise TransferError(f"{rate:.0f} bytes a second is a stall", again=True)
            self._window = (now, self._received)
        since, before = self._logged
        if now - since >= _LOG_EVERY:
            share = f" of {self._size / 1e6:.0f}" if self._size else ""
            speed = (self._received - before) / (now - since) / 1e6
            LOG.info("%s: %.0f%s MB, %.1f MB/s", self._name, self._received / 1e6, share, speed)
            self._logged = (now, self._received)
        _ = self._deadline.remaining
