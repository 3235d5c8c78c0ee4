"""Show what each member is doing, from the destination and from scratch, while the ensemble runs and after."""

from __future__ import annotations

import argparse
import sys
import time
from contextlib import nullcontext
from dataclasses import asdict
from typing import TYPE_CHECKING

from aifs_ensemble.cli._common import (
    add_config_arguments,
    add_cycle_argument,
    add_json_argument,
    config_from,
    print_json,
)
from aifs_ensemble.common.errors import ConfigError

if TYPE_CHECKING:
    from aifs_ensemble.common.config import Config
    from aifs_ensemble.delivery.standing import Destination
    from aifs_ensemble.delivery.status import MemberStatus

HELP = "table of what the members are doing"
GROUP = "after"
EXAMPLE = """\
aifs-ensemble status --profile coiled-gpu --watch 15
aifs-ensemble status --json"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the configuration and how often to look."""
    add_config_arguments(parser)
    add_cycle_argument(parser)
    parser.add_argument("--watch", type=float, metavar="SECONDS", help="look again so often, until all are delivered")
    add_json_argument(parser)


def statuses_of(config: Config, destination: Destination | None = None) -> list[MemberStatus]:
    """Return what the destination says of each member; of those it knows nothing of, what scratch says."""
    from aifs_ensemble.delivery.status import read_statuses, with_scratch

    return with_scratch(config, read_statuses(config, destination))


def run(args: argparse.Namespace) -> int:
    """Print the table once, or keep it up to date."""
    config = config_from(args, "there")
    if args.watch is not None and not 0 < args.watch <= 86400:
        raise ConfigError(f"--watch: {args.watch:g}, expected seconds above 0, at most a day")
    if args.json:
        of_cycle = {one.unit: [asdict(status) for status in statuses_of(one)] for one in config.of_each_cycle}
        print_json({"cycles": of_cycle} if len(of_cycle) > 1 else next(iter(of_cycle.values())))
    elif args.watch:
        _watch(config, args.watch)
    else:
        from rich.console import Console

        from aifs_ensemble.cli._status_table import table
        from aifs_ensemble.workflow.coiled.hooks import spending_of

        found = {one.unit: statuses_of(one) for one in config.of_each_cycle}
        Console().print(table(found, time.time(), spending_of(config)))
    return 0


def _watch(config: Config, seconds: float) -> None:
    """Keep one table up to date on a terminal; elsewhere print it again each time."""
    from rich.console import Console
    from rich.live import Live

    from aifs_ensemble.cli._status_table import table
    from aifs_ensemble.delivery.standing import DELIVERED, Destination
    from aifs_ensemble.workflow.coiled.hooks import spending_of

    console = Console()
    still = console.is_terminal and not console.is_dumb_terminal
    destinations = [Destination(one) for one in config.of_each_cycle]
    statuses = {one.config.unit: statuses_of(one.config, one) for one in destinations}
    with Live(console=console, auto_refresh=False) if still else nullcontext() as live:
        while True:
            shown = table(statuses, time.time(), spending_of(config))
            if live is None:
                console.print(shown)
                sys.stdout.flush()
            else:
                live.update(shown, refresh=True)
            to_look = [
                one for one in destinations if any(each.state != DELIVERED for each in statuses[one.config.unit])
            ]
            if not to_look:
                return
            time.sleep(seconds)
            for one in to_look:
                one.look()
                statuses[one.config.unit] = statuses_of(one.config, one)
