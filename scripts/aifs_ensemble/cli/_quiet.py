"""Standard output for the one line that Snakemake reads, standard error for everything else."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO


@contextmanager
def stdout_for_snakemake() -> Iterator[TextIO]:
    """Yield the real standard output; what anything else prints meanwhile goes to standard error.

    Ctrl-C, SIGTERM and SIGHUP are ignored meanwhile. Clients print panels and progress; Snakemake takes the first line
    for the job's id or state.
    """
    # What ends the coordinator's whole group reaches these commands too; half a submission is a machine that nobody
    # knows of.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        with os.fdopen(os.dup(kept), "w") as answer:
            yield answer
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)
