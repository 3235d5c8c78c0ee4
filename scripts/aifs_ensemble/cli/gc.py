"""Show what the destination holds that no manifest names, and remove it when told to."""

from __future__ import annotations

import argparse
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from aifs_ensemble.cli._common import (
    add_config_arguments,
    add_cycle_argument,
    add_json_argument,
    config_from,
    run_each_cycle,
)
from aifs_ensemble.common.errors import ConfigError
from aifs_ensemble.common.names import parse_members

if TYPE_CHECKING:
    from collections.abc import Callable

    from aifs_ensemble.common.config import Config
    from aifs_ensemble.common.storage import Storage

GROUP = "after"
EXAMPLE = """\
aifs-ensemble gc --profile coiled-gpu
aifs-ensemble gc --profile coiled-gpu --older-hours 48 --delete"""
MOST_HOURS = 100 * 8766  # a hundred years
HELP = "show, and remove, what no manifest names"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add_config_arguments(parser)
    add_cycle_argument(parser)
    parser.add_argument("--delete", action="store_true", help="remove what is shown")
    parser.add_argument(
        "--older-hours", type=float, default=24.0, help="leave members alone of which anything is younger (default 24)"
    )
    parser.add_argument("--finished", metavar="MEMBERS", help="the finished runs of these members instead, e.g. 3,7")
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Show orphans by reason, and remove them with --delete."""
    from aifs_ensemble.common.storage import open_destination

    config = config_from(args)
    if not 0 <= args.older_hours <= MOST_HOURS:
        raise ConfigError(f"--older-hours: {args.older_hours:g}, expected hours, 0 to {MOST_HOURS}")
    members = parse_members(args.finished, config.ensemble_size) if args.finished else ()
    storage = open_destination(config)
    run_each_cycle(args, config, lambda of_cycle, tell: _collect(args, of_cycle, storage, members, tell))
    return 0


def _collect(
    args: argparse.Namespace, config: Config, storage: Storage, members: tuple[int, ...], tell: Callable[[Any], None]
) -> None:
    """Show the orphans of a cycle, and remove them with --delete."""
    from aifs_ensemble.delivery.leftovers import find_orphans, finished_run, remove, remove_finished

    if members:
        orphans = finished_run(config, storage, members)
    else:
        orphans = find_orphans(config, storage, timedelta(hours=args.older_hours))
    rows = [
        {"address": storage.address(orphan.info.key), "bytes": orphan.info.size, "reason": orphan.reason}
        for orphan in orphans
    ]
    for row in [] if args.json else rows:
        print(f"{row['address']}  {row['bytes']} bytes  ({row['reason']})")
    size = sum(orphan.info.size for orphan in orphans)
    gone = 0
    if args.delete:
        gone = remove_finished(config, storage, members, orphans) if members else remove(storage, orphans)
    if args.json:
        tell({"objects": rows, "bytes": size, "removed": gone})
    elif args.delete:
        print(f"{gone} of {len(orphans)} objects removed, {size} bytes")
    else:
        found = f"{len(orphans)} objects, {size} bytes" if orphans else f"0 objects to remove in {config.cycle}"
        print(f"{found}; --delete removes them" if orphans else f"{found} at {storage.url}")
