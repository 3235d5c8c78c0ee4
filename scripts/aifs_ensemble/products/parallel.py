"""How many reads run side by side."""

from __future__ import annotations

import os

from aifs_ensemble.common.config import Config

_REQUESTS = 32  # under way at once to a bucket: each waits far longer than it decodes


def readers(config: Config) -> int:
    """Return the threads that read: as many as processors from a folder, `_REQUESTS` from a bucket."""
    return _REQUESTS if config.cloud_destination else len(os.sched_getaffinity(0))
