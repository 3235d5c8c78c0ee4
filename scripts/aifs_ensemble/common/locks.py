"""Locks that go with their process, on file systems that know such locks and on those that do not.

Lustre without its mount option, and some FUSE file systems, refuse every flock. There a file that is made exclusively
and names its process stands for the lock; it is taken over when that process is gone from this machine.
"""

from __future__ import annotations

import errno
import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EINVAL)


class HeldError(Exception):
    """Somebody else holds a lock; the text says who, as far as known."""


def flock(file: IO[Any], operation: int) -> bool:
    """Lock a file, or return False where its file system has no locks; BlockingIOError as `fcntl.flock`."""
    try:
        fcntl.flock(file, operation)
    except BlockingIOError:
        raise
    except OSError as error:
        if error.errno in NO_LOCKS:
            return False
        raise
    return True


@contextmanager
def held(path: Path, seconds: float) -> Iterator[IO[str]]:
    """Hold the lock of a file, which is made where there is none; HeldError when it is not free within `seconds`."""
    with open(path, "a+") as file:
        deadline = time.monotonic() + seconds
        while True:
            try:
                native = flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    file.seek(0)
                    raise HeldError(file.read().strip()) from None
                time.sleep(0.1)
        if native:
            yield file
            return
        with _marker(path, seconds):
            yield file


def marker_of(path: Path) -> Path:
    """Return the file that stands for the lock of another where there are no locks."""
    return path.with_name(f"{path.name}.held")


@contextmanager
def _marker(path: Path, seconds: float) -> Iterator[None]:
    from filelock import SoftFileLock, Timeout

    lock = SoftFileLock(marker_of(path))
    try:
        lock.acquire(timeout=seconds)
    except Timeout:
        raise HeldError(f"process {lock.pid}" if lock.pid else "") from None
    try:
        yield
    finally:
        lock.release()
