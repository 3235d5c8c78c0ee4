"""``python -m snakemake_executor_plugin_coiled``: what is rented from a folder, and stopping it."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from snakemake_executor_plugin_coiled.records import FOLDER, Journal
from snakemake_executor_plugin_coiled.stop import stop_jobs


def main(arguments: list[str] | None = None) -> int:
    """List or stop; 1 when something could not be stopped."""
    parser = argparse.ArgumentParser(prog="snakemake_executor_plugin_coiled", description=__doc__)
    parser.add_argument("command", choices=["list", "stop"])
    parser.add_argument(
        "jobs",
        nargs="*",
        help="ids of jobs to stop, for which a run that goes on may rent again; none: all, and runs rent no more",
    )
    parser.add_argument("--folder", type=Path, default=FOLDER, help=f"records of a workflow's folder, {FOLDER}")
    given = parser.parse_intermixed_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    journal = Journal(given.folder)
    if given.command == "list":
        for record in journal.unfinished():
            where = ", ".join(request.region for request in record.requests if request.ended is None)
            print(f"{record.id}\t{record.title}\t{where or 'no machine'}")  # noqa: T201
        return 0
    told, problems = stop_jobs(given.jobs, journal)
    for line in (*told, *problems):
        logging.info(line)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
