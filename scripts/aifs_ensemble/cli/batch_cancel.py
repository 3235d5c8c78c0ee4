"""Delete jobs of this workflow from Google Batch, such as a killed coordinator left running; their machines end."""

from __future__ import annotations

import argparse
import sys

from aifs_ensemble.cli._common import add_config_arguments, config_of_run
from aifs_ensemble.workflow.googlebatch.jobs import delete_jobs, live_jobs

HELP = "stop jobs on Google Batch"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add which cycle, and whether to look only."""
    add_config_arguments(parser)
    parser.add_argument("--cycle", help="YYYYMMDD_HHMM, or `all`; else the configuration's")
    parser.add_argument("--coordinator", help="only the jobs with this label, which a run gives to its own")
    parser.add_argument("--list", action="store_true", help="show the jobs and delete none")


def run(args: argparse.Namespace) -> int:
    """Show what is there, one line each, and delete it unless asked to look only."""
    config = config_of_run(args, "googlebatch")
    cycle = args.cycle or config.cycle
    jobs = live_jobs(config, None if cycle == "all" else cycle, args.coordinator)
    for job in jobs:
        labels, state = job.labels, job.status.state.name.lower()
        print(f"{labels.get('cycle')}  {labels.get('machine')}  {state}  {job.create_time:%Y-%m-%d %H:%M}  {job.name}")
    if not args.list:
        delete_jobs([job.name for job in jobs])
        print(f"{len(jobs)} jobs deleted", file=sys.stderr)
    return 0
