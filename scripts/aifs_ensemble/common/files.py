"""Files that appear whole or not at all, and their checksums."""

from __future__ import annotations

import base64
import errno
import filecmp
import hashlib
import json
import logging
import os
import shutil
import tempfile
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import google_crc32c

from aifs_ensemble.common.errors import DiskFullError, InputError
from aifs_ensemble.common.text import foreign

LOG = logging.getLogger(__name__)
_CHUNK = 8 << 20
# Where a file system has no hard links, or not for these two: FUSE and network file systems answer in many ways.
NO_LINKS = (errno.EXDEV, errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.ENOSYS, errno.EINVAL, errno.EACCES)


def encode_crc32c(value: int) -> str:
    """Return a CRC32C as Google Cloud Storage writes it: base64 of the big-endian four bytes."""
    return base64.b64encode(value.to_bytes(4, "big")).decode()


def crc32c_bytes(data: bytes) -> str:
    """Return the base64 CRC32C of `data`."""
    return encode_crc32c(google_crc32c.value(data))


def crc32c_file(path: Path) -> str:
    """Return the base64 CRC32C of a file's content."""
    value = 0
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            value = google_crc32c.extend(value, chunk)
    return encode_crc32c(value)


def temporary(path: Path) -> Path:
    """Return the temporary name under which this thread makes `path`, hidden and in the same folder."""
    return path.with_name(f".{path.name}.{threading.get_native_id()}.{os.getpid()}.part")


@contextmanager
def atomic_writer(path: Path, *, keep_equal: bool = False, durable: bool = False) -> Iterator[BinaryIO]:
    """Write a file that gets its final name only once it is whole.

    With `keep_equal` a file that has the same bytes already stays, and so does its time. A `durable` one is on the disk
    before it gets its name, so that a power cut leaves the file whole or none. Raises DiskFullError naming
    the file when there is no room; whatever was half-written is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = temporary(path)
    try:
        with open(part, "wb") as file:
            yield file
        if keep_equal and path.is_file() and filecmp.cmp(part, path, shallow=False):
            part.unlink()
        elif durable:
            replace_durably(part, path)
        else:
            part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFullError(f"{path}: no space left on device") from error
        raise
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def replace_durably(part: Path, path: Path) -> None:
    """Give a file its final name once its content is on the disk, and the name, too, where the folder can be synced."""
    for place, flags in ((part, os.O_RDONLY), (path.parent, os.O_RDONLY | os.O_DIRECTORY)):
        if place != part:
            part.replace(path)
        descriptor = os.open(place, flags)
        try:
            os.fsync(descriptor)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS):  # a file system that knows no such thing
                raise
        finally:
            os.close(descriptor)


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path` atomically."""
    with atomic_writer(path) as file:
        file.write(data)


def write_json(path: Path, content: Any) -> None:
    """Write `content` as JSON atomically, keys in the order given."""
    write_bytes(path, json_bytes(content))


def json_bytes(content: Any) -> bytes:
    """Return `content` as the JSON text used in every file of the workflow."""
    return (json.dumps(content, indent=1) + "\n").encode()


def read_json(path: Path) -> Any:
    """Return the JSON content of `path`; InputError naming the file when it is absent or not JSON."""
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not valid JSON ({foreign(error)})") from None


def folder_problem(folder: Path, *, write: bool = True) -> str | None:
    """Return why files cannot be written below a folder that is there or would be made, or None when they can.

    To `write`, a small hidden file is written and removed in the nearest folder that is there: rights alone do not
    tell of a file system that is mounted to be read.
    """
    place = folder.absolute()
    while not os.path.lexists(place):
        place = place.parent
    if not place.is_dir():
        return f"{place} is not a folder"
    if not write:
        return None
    try:
        with tempfile.NamedTemporaryFile(dir=place, prefix=".aifs-ensemble-") as file:
            file.write(b"x")
            file.flush()
    except OSError as error:
        return f"{place}: {error.strerror or error}"
    return None


def remove_leftovers(folder: Path) -> None:
    """Remove temporary files that a killed process left in `folder`."""
    for part in folder.glob(".*.part"):
        part.unlink(missing_ok=True)


def remove_leftovers_of(paths: Iterable[Path]) -> None:
    """Remove temporary files of `paths` that a killed process left beside them; nobody else may be making them now."""
    names: dict[Path, set[str]] = {}
    for path in paths:
        names.setdefault(path.parent, set()).add(path.name)
    for folder, own in names.items():
        for part in folder.glob(".*.part"):
            # .NAME.THREAD.PROCESS.part, as `temporary` spells it
            if part.name[1:].rsplit(".", 3)[0] in own:
                part.unlink(missing_ok=True)


def digest(content: Mapping[str, Any]) -> str:
    """Return the SHA-256 of JSON-compatible content, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def link(source: Path, target: Path) -> None:
    """Make `target` another name of `source`, or a copy where there can be none, replacing it atomically.

    Its time of change becomes now, as of any file that a rule has just made.
    """
    if not (target.exists() and target.samefile(source)):
        part = temporary(target)
        part.unlink(missing_ok=True)
        try:
            os.link(source, part)
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
            try:
                shutil.copyfile(source, part)
            except BaseException:
                part.unlink(missing_ok=True)
                raise
        part.replace(target)
    os.utime(target)
