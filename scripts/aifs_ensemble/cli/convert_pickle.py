"""Convert input_state_member_NNN.pkl files to state files, refusing anything but plain arrays and dates."""

from __future__ import annotations

import argparse
import os
import re
from pathlib import Path

from aifs_ensemble.cli._common import (
    add_config_arguments,
    add_cycle_argument,
    add_json_argument,
    check_output,
    config_from,
    print_json,
)
from aifs_ensemble.common.errors import InputError
from aifs_ensemble.common.names import parse_members

LONG_AGO = 86400.0  # older than any log or benchmark of an earlier run, which Snakemake compares too
HELP = "convert pickled input states to state files"
GROUP = "before"
EXAMPLE = "aifs-ensemble convert-pickle input_state_member_001.pkl input_state_member_002.pkl"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_arguments(parser)
    add_cycle_argument(parser)
    parser.add_argument(
        "pickles", nargs="*", type=Path, metavar="FILE", help="files that end in the member's number, e.g. ..._007.pkl"
    )
    parser.add_argument("--member", type=int, help="member of a single file whose name does not say")
    parser.add_argument(
        "--output",
        "--folder",
        type=Path,
        metavar="FOLDER",
        help="where the states go (default: the cycle's folder on scratch)",
    )
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    from aifs_ensemble.common.files import write_json
    from aifs_ensemble.initial.pickles import convert_pickle
    from aifs_ensemble.initial.summaries import write_summary
    from aifs_ensemble.workflow.preflight import check_scratch_folder

    _give_back(args)
    config = config_from(args, "inputs")
    if not args.pickles:
        raise InputError("convert-pickle: no file named, expected e.g. input_state_member_007.pkl")
    if args.output is None:
        check_scratch_folder(config)
    else:
        check_output("--output", args.output)
    if args.member is not None and len(args.pickles) != 1:
        raise InputError("--member: goes with a single file")
    rows = []
    for pickled, member in _members(args, config.ensemble_size):
        path = config.scratch.initial(member)
        if args.output is not None:
            path = args.output / path.name
        state = convert_pickle(config, pickled, member, path)
        cycle = path.parent / "cycle.json"
        if not cycle.exists():  # without it, or with one that is younger, the workflow would make the states itself
            write_json(cycle, {"cycle": config.cycle, "grid": config.model.grid, "source": {"kind": "pickle"}})
            os.utime(cycle, (LONG_AGO, LONG_AGO))
        write_summary(path.with_suffix(".json"), state)
        rows.append({"path": path, "member": member, "variables": len(state.variables), "grid": state.grid})
        if not args.json:
            print(f"{path}: member {member}, {len(state.variables)} variables on {state.grid}")
    if args.json:
        print_json(rows)
    return 0


def _members(args: argparse.Namespace, largest: int) -> list[tuple[Path, int]]:
    """Return each file with its member; ConfigError, before anything is written, for one that there is not."""
    found = [(path, member_of(path) if args.member is None else args.member) for path in args.pickles]
    parse_members([member for _, member in found], largest)
    return found


def _give_back(args: argparse.Namespace) -> None:
    """Take the pickles back that ``--configfile CONFIG FILE`` or ``--config KEY=VALUE FILE`` has read as its own."""
    for option in ("configfile", "config"):
        values = getattr(args, option)
        taken = [value for value in values if str(value).endswith((".pkl", ".pickle"))]
        taken = [value for value in taken if option == "configfile" or "=" not in value]
        setattr(args, option, [value for value in values if value not in taken])
        args.pickles += map(Path, taken)


def member_of(path: Path) -> int:
    """Return the member that a file's name ends in; InputError if it does not."""
    match = re.search(r"(\d+)$", path.stem)
    if not match:
        raise InputError(f"{path}: name does not end in a member's number, expected e.g. input_state_member_007.pkl")
    return int(match[1])
