"""A local cache of index files and of the byte ranges they name.

A range is keyed by the digest of the index that names it, its file and its place; its own digest is part
of its name, so that a damaged copy is seen when it is read and fetched again. Files appear whole or not
at all, and several members' jobs may share a folder.
"""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aifs_ensemble.common.files import write_bytes

LOG = logging.getLogger(__name__)


def sha256(data: bytes) -> str:
    """Return the SHA-256 of `data`, hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def damaged_index(data: bytes) -> str | None:
    """Return what is wrong with an index file, or None: JSON lines that each name a byte range."""
    lines = data.splitlines()
    if not lines:
        return "empty index"
    for number, line in enumerate(lines, 1):
        try:
            entry = json.loads(line)
            sound = entry["_offset"] >= 0 and entry["_length"] > 0
        except (ValueError, KeyError, TypeError, RecursionError):
            sound = False
        if not sound:
            return f"index is truncated or damaged at line {number}"
    return None


@dataclass(frozen=True)
class RangeKey:
    """The place of a range: file below the root of the service, digest of its index, offset and length in bytes."""

    file: str
    index: str
    offset: int
    length: int

    @property
    def digest(self) -> str:
        return sha256(f"{self.file}\n{self.index}\n{self.offset}\n{self.length}".encode())[:40]


@dataclass(frozen=True)
class RangeCache:
    """The cache below one folder."""

    root: Path

    def _index(self, url: str) -> Path:
        # the query carries access tokens, which change
        return self.root / "index" / f"{sha256(url.partition('?')[0].encode())[:40]}.index"

    def index(self, url: str) -> bytes | None:
        """Return the cached index of a URL, None if there is none or it is damaged."""
        try:
            data = self._index(url).read_bytes()
        except FileNotFoundError:
            return None
        return None if damaged_index(data) else data

    def keep_index(self, url: str, data: bytes) -> None:
        """Keep an index that `damaged_index` found sound."""
        write_bytes(self._index(url), data)

    def forget_index(self, url: str) -> None:
        """Forget an index that proved wrong or incomplete."""
        self._index(url).unlink(missing_ok=True)

    def _ranges(self, key: RangeKey) -> tuple[Path, list[Path]]:
        folder = self.root / "ranges" / key.digest[:2]
        return folder, sorted(folder.glob(f"{key.digest}.*.grib2"))

    def range(self, key: RangeKey) -> bytes | None:
        """Return a cached range, None if there is none. A damaged copy is removed."""
        for path in self._ranges(key)[1]:
            try:
                data = path.read_bytes()
            except FileNotFoundError:
                continue
            if sha256(data).startswith(path.name.split(".")[1]):
                return data
            LOG.warning("%s: content differs from its name, fetching it again", path)
            path.unlink(missing_ok=True)
        return None

    def keep_range(self, key: RangeKey, data: bytes) -> None:
        """Keep a range that was checked."""
        folder, _ = self._ranges(key)
        write_bytes(folder / f"{key.digest}.{sha256(data)[:32]}.grib2", data)

    def _record(self, name: str) -> Path:
        return self.root / "records" / f"{sha256(name.encode())[:40]}.json"

    def record(self, name: str) -> Any:
        """Return the small JSON record kept under a name, None if there is none."""
        try:
            return json.loads(self._record(name).read_bytes())
        except (FileNotFoundError, ValueError):
            return None

    def keep_record(self, name: str, content: Any) -> None:
        """Keep a small JSON record under a name."""
        write_bytes(self._record(name), json.dumps(content).encode())
