"""Waiting for something in a test: long on purpose, since only a failure waits so long."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from typing import Any

LONG_SECONDS = 270.0  # pytest's own limit, 300 s, names no condition


def wait_until(
    condition: Callable[[], object], process: subprocess.Popen[Any] | None = None, seconds: float = LONG_SECONDS
) -> None:
    """Return once `condition` holds; fail after `seconds`, or when `process` has ended without it."""
    end = time.monotonic() + seconds
    while not condition():
        if process is not None and process.poll() is not None:
            # what it did last may have fulfilled the condition
            assert condition(), process.stdout.read() if process.stdout else f"ended with {process.returncode}"
            return
        assert time.monotonic() < end, f"waited {seconds:.0f} s in vain"
        time.sleep(0.05)
