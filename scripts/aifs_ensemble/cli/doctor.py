"""Look whether this machine is fit for its part; also the health check of the machine images."""

from __future__ import annotations

import argparse

from aifs_ensemble.cli._common import (
    add_config_arguments,
    add_cycle_argument,
    add_json_argument,
    config_files,
    config_from,
    plan_profile,
    print_json,
)

ROLES = ("coordinator", "gpu", "cpu")  # those of workflow.doctor
GROUP = "before"
EXAMPLE = """\
aifs-ensemble doctor --profile coiled-gpu
aifs-ensemble doctor --profile coiled-gpu --json
aifs-ensemble doctor --role gpu"""
HELP = "everything that a run will need: software, credentials, source, checkpoint, destination, room"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the configuration and the machine's role."""
    add_config_arguments(parser)
    add_cycle_argument(parser)
    parser.add_argument("--role", choices=ROLES, default="coordinator", help="what this machine is for")
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Print one line a finding; 1 when anything needed is missing."""
    from aifs_ensemble.common.errors import DownloadError, InputError
    from aifs_ensemble.workflow.doctor import FAILURE, CheckResult, examine

    refused: list[CheckResult] = []
    try:
        config = config_from(args)
    except (DownloadError, InputError) as error:  # a word for a cycle that nobody has now
        refused = [CheckResult("cycle", FAILURE, str(error))]
        config = config_from(args, "begun")
    findings = [*refused, *examine(config, args.role, config_files(args), plan_profile(args))]
    if args.json:
        print_json([{"name": one.name, "state": one.state, "text": one.text} for one in findings])
    else:
        for finding in findings:
            print(f"{finding.state:8} {finding.name}: {finding.text}")
    return 1 if any(finding.state == FAILURE for finding in findings) else 0
