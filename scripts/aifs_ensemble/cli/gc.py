"""Show what no manifest names at the destination, or what rules of ``keep`` let go, and remove it when told to."""

from __future__ import annotations

import argparse
import sys
from contextlib import nullcontext
from datetime import UTC, date, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from aifs_ensemble.cli._common import (
    add_config_arguments,
    add_cycle_argument,
    add_cycles_argument,
    add_json_argument,
    config_from,
    print_json,
    run_each_cycle,
)
from aifs_ensemble.common.errors import ConfigError
from aifs_ensemble.common.names import parse_members
from aifs_ensemble.common.text import money, size, table, terminal_width

if TYPE_CHECKING:
    from collections.abc import Callable

    from aifs_ensemble.common.config import Config
    from aifs_ensemble.common.storage import Storage
    from aifs_ensemble.delivery.retention import CyclePlan
    from aifs_ensemble.planning.machines import Machines

GROUP = "after"
EXAMPLE = """\
aifs-ensemble gc --profile coiled-gpu
aifs-ensemble gc --profile coiled-gpu --older-hours 48 --delete
aifs-ensemble gc --profile coiled-gpu --plan
aifs-ensemble gc --profile coiled-gpu --plan --delete"""
MOST_HOURS = 100 * 8766  # a hundred years
HELP = "show, and remove, what no manifest names, or what goes of old cycles"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add_config_arguments(parser)
    add_cycle_argument(parser)
    parser.add_argument("--delete", action="store_true", help="remove what is shown")
    parser.add_argument(
        "--older-hours", type=float, default=24.0, help="leave members alone of which anything is younger (default 24)"
    )
    parser.add_argument("--finished", metavar="MEMBERS", help="the finished runs of these members instead, e.g. 3,7")
    parser.add_argument(
        "--plan",
        action="store_true",
        help="what the rules of `keep` let go of all cycles instead; those named by --cycles need not be complete",
    )
    add_cycles_argument(parser)
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Show orphans by reason, or the retention of cycles, and remove them with --delete."""
    from aifs_ensemble.common.storage import open_destination

    config = config_from(args, "there")
    if not 0 <= args.older_hours <= MOST_HOURS:
        raise ConfigError(f"--older-hours: {args.older_hours:g}, expected hours, 0 to {MOST_HOURS}")
    if args.plan and args.finished:
        raise ConfigError("--plan and --finished, expected one of them")
    if args.cycles and not args.plan:
        raise ConfigError(f"--cycles: {args.cycles!r}, expected it with --plan alone")
    if args.plan:
        _retention_of_each(args, config)
        return 0
    members = parse_members(args.finished, config.ensemble_size) if args.finished else ()
    run_each_cycle(args, config, lambda one, tell: _collect(args, one, open_destination(one), members, tell))
    return 0


def _collect(
    args: argparse.Namespace, config: Config, storage: Storage, members: tuple[int, ...], tell: Callable[[Any], None]
) -> None:
    """Show the orphans of a cycle, and remove them with --delete."""
    from aifs_ensemble.delivery.lease import alone
    from aifs_ensemble.delivery.leftovers import find_orphans, finished_run, remove, remove_finished

    with alone(config, storage) if args.delete else nullcontext():
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
        count = sum(orphan.info.size for orphan in orphans)
        gone = 0
        if args.delete:
            gone = remove_finished(config, storage, members, orphans) if members else remove(storage, orphans)
    if args.json:
        tell({"objects": rows, "bytes": count, "removed": gone})
    elif args.delete:
        print(f"{gone} of {len(orphans)} objects removed, {count} bytes")
    else:
        found = f"{len(orphans)} objects, {count} bytes" if orphans else f"0 objects to remove in {config.cycle}"
        print(f"{found}; --delete removes them" if orphans else f"{found} at {storage.url}")


def _retention_of_each(args: argparse.Namespace, config: Config) -> None:
    """Do what ``--plan`` says of each model; what fails of one keeps none from it."""
    from aifs_ensemble.common.cycles import each_of
    from aifs_ensemble.common.storage import open_destination

    facts: dict[str, dict[str, object]] = {}

    def of_model(one: Config) -> None:
        name = one.model.name
        if one.model_folder and not args.json:
            print(f"{name}:", flush=True)
        _retention(args, one, open_destination(one), partial(facts.__setitem__, name))

    try:
        each_of({one.model.name: one for one in config.of_each_model}, of_model, _say_error, what="models")
    finally:
        if args.json and facts:
            print_json({"models": facts} if len(config.models) > 1 else next(iter(facts.values())))


def _say_error(line: str) -> None:
    print(f"error: {line}", file=sys.stderr, flush=True)


def _retention(
    args: argparse.Namespace, config: Config, storage: Storage, tell: Callable[[dict[str, object]], None]
) -> None:
    """Show what goes of a model's old cycles, remove it with --delete, and tell it as facts."""
    from aifs_ensemble.common.cycles import each_cycle
    from aifs_ensemble.delivery.cycles_there import choose_cycles, cycles_at
    from aifs_ensemble.delivery.lease import alone
    from aifs_ensemble.delivery.retention import apply_retention, plan_retention
    from aifs_ensemble.planning.machines import machines_of

    now = datetime.now(UTC)
    cycles = cycles_at(storage)
    if args.cycles:
        cycles = choose_cycles(cycles, args.cycles)
    young = timedelta(hours=args.older_hours)
    plans = plan_retention(config, storage, cycles, named=bool(args.cycles), now=now, young=young)
    # a folder is on a disk of the user's, which has no price here
    machines = machines_of(config) if config.cloud_destination else None
    if not args.json:
        _print_plan(config, storage, plans, machines, now)
    gone = 0

    def remove(plan: CyclePlan) -> None:
        nonlocal gone
        with alone(config.of_cycle(plan.cycle), storage):
            gone += apply_retention(config, storage, [plan], now)

    try:
        if args.delete:
            going = [plan for plan in plans if plan.removals and not plan.left]
            each_cycle(going, remove, _say_error)
    finally:
        tell(_plan_json(config, plans, machines, now) | {"removed": gone})
        if args.delete and not args.json:
            print(f"{gone} objects removed")
        elif not args.json and any(plan.goes for plan in plans):
            print("--delete removes it")


def _print_plan(
    config: Config, storage: Storage, plans: list[CyclePlan], machines: Machines | None, now: datetime
) -> None:
    def amount(count: float) -> str:
        return f"{size(count)}, {money(machines.bucket_month(count))} a month" if machines else size(count)

    if not config.keep:
        print("config: keep: no rules, everything stays")
    rows = [
        (plan.cycle, f"{(now - plan.since).days} d", one.what, one.rule, len(one.objects), amount(one.bytes))
        for plan in plans
        if not plan.left
        for one in plan.removals
    ]
    if rows:
        print(
            "\n".join(
                table(rows, ("cycle", "age", "what", "rule", "objects", "size"), width=terminal_width(sys.stdout))
            )
        )
    for plan in plans:
        if plan.left:
            print(f"{plan.cycle}: left: {plan.left}")
    goes = sum(plan.goes for plan in plans)
    stays = sum(plan.bytes for plan in plans) - goes
    print(f"{len(plans)} cycles at {storage.url}: {amount(goes)} goes; {amount(stays)} stays")
    if machines:
        print(_price(machines, now.date()))


def _price(machines: Machines, today: date) -> str:
    price, source = machines.services["bucket_gb_month"]
    return f"at ${price:g} a GB and month, Standard class, from {machines.lists[source].label(today)}"


def _plan_json(config: Config, plans: list[CyclePlan], machines: Machines | None, now: datetime) -> dict[str, object]:
    def month(count: float) -> float | None:
        return machines.bucket_month(count) if machines else None

    goes = sum(plan.goes for plan in plans)
    stays = sum(plan.bytes for plan in plans) - goes
    return {
        "rules": sorted(config.keep),
        "cycles": [
            {
                "cycle": plan.cycle,
                "age_days": (now - plan.since).days,
                "bytes": plan.bytes,
                "left": plan.left,
                "removals": [
                    {
                        "what": one.what,
                        "rule": one.rule,
                        "objects": len(one.objects),
                        "bytes": one.bytes,
                        "usd_month": month(one.bytes),
                    }
                    for one in plan.removals
                ],
            }
            for plan in plans
        ],
        "goes": {"bytes": goes, "usd_month": month(goes)},
        "stays": {"bytes": stays, "usd_month": month(stays)},
        "price": _price(machines, now.date()) if machines else None,
    }
