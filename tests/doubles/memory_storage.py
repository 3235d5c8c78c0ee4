"""A bucket in memory: every object with generation and checksum, names as anybody likes them, no network.

What it does not do: faults, sessions, preconditions of compose. Tests of transfers use `gcs_fault_proxy`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from aifs_ensemble.common.errors import VerificationError
from aifs_ensemble.common.files import crc32c_bytes
from aifs_ensemble.common.names import sound_key
from aifs_ensemble.common.storage.base import MissingError, ObjectInfo, Storage, TransferSettings

UPDATED = datetime(2020, 1, 1, tzinfo=UTC)


class MemoryStorage(Storage):
    """Objects by key: content and generation."""

    def __init__(self, url: str = "gs://memory/x"):
        super().__init__(url, TransferSettings(threads=1))
        self.objects: dict[str, tuple[bytes, int]] = {}
        self._generation = itertools.count(1)

    def _info(self, key: str) -> ObjectInfo:
        data, generation = self.objects[key]
        return ObjectInfo(key, len(data), crc32c_bytes(data), generation, UPDATED)

    def _put(self, key: str, data: bytes) -> ObjectInfo:
        self.objects[key] = (data, next(self._generation))
        self._count(objects=1, bytes=len(data))
        return self._info(key)

    def stat(self, key: str) -> ObjectInfo | None:
        return self._info(key) if key in self.objects else None

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        return iter([self._info(key) for key in sorted(self.objects) if key.startswith(prefix) and sound_key(key)])

    def folders(self) -> Iterator[str]:
        return iter(sorted({key.split("/")[0] for key in self.objects if "/" in key and sound_key(key)}))

    def with_crc32c(self, info: ObjectInfo) -> ObjectInfo:
        return info

    def put_file(
        self, path: Path, key: str, *, crc32c: str | None = None, replacing: ObjectInfo | None = None
    ) -> ObjectInfo:
        if not path.exists():
            raise VerificationError(f"{path}: missing")
        data = path.read_bytes()
        if crc32c not in (None, crc32c_bytes(data)):
            raise VerificationError(f"{path}: crc32c {crc32c_bytes(data)}, expected {crc32c}")
        there = self.stat(key)
        if there and not self._same(there, len(data), crc32c_bytes(data)):
            if replacing is None or replacing.generation != there.generation:
                raise self._conflict(key, there, len(data), crc32c_bytes(data))
        elif there:
            return there
        return self._put(key, data)

    def put_bytes(
        self, data: bytes, key: str, *, overwrite: bool = False, replacing: ObjectInfo | None = None
    ) -> ObjectInfo:
        there = self._bytes_present(data, key)
        other = self.stat(key)
        if there is None and not overwrite and other and (not replacing or replacing.generation != other.generation):
            raise self._conflict(key, other, len(data), crc32c_bytes(data))
        return there or self._put(key, data)

    def get_bytes(self, key: str) -> bytes:
        if key not in self.objects:
            raise MissingError(f"{self.address(key)}: no such object")
        return self.objects[key][0]

    def get_range(self, key: str, start: int, length: int) -> bytes:
        return self.get_bytes(key)[start : start + length]

    def get_file(self, key: str, path: Path) -> None:
        data = self.get_bytes(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    def delete(self, key: str, *, generation: int | None = None) -> bool:
        there = self.stat(key)
        if there is None or generation not in (None, there.generation):
            return False
        del self.objects[key]
        return True

    def compose(
        self, sources: Sequence[str], key: str, *, crc32c: str, replacing: ObjectInfo | None = None
    ) -> ObjectInfo:
        data = b"".join(self.get_bytes(source) for source in sources)
        if crc32c_bytes(data) != crc32c:
            raise VerificationError(f"{self.address(key)}: composed with other content")
        return self._put(key, data)
