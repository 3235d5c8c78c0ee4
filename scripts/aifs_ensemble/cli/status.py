"""Show what each member is doing, from the destination, while the ensemble runs and after."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import asdict

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from aifs_ensemble.cli._common import add_config_arguments, config_from
from aifs_ensemble.cloud.status import DELIVERED, FAILED, RUNNING, MemberStatus, read_statuses, summary
from aifs_ensemble.config import Config
from aifs_ensemble.errors import ConfigError
from aifs_ensemble.storage import open_destination

HELP = "table of the members' states at the destination"
_COLOURS = {DELIVERED: "green", FAILED: "red", RUNNING: "cyan"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the configuration and how often to look."""
    add_config_arguments(parser)
    parser.add_argument("--watch", type=float, metavar="SECONDS", help="look again so often, until all are delivered")
    parser.add_argument("--json", action="store_true", help="print JSON")


def table(statuses: Sequence[MemberStatus], now: float) -> Group:
    """Return the table as rich shows it."""
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
    return Group(shown, Text(summary(statuses)))


def run(args: argparse.Namespace) -> int:
    """Print the table once, or keep it up to date."""
    config = config_from(args)
    if args.watch is not None and not 0 < args.watch <= 86400:
        raise ConfigError(f"--watch: {args.watch:g}, expected seconds above 0, at most a day")
    if args.json:
        print(json.dumps([asdict(status) for status in read_statuses(config)], indent=1))
    elif args.watch:
        _watch(config, args.watch)
    else:
        Console().print(table(read_statuses(config), time.time()))
    return 0


def _watch(config: Config, seconds: float) -> None:
    storage = open_destination(config)
    statuses = read_statuses(config, storage)
    with Live(table(statuses, time.time()), auto_refresh=False) as live:
        while any(status.state != DELIVERED for status in statuses):
            time.sleep(seconds)
            statuses = read_statuses(config, storage)
            live.update(table(statuses, time.time()), refresh=True)
