"""Make the initial states of a cycle's members and show the spread of their fields."""

from __future__ import annotations

import argparse
import json
import time

from aifs_ensemble.cli._common import (
    add_config_arguments,
    add_cycle_argument,
    add_json_argument,
    add_members_argument,
    config_from,
    members_from,
    print_json,
)

GROUP = "stages"
EXAMPLE = """\
aifs-ensemble initial --members 1-3
aifs-ensemble initial --config initial_conditions.source=ecmwf-open-data cycle=20260101_0000"""
HELP = "make initial states and show their spread"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_arguments(parser)
    add_cycle_argument(parser)
    add_members_argument(parser)
    parser.add_argument("--prepare-only", action="store_true", help="only index, constants and weights, into the cache")
    parser.add_argument("--statistics-only", action="store_true", help="only the spread of the states that are there")
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    from aifs_ensemble.initial.build import build_member, prepare_cycle
    from aifs_ensemble.initial.spread import ensemble_statistics
    from aifs_ensemble.workflow.preflight import check_scratch_folder

    config = config_from(args, "inputs")
    members = members_from(args, config)
    if not args.statistics_only:
        check_scratch_folder(config)
    paths = [config.scratch.initial(member) for member in members]
    if not args.statistics_only:
        prepare_cycle(config)
        if args.prepare_only:
            if args.json:
                print_json({"cache": config.cache})
            else:
                print(f"{config.cache}: what the members of {config.cycle} share")
            return 0
        for member, path in zip(members, paths, strict=True):
            start = time.perf_counter()
            build_member(config, member, path)
            if not args.json:
                print(f"{path}: {time.perf_counter() - start:.1f} s")
    table = ensemble_statistics(paths)
    if args.json:
        spread = json.loads(table.to_json(orient="index"))
        print_json({"states": paths, "spread": spread, "identical": table.attrs["duplicates"]})
        return 0
    print(table.to_string(float_format="{:.5g}".format))
    for duplicates in table.attrs["duplicates"]:
        print(f"identical members: {', '.join(map(str, duplicates))}")
    return 0
