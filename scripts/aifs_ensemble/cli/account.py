"""What a run took and cost, from its manifests, metrics and Snakemake's benchmarks."""

from __future__ import annotations

import argparse
from pathlib import Path

from aifs_ensemble.cli._common import (
    add_config_arguments,
    add_json_argument,
    check_output,
    config_from,
    plan_profile,
    print_json,
)

HELP = "time and cost of a run, after it"
GROUP = "after"
EXAMPLE = """\
aifs-ensemble account --profile coiled-gpu --fetch --output account
aifs-ensemble account --json"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_arguments(parser)
    parser.add_argument("--fetch", action="store_true", help="first copy manifests and metrics from the destination")
    parser.add_argument("--spot", action=argparse.BooleanOptionalAction, default=None, help="over cloud.spot")
    parser.add_argument("--benchmarks", type=Path, default=Path("logs/benchmarks"), help="Snakemake's benchmark files")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="write tables and figures there")
    parser.add_argument("--formats", nargs="+", choices=("svg", "png"), default=("svg", "png"), help="of the figures")
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    config = config_from(args)
    if args.output:
        check_output("--output", args.output)
    from aifs_ensemble.planning.account_report import account_tables, write_account
    from aifs_ensemble.planning.runs import fetch_run

    if args.fetch:
        count = fetch_run(config)
        if not args.json:
            print(f"fetched {count} manifests from {config.destination}")
    settings = {"benchmarks": args.benchmarks, "profile": plan_profile(args), "spot": args.spot}
    text = write_account(config, args.output, formats=args.formats, **settings)
    if args.json:
        print_json(account_tables(config, **settings))
    else:
        print(text)
    return 0
