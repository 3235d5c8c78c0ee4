"""Print whether a Coiled job is running, success or failed (called by the profile)."""

from __future__ import annotations

import argparse
import logging

from aifs_ensemble.cli._quiet import stdout_for_snakemake
from aifs_ensemble.common.errors import StorageError

HELP = "state of a job on Coiled (used by the coiled-gpu profile)"
GROUP = "profiles"
EXAMPLE = "aifs-ensemble coiled-status 1234567"
LOG = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the job's id."""
    parser.add_argument("job", help="id printed by coiled-submit")


def run(args: argparse.Namespace) -> int:
    """Print the one word that Snakemake expects, and why on standard error."""
    with stdout_for_snakemake() as answer:
        print(_answer(args.job), file=answer)
    return 0


def _answer(job_id: str) -> str:
    """Return the job's state; what goes wrong here, such as a table being edited, is not the job's failure.

    A command that fails would end the whole run, and stop every machine.
    """
    from aifs_ensemble.workflow.coiled.jobs import unheard
    from aifs_ensemble.workflow.coiled.records import JobJournal

    try:
        return _state(job_id)
    except Exception as error:
        return unheard(job_id, error, JobJournal())


def _state(job_id: str) -> str:
    from aifs_ensemble.delivery.standing import undelivered
    from aifs_ensemble.planning.machines import load_machines
    from aifs_ensemble.workflow.coiled.job_script import RemoteJob
    from aifs_ensemble.workflow.coiled.jobs import check
    from aifs_ensemble.workflow.coiled.records import JobJournal
    from aifs_ensemble.workflow.context import current

    config, journal = current(), JobJournal()
    record = check(journal.read(job_id), config, load_machines(), journal)
    members = RemoteJob(record.script, record.targets).members
    if record.state == "success" and members:
        # An exit code is what a shell says; the manifest is what the forecast says.
        try:
            wrong = undelivered(config, members)
        except StorageError as error:
            LOG.warning("%s: %s, asked again later", job_id, error)
            return "running"
        if wrong:
            record.state, record.reason = "failed", "; ".join(wrong.values())
            journal.write(record)
    if record.state in ("failed", "cancelled"):
        LOG.error("%s (%s): %s", record.title, job_id, record.reason)
        return "failed"
    return record.state
