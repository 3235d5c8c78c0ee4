"""Open data whose cycles appear at times of their own, by a clock that the test sets; runs of snakemake by that clock.

The service serves a finished replica, and says 404 to each file before its time. The clock is a file: the service reads
it, and so does snakemake, whose waiting sets it on. Nothing sleeps.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

from doubles.opendata_server import Fault, OpenDataServer

_FORKS = multiprocessing.get_context("forkserver")
_FORMAT = "%Y%m%d_%H%M%S"
_RUN = re.compile(r"/(\d{10})0000-")


class ClockFile:
    """A time in a file, UTC."""

    def __init__(self, path: Path):
        self.path = path

    def now(self) -> datetime:
        return datetime.strptime(self.path.read_text(), _FORMAT).replace(tzinfo=UTC)

    def set(self, time: datetime) -> None:
        self.path.with_suffix(".new").write_text(time.strftime(_FORMAT))
        self.path.with_suffix(".new").replace(self.path)

    def sleep(self, seconds: float) -> None:
        self.set(self.now() + timedelta(seconds=seconds))


class LateService(OpenDataServer):
    """Serves `root`; files of a run appear `hours` after it, or as `late` says for it; None for never."""

    def __init__(self, root: Path, clock: ClockFile, hours: float, late: dict[str, float | None], faults: list[Fault]):
        self.clock, self.hours, self.late = clock, hours, late
        super().__init__(root, faults)

    def fault_for(self, path: str) -> Fault:
        match = _RUN.search(path)
        if match:
            hours = self.late.get(match[1], self.hours)
            run = datetime.strptime(match[1], "%Y%m%d%H").replace(tzinfo=UTC)
            if hours is None or self.clock.now() < run + timedelta(hours=hours):
                return Fault(status=404)
        return super().fault_for(path)


def snakemake(folder: Path, clock: ClockFile, *arguments: str) -> tuple[int, str]:
    """Return the exit code of ``snakemake ARGUMENTS`` in a folder, by a clock, and what it said."""
    _FORKS.set_forkserver_preload(["snakemake.cli", "aifs_ensemble.workflow.snakefile"])
    process = _FORKS.Process(target=_snakemake, args=(folder, clock.path, arguments))
    process.start()
    process.join(250)
    return process.exitcode or 0, (folder / "said.txt").read_text()


def _snakemake(folder: Path, time: Path, arguments: tuple[str, ...]) -> None:
    os.chdir(folder)
    with open("said.txt", "wb") as file:
        for descriptor in (1, 2):
            os.dup2(file.fileno(), descriptor)
    import atexit

    from aifs_ensemble.common import clock
    from snakemake.cli import main

    given = ClockFile(time)
    clock.now, clock.sleep = given.now, given.sleep
    sys.argv = ["snakemake", *arguments]
    try:
        main()
    finally:
        atexit._run_exitfuncs()  # a fork of multiprocessing runs none
