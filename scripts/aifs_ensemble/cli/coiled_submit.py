"""Ask Coiled for a machine for a job script of Snakemake and print the job's id (called by the profile)."""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path

from aifs_ensemble.cli._quiet import stdout_for_snakemake
from aifs_ensemble.common.errors import ConfigError

HELP = "submit a job script to Coiled (used by the coiled-gpu profile)"
GROUP = "profiles"
EXAMPLE = "aifs-ensemble coiled-submit JOBSCRIPT"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the job script."""
    parser.add_argument("jobscript", type=Path, help="script written by snakemake")


def run(args: argparse.Namespace) -> int:
    """Print the id of the job, and nothing else, on standard output."""
    with stdout_for_snakemake() as answer:
        from aifs_ensemble.planning.machines import load_machines, machines_of
        from aifs_ensemble.planning.regions import regions_of_run
        from aifs_ensemble.workflow.bucket import bucket_problem
        from aifs_ensemble.workflow.coiled.job_script import read_job
        from aifs_ensemble.workflow.coiled.jobs import submit
        from aifs_ensemble.workflow.coiled.records import JobJournal, work_of
        from aifs_ensemble.workflow.coiled.spending import spending_line
        from aifs_ensemble.workflow.context import current

        config = current()
        problem = bucket_problem(config)
        if problem:
            raise ConfigError(problem)
        job = read_job(args.jobscript)
        journal, machines = JobJournal(), load_machines()
        print(submit(job, config, machines, partial(regions_of_run, config), journal), file=answer)
        if line := spending_line(journal.of_work(work_of(config)), config, machines_of(config)):
            print(line, file=sys.stderr)
    return 0
