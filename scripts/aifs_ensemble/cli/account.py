"""What a run took and cost, from its manifests, metrics and Snakemake's benchmarks."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aifs_ensemble.cli._common import (
    add_config_arguments,
    add_cycle_argument,
    add_json_argument,
    check_output,
    config_from,
    plan_profile,
    run_each_cycle,
)
from aifs_ensemble.common.text import money

if TYPE_CHECKING:
    from collections.abc import Callable

    from aifs_ensemble.common.config import Config

HELP = "time and cost of a run, after it"
GROUP = "after"
EXAMPLE = """\
aifs-ensemble account --profile coiled-gpu --fetch --output account
aifs-ensemble account --json"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_arguments(parser)
    add_cycle_argument(parser)
    parser.add_argument("--fetch", action="store_true", help="first copy manifests and metrics from the destination")
    parser.add_argument("--spot", action=argparse.BooleanOptionalAction, default=None, help="over cloud.spot")
    parser.add_argument("--benchmarks", type=Path, help="Snakemake's benchmark files")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="write tables and figures there")
    parser.add_argument("--formats", nargs="+", choices=("svg", "png"), default=("svg", "png"), help="of the figures")
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    config = config_from(args, "there")
    if args.output:
        check_output("--output", args.output)
    usd: dict[str, float] = {}
    run_each_cycle(args, config, lambda of_cycle, tell: _account(args, of_cycle, config, usd, tell))
    if len(config.units) > 1 and not args.json:
        what = "cycles" if len(config.models) == 1 else "cycles of models"
        print(f"{len(usd)} {what}: {money(sum(usd.values()))}")
    return 0


def _account(
    args: argparse.Namespace, config: Config, whole: Config, usd: dict[str, float], tell: Callable[[Any], None]
) -> None:
    """Account for a cycle of the `whole` configuration, and note its USD."""
    from aifs_ensemble.planning.account_report import account_tables, write_account
    from aifs_ensemble.planning.runs import fetch_run

    if args.fetch:
        count = fetch_run(config)
        if not args.json:
            print(f"fetched {count} manifests from {config.destination}")
    settings = {"benchmarks": args.benchmarks, "profile": plan_profile(args), "spot": args.spot}
    several = len(whole.units) > 1
    folder = args.output / config.unit if args.output and several else args.output
    text = write_account(config, folder, formats=args.formats, **settings)
    if not args.json:
        print(text)
    if args.json or several:
        tables = account_tables(config, **settings)
        usd[config.unit] = tables["totals"][0]["usd"]
        tell(tables)
