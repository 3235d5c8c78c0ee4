"""Compare scratch and destination with the manifests; a bucket is compared by its listing, without downloads."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from aifs_ensemble.cli._common import (
    add_config_arguments,
    add_cycle_argument,
    add_json_argument,
    config_from,
    run_each_cycle,
)
from aifs_ensemble.common.names import format_members

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from aifs_ensemble.common.config import Config
    from aifs_ensemble.delivery.verify import EnsembleCheck

PLACES = ("scratch", "destination")  # those of delivery.verify
GROUP = "after"
EXAMPLE = """\
aifs-ensemble verify --profile coiled-gpu
aifs-ensemble verify --mend"""
HELP = "compare what is there with the manifests"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_arguments(parser)
    add_cycle_argument(parser)
    parser.add_argument("--place", choices=PLACES, action="append", help="look only there (default: both)")
    parser.add_argument("--deep", action="store_true", help="check every key and value of a few leads of each member")
    parser.add_argument(
        "--mend", action="store_true", help="make damaged members unfinished, so that a rerun mends them"
    )
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    from contextlib import nullcontext
    from dataclasses import asdict

    from aifs_ensemble.common.storage import open_destination
    from aifs_ensemble.delivery.lease import alone
    from aifs_ensemble.delivery.verify import check_ensemble
    from aifs_ensemble.products.cube.record import check_cube, require_whole

    places = args.place or PLACES

    def verify(config: Config, tell: Callable[[Any], None]) -> None:
        there = "destination" in places and bool(config.destination)
        changes = args.mend and config.destination
        with alone(config, open_destination(config)) if changes else nullcontext():
            check = check_ensemble(config, deep=args.deep, mend=args.mend, places=places)
            data_sets = check_cube(config, mend=args.mend) if there else ()
        if args.json:
            tell({**asdict(check), "data_sets": data_sets})
        else:
            _print_check(check, places)
            for line in data_sets:
                print(f"  data sets: {line}")
        told = not args.json
        check.require_sound(mended=args.mend, told=told)
        if there:
            check.require_members(config)
        require_whole(data_sets, mended=args.mend, told=told)

    run_each_cycle(args, config_from(args, "there"), verify)
    return 0


def _print_check(check: EnsembleCheck, places: Sequence[str]) -> None:
    """Print a line for each state in each place, and one for each problem."""
    from aifs_ensemble.delivery.standing import ABSENT, DAMAGED, OTHER_SETTINGS, SHORT, grouped
    from aifs_ensemble.delivery.verify import REMOVED, SOUND

    for place in places:
        for state in (SOUND, REMOVED, SHORT, OTHER_SETTINGS, DAMAGED, ABSENT):
            found = check.of(state, place)
            if found:
                size = sum(one.bytes for one in found)
                decoded = sum(one.decoded for one in found)
                more = f", {decoded} messages decoded" if decoded else ""
                members = format_members(one.member for one in found)
                reasons = {one.member: one.reason for one in found if one.reason and state != DAMAGED}
                why = f": {grouped(reasons)}" if reasons else ""
                print(f"{place}: {len(found)} {state} (members {members}), {size} bytes{more}{why}")
    for one in check.of(DAMAGED):
        for line in one.lines():
            print(f"  {one.place}: {line}")
    for one in check.members:
        for line in one.coarse_lines():
            print(f"  {one.place}: {line}")
    for line in check.ensemble:
        print(f"  ensemble: {line}{', written anew' if check.rewritten else ''}")
