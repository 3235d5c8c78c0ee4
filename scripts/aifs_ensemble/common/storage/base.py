"""The destination's interface: objects named by keys, written whole or not at all, never overwritten unasked."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from aifs_ensemble.common.errors import StorageError
from aifs_ensemble.common.files import crc32c_bytes


class ConflictError(StorageError):
    """An object of that name exists with other content, and was not overwritten."""


class MissingError(StorageError):
    """There is no object of that name (or no such bucket)."""


@dataclass(frozen=True)
class ObjectInfo:
    """An object as the destination describes it.

    `crc32c` is None where a listing does not know it (folders); `Storage.with_crc32c` fills it in.
    `generation` changes whenever the content of a key is replaced.
    """

    key: str
    size: int
    crc32c: str | None
    generation: int
    updated: datetime | None = None


@dataclass(frozen=True)
class TransferSettings:
    """How transfers run: the keys of ``delivery`` in the configuration, in bytes and seconds.

    `chunk`, a multiple of 256 KiB, is what one request of a resumable upload carries; `backoff` is the first
    wait after a failure, doubled up to `backoff_most` and drawn at random below that.
    """

    threads: int = 8
    resumable_above: int = 8 << 20
    chunk: int = 256 << 20
    deadline: float = 900.0
    backoff: float = 0.5
    backoff_most: float = 32.0


@dataclass
class TransferCounts:
    """What a storage has done: objects and bytes sent, requests repeated, conflicts settled by checksum."""

    objects: int = 0
    bytes: int = 0
    retries: int = 0
    sessions_renewed: int = 0
    settled: int = 0


class Storage(ABC):
    """A folder or a bucket (with a prefix) that holds objects under ``/``-separated keys.

    Every method may be called from several threads. Raises StorageError, one line naming the object,
    when the destination cannot be reached within the deadline or refuses.
    """

    def __init__(self, url: str, settings: TransferSettings):
        self.url = url.rstrip("/")
        self.settings = settings
        self._counts = TransferCounts()
        self._lock = threading.Lock()
        self._given_up = threading.Event()

    def address(self, key: str) -> str:
        """Return the full name of an object, for messages."""
        return f"{self.url}/{key}"

    @property
    def counts(self) -> TransferCounts:
        """A copy of the counters since the storage was opened."""
        with self._lock:
            return replace(self._counts)

    def _count(self, **more: int) -> None:
        with self._lock:
            for name, value in more.items():
                setattr(self._counts, name, getattr(self._counts, name) + value)

    @abstractmethod
    def stat(self, key: str) -> ObjectInfo | None:
        """Return an object's description with its checksum, or None when there is none."""

    @abstractmethod
    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Yield the objects whose keys start with `prefix`, in order of key.

        An object whose name cannot be one of ours (`names.sound_key`) is nobody's business here, and not among them.
        """

    @abstractmethod
    def folders(self) -> Iterator[str]:
        """Yield the first parts of all keys that have several, in order: the cycles, and what is beside them."""

    @abstractmethod
    def with_crc32c(self, info: ObjectInfo) -> ObjectInfo:
        """Return `info` with its checksum, reading the content only where there is no other way."""

    @abstractmethod
    def put_file(
        self, path: Path, key: str, *, crc32c: str | None = None, replacing: ObjectInfo | None = None
    ) -> ObjectInfo:
        """Store a file under `key`, whole, checked against its base64 `crc32c` (computed when None).

        An object with the same content counts as stored. One with other content raises ConflictError, unless
        it is exactly the one given as `replacing`. Raises VerificationError when the file itself does
        not have the checksum given.
        """

    @abstractmethod
    def put_bytes(
        self, data: bytes, key: str, *, overwrite: bool = False, replacing: ObjectInfo | None = None
    ) -> ObjectInfo:
        """Store `data` under `key`; ConflictError when other content is there and `overwrite` is false.

        With `replacing`, what is there must be exactly that object, else ConflictError.
        """

    @abstractmethod
    def get_bytes(self, key: str) -> bytes:
        """Return an object's content, checked; MissingError when there is none."""

    @abstractmethod
    def get_range(self, key: str, start: int, length: int) -> bytes:
        """Return a piece of an object's content, which no checksum covers; MissingError when it is not there."""

    @abstractmethod
    def get_file(self, key: str, path: Path) -> None:
        """Fetch an object to `path`, checked and atomically; MissingError when there is none."""

    @abstractmethod
    def delete(self, key: str, *, generation: int | None = None) -> bool:
        """Remove an object (of that generation only, when given); False when it was not there."""

    @abstractmethod
    def compose(
        self, sources: Sequence[str], key: str, *, crc32c: str, replacing: ObjectInfo | None = None
    ) -> ObjectInfo:
        """Concatenate objects into a new one at the destination, without sending them again.

        `crc32c` is the checksum expected of the whole. Otherwise as `put_file`.
        """

    def give_up(self) -> None:
        """Repeat nothing from now on: calls under way end with their next failure."""
        self._given_up.set()

    def tidy(self, prefix: str) -> None:  # noqa: B027 (nothing to do is a fair answer)
        """Remove what killed transfers left half-written under `prefix`, where the destination shows such things."""

    def _same(self, info: ObjectInfo | None, size: int, crc32c: str) -> ObjectInfo | None:
        """Return `info` when it has this content."""
        if info is None or info.size != size:
            return None
        info = self.with_crc32c(info)
        return info if info.crc32c == crc32c else None

    def _bytes_present(self, data: bytes, key: str) -> ObjectInfo | None:
        """Return the object under `key` when its content is `data` already."""
        return self._same(self.stat(key), len(data), crc32c_bytes(data))

    def _conflict(self, key: str, there: ObjectInfo, size: int, crc32c: str) -> ConflictError:
        return ConflictError(
            f"{self.address(key)}: exists with other content ({there.size} bytes, crc32c {there.crc32c}), "
            f"expected {size} bytes, crc32c {crc32c}"
        )


def info_json(info: ObjectInfo) -> dict[str, Any]:
    """Return the parts of a description that manifests and receipts keep."""
    content = asdict(info)
    content.pop("updated")
    return content
