"""The name of the process that machines are rented for.

Commands that it starts inherit the name, and it may stand as a label of Google Cloud: a process id alone comes again.
"""

from __future__ import annotations

import os
import platform
import re
import time
import uuid

from aifs_ensemble.common import environment


def new_name() -> str:
    """Return a name for this process as a coordinator."""
    host = re.sub(r"[^a-z0-9_-]", "-", platform.node().lower())[:30]
    return f"{host}-{os.getpid()}-{time.time():.0f}-{uuid.uuid4().hex[:8]}"


def name_this_process() -> str:
    """Return the coordinator's name, given to this process now unless one that started it has one."""
    return os.environ.setdefault(environment.COORDINATOR, new_name())


def current() -> str:
    """Return the coordinator that this process belongs to; empty where a person runs a command."""
    return os.environ.get(environment.COORDINATOR, "")
