"""What a run would do, take and cost: only what is missing, on the machines chosen and on others."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

import yaml

from aifs_ensemble.cli._common import add_config_arguments, config_files, config_from, machines_of
from aifs_ensemble.common.config import Config
from aifs_ensemble.common.text import money
from aifs_ensemble.planning.machines import load_machines
from aifs_ensemble.planning.plan import Pick, Plan, choose, plan
from aifs_ensemble.planning.plan_text import duration, full_lines

HELP = "time, cost and fit of what is missing, before it runs"
PICK_FILE = "pick.yaml"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_arguments(parser)
    parser.add_argument(
        "--destination", action="store_true", default=None, help="look at the bucket too (needs credentials)"
    )
    parser.add_argument("--bucket-region", metavar="REGION", help="over cloud.bucket_region")
    parser.add_argument("--deadline", type=float, metavar="HOURS", help="choose the cheapest way that ends by then")
    parser.add_argument("--budget", type=float, metavar="USD", help="choose the cheapest way within it")
    parser.add_argument("--json", action="store_true", help="the plan as JSON")
    parser.add_argument("--rows", type=int, default=12, help="alternatives shown")


def make_plan(config: Config, args: argparse.Namespace | None = None) -> Plan:
    """Return the plan of a configuration; `args` are the command's."""
    prices = config["cloud"]["prices"]
    machines = load_machines(prices=Path(prices) if prices else None)
    if args is None:
        return plan(config, machines)
    return plan(
        config, machines, profile=machines_of(args), destination=args.destination, bucket_region=args.bucket_region
    )


def print_plan(config: Config, file: TextIO = sys.stdout) -> None:
    """Print the plan of a configuration; PlanError, after printing, when it is refused."""
    found = make_plan(config)
    print("\n".join(full_lines(found)), file=file)
    found.check()


def run(args: argparse.Namespace) -> int:
    config = config_from(args)
    found = make_plan(config, args)
    wanted = args.deadline is not None or args.budget is not None
    missing = bool(found.case.work.to_forecast)
    pick = choose(found, args.deadline, args.budget) if wanted and missing else None
    command = pick_command(pick, args.profile or found.case.profile, config_files(args)) if pick is not None else []
    if args.json:
        content = found.to_dict()
        if pick is not None:
            chosen = {"settings": pick.settings(), "options": pick.options(), "command": command}
            content["pick"] = {**chosen, "usd": pick.usd, "hours": pick.hours}
        print(json.dumps(content, indent=1))
    else:
        print("\n".join(full_lines(found, args.rows)))
    found.check(other_way=pick is not None)
    if not args.json:
        if pick is not None:
            kind = "spot" if pick.spot else "on demand"
            print(
                f"\ncheapest that fits: {pick.way.vms} x {pick.way.machine} {kind}, {money(pick.usd)}, "
                f"{duration(pick.hours)}. In {PICK_FILE}:"
            )
            print(f"  {pick_text(pick)}")
            print(f"and\n  {' '.join(command)}")
        elif wanted and not missing:
            print("\nno member is missing: there is nothing to choose a machine for")
    return 0


def pick_text(pick: Pick) -> str:
    """Return the keys of a pick as a line of YAML."""
    return yaml.safe_dump(pick.settings(), default_flow_style=None, sort_keys=False, width=1000).strip()


def pick_command(pick: Pick, profile: str, configfiles: Sequence[Path]) -> list[str]:
    """Return the Snakemake command that runs a pick whose keys are in `PICK_FILE`."""
    files = [*map(str, configfiles), PICK_FILE]
    return ["snakemake", "--profile", profile, "--configfile", *files, *pick.options()]
