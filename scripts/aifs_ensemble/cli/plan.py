"""What a run would do, take and cost: only what is missing, on the machines chosen and on others."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from aifs_ensemble.cli._common import (
    add_config_arguments,
    add_cycle_argument,
    add_json_argument,
    config_files,
    config_from,
    members_group,
    plan_profile,
    print_json,
)
from aifs_ensemble.common.errors import ConfigError
from aifs_ensemble.common.text import duration, money, terminal_width

if TYPE_CHECKING:
    from aifs_ensemble.common.config import Config
    from aifs_ensemble.planning.choice import Pick

GROUP = "before"
EXAMPLE = """\
aifs-ensemble plan --profile coiled-gpu
aifs-ensemble plan --profile coiled-gpu --deadline 3 --budget 40
aifs-ensemble plan --config members=1-10 lead_hours=240 --json"""
HELP = "time, cost and fit of what is missing, before it runs"
PICK_FILE = "pick.yaml"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_arguments(parser)
    add_cycle_argument(parser)
    parser.add_argument(
        "--destination", action="store_true", default=None, help="look at the bucket too (needs credentials)"
    )
    parser.add_argument(
        "--published", action="store_true", help="ask the source of initial conditions too whether it has the cycle"
    )
    parser.add_argument("--bucket-region", metavar="REGION", help="over cloud.bucket_region")
    parser.add_argument("--deadline", type=float, metavar="HOURS", help="choose the cheapest way that ends by then")
    parser.add_argument("--budget", type=float, metavar="USD", help="choose the cheapest way within it")
    parser.add_argument("--rows", type=int, default=12, help="alternatives shown")
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    from aifs_ensemble.planning.choice import choose, ranked
    from aifs_ensemble.planning.machines import machines_of
    from aifs_ensemble.planning.outstanding import outstanding_of_run
    from aifs_ensemble.planning.plan import plan, plan_case
    from aifs_ensemble.planning.plan_text import full_lines, plan_dict
    from aifs_ensemble.workflow.preflight import check_begun, check_sources

    config = config_from(args, "inputs")
    for one in config.of_each_cycle:
        check_begun(one)
    for unknown in check_sources(config.of_each_cycle) if args.published else ():
        print(unknown, file=sys.stderr)
    if len(config.models) > 1:
        return _of_models(args, config)
    machines, work = machines_of(config), outstanding_of_run(config, destination=args.destination)
    case = plan_case(
        config,
        machines,
        profile=plan_profile(args),
        group=members_group(args),
        bucket_region=args.bucket_region,
        work=work,
    )
    found, ways = plan(case), ranked(case)
    wanted = args.deadline is not None or args.budget is not None
    pick = choose(case, ways, args.deadline, args.budget) if wanted and work.to_forecast else None
    command = pick_command(pick, args.profile or case.profile, config_files(args)) if pick is not None else []
    if args.json:
        content = plan_dict(found, ways)
        if pick is not None:
            chosen = {"settings": pick.settings(), "options": pick.options(), "command": command}
            content["pick"] = {**chosen, "usd": pick.usd, "hours": pick.hours}
        print_json(content)
    else:
        print("\n".join(full_lines(found, ways, args.rows, terminal_width(sys.stdout))))
    found.check(other_machine=pick is not None)
    if not args.json:
        if pick is not None:
            kind = "spot" if pick.spot else "on demand"
            print(
                f"\ncheapest that fits: {pick.way.vms} x {pick.way.machine} {kind}, {money(pick.usd)}, "
                f"{duration(3600 * pick.hours)}. In {PICK_FILE}:"
            )
            print(f"  {pick_text(pick)}")
            print(f"and\n  {' '.join(command)}")
        elif wanted and not work.to_forecast:
            print("\nno member is missing: there is nothing to choose a machine for")
    return 0


def _of_models(args: argparse.Namespace, config: Config) -> int:
    """Print the plan of each of several models, and what they come to together."""
    from aifs_ensemble.planning.machines import machines_of
    from aifs_ensemble.planning.outstanding import outstanding
    from aifs_ensemble.planning.plans import full_text, plans_dict, plans_of_run

    if args.deadline is not None or args.budget is not None:
        raise ConfigError(f"--deadline, --budget: of one model alone, expected --model {config.models[0]} too")
    works = {one.unit: outstanding(one, destination=args.destination) for one in config.of_each_cycle}
    given = {"profile": plan_profile(args), "group": members_group(args), "bucket_region": args.bucket_region}
    found = plans_of_run(config, machines_of(config), works, **given)
    if args.json:
        print_json(plans_dict(found))
    else:
        print("\n".join(full_text(found, args.rows, terminal_width(sys.stdout))))
    for one in found:
        one.check()
    return 0


def pick_text(pick: Pick) -> str:
    """Return the keys of a pick as a line of YAML."""
    import yaml

    return yaml.safe_dump(pick.settings(), default_flow_style=None, sort_keys=False, width=1000).strip()


def pick_command(pick: Pick, profile: str, configfiles: Sequence[Path]) -> list[str]:
    """Return the Snakemake command that runs a pick whose keys are in `PICK_FILE`."""
    files = [*map(str, configfiles), PICK_FILE]
    return ["snakemake", "--profile", profile, "--configfile", *files, *pick.options()]
