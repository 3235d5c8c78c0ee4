"""A folder as the destination: local disk or a mounted file system."""

from __future__ import annotations

import errno
import fcntl
import glob
import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import google_crc32c

from aifs_ensemble.common.errors import DiskFullError, StorageError, VerificationError
from aifs_ensemble.common.files import NO_LINKS, atomic_writer, crc32c_bytes, crc32c_file, encode_crc32c
from aifs_ensemble.common.locks import flock
from aifs_ensemble.common.names import sound_key
from aifs_ensemble.common.storage.base import MissingError, ObjectInfo, Storage, TransferSettings

_CHUNK = 8 << 20


class FolderStorage(Storage):
    """Objects are files; a key's generation is its modification time in nanoseconds."""

    def __init__(self, url: str, settings: TransferSettings):
        super().__init__(url, settings)
        self.root = Path(url)

    def path(self, key: str) -> Path:
        """Return the file of a key."""
        return self.root / key

    def _info(self, path: Path, crc32c: str | None = None) -> ObjectInfo:
        status = path.stat()
        return ObjectInfo(
            key=path.relative_to(self.root).as_posix(),
            size=status.st_size,
            crc32c=crc32c,
            generation=status.st_mtime_ns,
            updated=datetime.fromtimestamp(status.st_mtime, UTC),
        )

    def stat(self, key: str) -> ObjectInfo | None:
        path = self.path(key)
        try:
            return self._info(path, crc32c_file(path))
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None
        except OSError as error:
            raise _unreadable(path, error) from error

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        folder, _, start = prefix.rpartition("/")
        found = sorted(_files_below(self.path(folder), start), key=lambda path: path.relative_to(self.root).as_posix())
        for path in found:
            if not sound_key(path.relative_to(self.root).as_posix()):
                continue
            try:
                yield self._info(path)
            except FileNotFoundError:  # removed meanwhile
                continue

    def folders(self) -> Iterator[str]:
        try:
            names = sorted(entry.name for entry in self.root.iterdir() if entry.is_dir() and sound_key(entry.name))
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            raise _unreadable(self.root, error) from error
        yield from names

    def with_crc32c(self, info: ObjectInfo) -> ObjectInfo:
        if info.crc32c is not None:
            return info
        path = self.path(info.key)
        try:
            return self._info(path, crc32c_file(path))
        except OSError as error:
            raise _unreadable(path, error) from error

    def put_file(
        self, path: Path, key: str, *, crc32c: str | None = None, replacing: ObjectInfo | None = None
    ) -> ObjectInfo:
        try:
            size = path.stat().st_size
            return self._write(_read_all([path]), key, size=size, crc32c=crc32c, source=str(path), replacing=replacing)
        except FileNotFoundError:
            raise VerificationError(f"{path}: missing") from None

    def put_bytes(
        self, data: bytes, key: str, *, overwrite: bool = False, replacing: ObjectInfo | None = None
    ) -> ObjectInfo:
        there = self._bytes_present(data, key)
        if there is not None:
            return there
        replacing = self.stat(key) if overwrite else replacing
        return self._write([data], key, size=len(data), crc32c=crc32c_bytes(data), source=key, replacing=replacing)

    def get_bytes(self, key: str) -> bytes:
        try:
            return self.path(key).read_bytes()
        except OSError as error:
            raise _unreadable(self.path(key), error) from error

    def get_range(self, key: str, start: int, length: int) -> bytes:
        try:
            with open(self.path(key), "rb") as file:
                file.seek(start)
                return file.read(length)
        except OSError as error:
            raise _unreadable(self.path(key), error) from error

    def get_file(self, key: str, path: Path) -> None:
        try:
            with open(self.path(key), "rb") as source, atomic_writer(path) as file:
                while chunk := source.read(_CHUNK):
                    file.write(chunk)
        except (FileNotFoundError, NotADirectoryError, PermissionError) as error:
            raise _unreadable(self.path(key), error) from error

    def delete(self, key: str, *, generation: int | None = None) -> bool:
        path = self.path(key)
        try:
            if generation is not None and path.stat().st_mtime_ns != generation:
                return False
            path.unlink()
        except FileNotFoundError:
            return False
        except OSError as error:
            raise _unreadable(path, error) from error
        return True

    def compose(
        self, sources: Sequence[str], key: str, *, crc32c: str, replacing: ObjectInfo | None = None
    ) -> ObjectInfo:
        paths = [self.path(source) for source in sources]
        try:
            size = sum(path.stat().st_size for path in paths)
            return self._write(_read_all(paths), key, size=size, crc32c=crc32c, source=key, replacing=replacing)
        except FileNotFoundError as error:
            raise StorageError(f"{error.filename}: missing, wanted as a part of {key}") from None

    def tidy(self, prefix: str) -> None:
        folder, _, start = prefix.rpartition("/")
        for part in self.path(folder).glob(f".{glob.escape(start)}*.part"):
            with suppress(OSError), open(part, "rb") as file:
                if flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB):
                    part.unlink()

    def _write(
        self,
        chunks: Iterable[bytes],
        key: str,
        *,
        size: int,
        crc32c: str | None,
        source: str,
        replacing: ObjectInfo | None,
    ) -> ObjectInfo:
        """Write chunks beside their final name, read them back, and only then give them the name."""
        path = self.path(key)
        part = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.part")
        _make_folder(path.parent)
        value = 0
        try:
            with open(part, "wb") as file:
                with suppress(OSError):  # not every file system has locks
                    fcntl.flock(file, fcntl.LOCK_EX)  # says to `tidy` that somebody is at it
                for chunk in chunks:
                    value = google_crc32c.extend(value, chunk)
                    file.write(chunk)
                file.flush()
                os.fsync(file.fileno())
                sent = encode_crc32c(value)
                if crc32c is not None and sent != crc32c:
                    raise VerificationError(f"{source}: crc32c {sent}, expected {crc32c}")
                if crc32c_file(part) != sent:
                    raise StorageError(f"{path}: what was written reads back differently")
                return self._publish(part, key, size, sent, replacing)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise DiskFullError(f"{path}: no space left on device") from error
            if isinstance(error, FileNotFoundError) and error.filename != str(part):
                raise  # a source
            raise StorageError(f"{path}: {error.strerror}") from error
        finally:
            part.unlink(missing_ok=True)

    def _publish(self, part: Path, key: str, size: int, crc32c: str, replacing: ObjectInfo | None) -> ObjectInfo:
        """Give a written file its final name unless other content has it; a link never overwrites, a rename would."""
        path = self.path(key)
        if not _linked(part, path):
            with _alone(path):
                there = self.stat(key)
                same = self._same(there, size, crc32c)
                if same is not None:
                    self._count(settled=1)
                    return same
                if there is not None and (replacing is None or there.generation != replacing.generation):
                    raise self._conflict(key, there, size, crc32c)
                part.replace(path)
        self._count(objects=1, bytes=size)
        return self._info(path, crc32c)


def _linked(part: Path, path: Path) -> bool:
    """Give `part` the name `path` too; False where something has it, or on a file system without hard links."""
    try:
        os.link(part, path)
    except OSError as error:
        if error.errno not in (errno.EEXIST, *NO_LINKS):
            raise
        return False
    return True


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Have others that replace the same file wait, where the file system has locks: two look at it one by one."""
    with ExitStack() as stack:
        with suppress(OSError):  # gone meanwhile, or not to be opened
            fcntl.flock(stack.enter_context(open(path, "rb")), fcntl.LOCK_EX)
        yield


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"{folder}: {error.strerror}, expected a folder that can be made and written") from error


def _files_below(folder: Path, start: str) -> Iterator[Path]:
    """Yield the files in `folder` whose names start with `start`, and all below folders so named, hidden ones aside."""
    try:
        entries = list(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return
    for entry in entries:
        if entry.name.startswith(".") or not entry.name.startswith(start):
            continue
        if entry.is_dir():
            yield from _files_below(entry, "")
        else:
            yield entry


def _read_all(paths: Iterable[Path]) -> Iterator[bytes]:
    for path in paths:
        with open(path, "rb") as file:
            while chunk := file.read(_CHUNK):
                yield chunk


def _unreadable(path: Path, error: OSError) -> StorageError:
    if isinstance(error, (FileNotFoundError, NotADirectoryError)):
        return MissingError(f"{path}: no such object")
    return StorageError(f"{path}: {error.strerror}")
