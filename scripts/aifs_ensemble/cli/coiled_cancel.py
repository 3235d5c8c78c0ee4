"""Stop the machines of Coiled jobs: those named, or every one this folder knows no end of."""

from __future__ import annotations

import argparse
import sys

from aifs_ensemble.cli._checkout import check_here
from aifs_ensemble.common.errors import CloudError

HELP = "stop jobs on Coiled"
GROUP = "machines"
EXAMPLE = "aifs-ensemble coiled-cancel"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the jobs' ids."""
    parser.add_argument(
        "jobs",
        nargs="*",
        help="ids in the terminal of a run, for which a run that goes on may rent again; none: all that are running or "
        "whose end is not known, and runs under way rent no more",
    )


def run(args: argparse.Namespace) -> int:
    """Stop them; CloudError naming those that could not be."""
    from snakemake_executor_plugin_coiled.records import Journal
    from snakemake_executor_plugin_coiled.stop import stop_jobs

    check_here("what this workflow rented")  # elsewhere there is nothing to stop, which would sound like good news
    told, problems = stop_jobs(args.jobs, Journal())
    for line in told:
        print(line, file=sys.stderr)
    if problems:
        raise CloudError("; ".join(problems))
    return 0
