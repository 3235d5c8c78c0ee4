"""Delete jobs of this workflow from Google Batch, such as a killed coordinator left running; their machines end."""

from __future__ import annotations

import argparse
import sys

from aifs_ensemble.cli._common import CYCLE_HELP, add_config_arguments, add_json_argument, config_of_run, print_json

HELP = "stop jobs on Google Batch"
GROUP = "machines"
EXAMPLE = """\
aifs-ensemble batch-cancel --list
aifs-ensemble batch-cancel --cycle all"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add which cycle, and whether to look only."""
    add_config_arguments(parser)
    parser.add_argument("--cycle", metavar="CYCLE", help=CYCLE_HELP)
    parser.add_argument("--coordinator", help="only the jobs with this label, which a run gives to its own")
    parser.add_argument("--list", action="store_true", help="show the jobs and delete none")
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Show what is there, one line each, and delete it unless asked to look only."""
    from aifs_ensemble.common.cycles import format_cycles
    from aifs_ensemble.workflow.googlebatch.jobs import delete_jobs, live_jobs

    config = config_of_run(args, "googlebatch")
    cycle = args.cycle or format_cycles(config.cycles)
    jobs = live_jobs(config, None if cycle == "all" else cycle, args.coordinator)
    rows = [
        {
            "cycle": job.labels.get("cycle"),
            "machine": job.labels.get("machine"),
            "state": job.status.state.name.lower(),
            "created": f"{job.create_time:%Y-%m-%d %H:%M}",
            "job": job.name,
        }
        for job in jobs
    ]
    if args.json:
        print_json(rows)
    else:
        for row in rows:
            print("  ".join(map(str, row.values())))
    if not args.list:
        delete_jobs([job.name for job in jobs])
        print(f"{len(jobs)} jobs deleted", file=sys.stderr)
    return 0
