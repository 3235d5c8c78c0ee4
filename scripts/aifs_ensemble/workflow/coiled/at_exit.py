"""What a coordinator that ends does about the machines it has rented."""

from __future__ import annotations

import atexit
from pathlib import Path

from aifs_ensemble.workflow import coordinator
from aifs_ensemble.workflow.coiled.records import FOLDER, JobJournal
from aifs_ensemble.workflow.context import end_with_the_terminal, start_detached


def stop_machines_at_exit() -> None:
    """Stop, when this coordinator ends, whatever still runs for it; one that is killed leaves its machines running.

    Snakemake's executor cancels the jobs that it is not asking about at that moment, and mostly it is asking.
    Processes that this one starts inherit its name and register nothing.
    """
    if coordinator.current():
        return
    atexit.register(_stop_machines, coordinator.name_this_process(), Path.cwd())
    end_with_the_terminal()


def _stop_machines(owner: str, folder: Path) -> None:
    journal = JobJournal(folder / FOLDER)
    jobs = [record.id for record in journal.unfinished() if record.owner == owner]
    if not jobs:
        return
    log = journal.folder / "cancel.log"
    start_detached(["coiled-cancel", *jobs], folder, log, f"stopping the machines of {len(jobs)} jobs")
