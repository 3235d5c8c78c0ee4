"""Show what would run the configuration every day or week, and write it to a folder. Nothing is installed.

The cycle must be a word, such as latest-thursday: its day and hour, and when ECMWF publishes, say when runs begin. Of
several cycles one must be a word, or a range end with one.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from aifs_ensemble.cli._checkout import check_here
from aifs_ensemble.cli._common import (
    add_config_arguments,
    add_json_argument,
    check_output,
    keys_given,
    print_json,
    words_and_config,
)
from aifs_ensemble.common.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

KINDS = ("systemd", "cron", "github", "cloud-run")  # those of planning.schedules
WAIT_HOURS = 6.0
GROUP = "before"
EXAMPLE = """\
aifs-ensemble schedule --profile coiled-gpu --config cycle=latest-thursday
aifs-ensemble schedule --profile local --config cycle=latest-00z --for systemd --output schedule"""
HELP = "timer, cron line, GitHub workflow or Cloud Run job that runs it by itself"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the configuration, which files, when, and where to."""
    add_config_arguments(parser)
    parser.add_argument(
        "--for", dest="kinds", nargs="+", choices=KINDS, default=list(KINDS), metavar="KIND",
        help=f"which of {', '.join(KINDS)} (default: all)",
    )  # fmt: skip
    parser.add_argument("--at", metavar="HH:MM", help="when a run begins, UTC (default: 7 h after the cycle)")
    parser.add_argument(
        "--wait", type=float, metavar="HOURS",
        help=f"how long a run waits for its inputs (default: initial_conditions.wait_hours, else {WAIT_HOURS:g})",
    )  # fmt: skip
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="write the files there, once they are shown")
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Print each file, and what is still to be filled in; write them if asked."""
    from aifs_ensemble.common.cycles import name_cycles
    from aifs_ensemble.planning import schedules

    check_here("a schedule")
    words, config = words_and_config(args)
    if not words:
        said = "is one cycle" if len(config.cycles) == 1 else "stay the same"
        raise ConfigError(
            f"config: cycle: {name_cycles(config.cycles)!r} {said}, expected a word for a schedule, e.g. cycle: "
            "latest-thursday"
        )
    word = words[0]
    if len({schedules.begins(one) for one in words}) > 1:
        raise ConfigError(
            f"config: cycles: {', '.join(map(str, words))} are of several days or hours, expected one for a schedule"
        )
    own = config.initial_conditions.wait_hours
    wait = args.wait if args.wait is not None else own or WAIT_HOURS
    wait = int(wait) if float(wait).is_integer() else wait
    if not 0 <= wait <= 72:
        raise ConfigError(f"--wait: {wait:g}, expected hours from 0 to 72")
    weekday, hours = schedules.begins(word)
    minute = 0
    if args.at is not None:
        hours, minute = _time(args.at)
    schedule = schedules.Schedule(
        weekday=weekday,
        hours=hours,
        minute=minute,
        folder=Path.cwd(),
        snakemake=Path(sys.executable).parent / "snakemake",
        arguments=schedules.run_arguments(
            args.profile or "local",
            [*map(str, args.configfile)],
            keys_given(args),
            None if wait == own else wait,
        ),
        config=config,
        wait_hours=wait,
    )
    files = {name: text for kind in args.kinds for name, text in schedules.KINDS[kind](schedule).items()}
    if args.json:
        print_json({"begins": schedule.in_words, "cron": schedule.cron, "files": files})
    else:
        print(f"{word}: {schedule.in_words}, waits {wait:g} h for its inputs at most")
        for name, text in files.items():
            print(f"\n--- {name}\n{text}", end="")
        if missing := schedules.placeholders(files):
            print(f"\nto be filled in: {', '.join(missing)}")
    if args.output is not None:
        _write(args.output, files)
        print(f"written to {args.output}; nothing is installed", file=sys.stderr)
    return 0


def _time(text: str) -> tuple[tuple[int, ...], int]:
    hour, _, minute = text.partition(":")
    if not (hour.isdecimal() and minute.isdecimal() and len(minute) == 2 and int(hour) < 24 and int(minute) < 60):
        raise ConfigError(f"--at: {text!r}, expected HH:MM, UTC")
    return (int(hour),), int(minute)


def _write(folder: Path, files: Mapping[str, str]) -> None:
    """Write the files, all of them or none: none over one that says something else."""
    from aifs_ensemble.common.files import write_bytes

    check_output("--output", folder)
    for name, text in files.items():
        if (folder / name).exists() and (folder / name).read_bytes() != text.encode():
            raise ConfigError(f"--output: {folder / name} says something else, expected none there: move it away")
    for name, text in files.items():
        write_bytes(folder / name, text.encode())
