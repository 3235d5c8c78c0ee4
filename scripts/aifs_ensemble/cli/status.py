"""Show what each member is doing, from the destination and from scratch, while the ensemble runs and after."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from aifs_ensemble.cli._common import add_config_arguments, config_from
from aifs_ensemble.common.config import Config
from aifs_ensemble.common.errors import ConfigError
from aifs_ensemble.delivery.standing import DAMAGED, DELIVERED, OTHER_SETTINGS, SHORT, Destination
from aifs_ensemble.delivery.status import FAILED, RUNNING, MemberStatus, read_statuses, summary, with_scratch
from aifs_ensemble.workflow.coiled.hooks import spending_of

HELP = "table of what the members are doing"
_COLOURS = {
    DELIVERED: "green",
    RUNNING: "cyan",
    SHORT: "yellow",
    **dict.fromkeys((FAILED, DAMAGED, OTHER_SETTINGS), "red"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the configuration and how often to look."""
    add_config_arguments(parser)
    parser.add_argument("--watch", type=float, metavar="SECONDS", help="look again so often, until all are delivered")
    parser.add_argument("--json", action="store_true", help="print JSON")


def table(statuses: Sequence[MemberStatus], now: float, spending: str | None = None) -> Group:
    """Return the table as rich shows it, with what the machines cost that this folder rented."""
    shown = Table(box=None, pad_edge=False)
    for name, right in (("member", True), ("state", False), ("s/step", True), ("machine", False), ("updated", True)):
        shown.add_column(name, justify="right" if right else "left")
    for status in statuses:
        shown.add_row(
            str(status.member),
            Text(status.text(now), style=_COLOURS.get(status.state, "")),
            f"{status.step_seconds:.3f}" if status.step_seconds else "",
            status.job or status.host,
            f"{now - status.updated:.0f} s ago" if status.updated else "",
        )
    return Group(shown, Text(summary(statuses)), *([Text(spending)] if spending else []))


def statuses_of(config: Config, destination: Destination | None = None) -> list[MemberStatus]:
    """Return what the destination says of each member; of those it knows nothing of, what scratch says."""
    return with_scratch(config, read_statuses(config, destination))


def run(args: argparse.Namespace) -> int:
    """Print the table once, or keep it up to date."""
    config = config_from(args)
    if args.watch is not None and not 0 < args.watch <= 86400:
        raise ConfigError(f"--watch: {args.watch:g}, expected seconds above 0, at most a day")
    if args.json:
        print(json.dumps([asdict(status) for status in statuses_of(config)], indent=1))
    elif args.watch:
        _watch(config, args.watch)
    else:
        Console().print(table(statuses_of(config), time.time(), spending_of(config)))
    return 0


def _watch(config: Config, seconds: float) -> None:
    """Keep one table up to date on a terminal; elsewhere print it again each time."""
    destination, console = Destination(config), Console()
    still = console.is_terminal and not console.is_dumb_terminal
    statuses = statuses_of(config, destination)
    with Live(console=console, auto_refresh=False) if still else nullcontext() as live:
        while True:
            shown = table(statuses, time.time(), spending_of(config))
            if live is None:
                console.print(shown)
                sys.stdout.flush()
            else:
                live.update(shown, refresh=True)
            if all(status.state == DELIVERED for status in statuses):
                return
            time.sleep(seconds)
            destination.look()
            statuses = statuses_of(config, destination)
