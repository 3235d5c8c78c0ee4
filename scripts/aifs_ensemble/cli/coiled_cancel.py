"""Stop the machines of Coiled jobs: those named, or every one this folder knows no end of."""

from __future__ import annotations

import argparse
import sys

from aifs_ensemble.cli._checkout import check_here
from aifs_ensemble.cli._common import add_config_arguments, config_of_run
from aifs_ensemble.common.errors import CloudError

HELP = "stop jobs on Coiled"
GROUP = "machines"
EXAMPLE = "aifs-ensemble coiled-cancel"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the configuration and the jobs' ids."""
    add_config_arguments(parser)
    parser.add_argument(
        "jobs",
        nargs="*",
        help="ids printed by coiled-submit, for which a run that goes on may rent again; none: all that are running or "
        "whose end is not known, and runs under way rent no more",
    )


def run(args: argparse.Namespace) -> int:
    """Stop them; CloudError naming those that could not be."""
    from aifs_ensemble.workflow import coordinator
    from aifs_ensemble.workflow.coiled.jobs import cancel
    from aifs_ensemble.workflow.coiled.records import JobJournal

    check_here("what this workflow rented")  # elsewhere there is nothing to stop, which would sound like good news
    journal = JobJournal()
    # before looking for machines: what is asked for afterwards is refused
    for name in [] if args.jobs else journal.stop_renting():
        print(
            f"the run of {coordinator.describe(name)} rents no more machines; start it again to go on", file=sys.stderr
        )
    jobs = args.jobs or [record.id for record in journal.unfinished()]
    problems = cancel(jobs, config_of_run(args, "coiled-gpu"), journal) if jobs else []
    if problems:
        raise CloudError("; ".join(problems))
    print(f"{len(jobs)} jobs stopped", file=sys.stderr)
    return 0
