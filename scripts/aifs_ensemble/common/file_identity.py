"""Which state of which file something was read from, so that a digest computed once need not be computed again.

Size and time of change, which every copy and every `touch` can bring about, do not tell that content is the same. The
number of the file on its disk, the time at which the kernel last saw it changed, which no program sets, and the start
of this machine do, as long as it runs: what a power cut or a repaired disk made of the file is read anew.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@cache
def boot_id() -> str:
    """Return what tells this start of the machine from others; empty where the kernel does not say."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return ""


def file_identity(path: Path) -> str:
    """Return the identity of a file as it is now; empty where nothing tells, which vouches for no digest.

    Raises OSError when there is no such file.
    """
    status = path.stat()
    if not boot_id():
        return ""
    parts = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    return " ".join([boot_id(), *map(str, parts)])
