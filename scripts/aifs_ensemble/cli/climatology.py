"""Write the model's own climate: quantiles of weekly means and amounts over many delivered cycles."""

from __future__ import annotations

import argparse
from pathlib import Path

from aifs_ensemble.cli._common import (
    add_config_arguments,
    add_cycles_argument,
    add_json_argument,
    add_model_argument,
    check_output,
    config_from,
    print_json,
)
from aifs_ensemble.common.errors import ConfigError

GROUP = "after"
EXAMPLE = """\
aifs-ensemble climatology --profile coiled-gpu --output climate
aifs-ensemble climatology --cycles 20150101_0000..20241231_0000 --window 2 --output climate"""
HELP = "quantiles of the model's own climate over many cycles"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add_config_arguments(parser)
    add_model_argument(parser)
    add_cycles_argument(parser)
    parser.add_argument(
        "--output", type=Path, metavar="FOLDER", help="where to write (default: products.weekly.model_climatology)"
    )
    parser.add_argument(
        "--window", type=int, default=1, metavar="WEEKS", help="weeks on either side that count with a week (default 1)"
    )
    parser.add_argument(
        "--quantiles", type=float, nargs="+", default=[0.2, 0.4, 0.6, 0.8], help="bounds (default 0.2 0.4 0.6 0.8)"
    )
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Gather the members' periods, then write a file for each variable, period and week."""
    from aifs_ensemble.common.storage import open_destination
    from aifs_ensemble.delivery.cycles_there import choose_cycles, cycles_at
    from aifs_ensemble.products.model_climate import check_choice, check_samples, gather, write_climate

    config = config_from(args)
    _ = config.model  # of one: each has a climate of its own
    if not config.periods:
        raise ConfigError("config: products.weekly: no periods within lead_hours, expected enabled: true and some")
    named = config.products.weekly.model_climatology
    if args.output is None and named is None:
        raise ConfigError("--output is missing: products.weekly.model_climatology names no folder")
    folder = args.output or Path(named or "")
    check_output("--output", folder)
    check_choice(args.quantiles, args.window)
    say = (lambda text: None) if args.json else print
    storage = open_destination(config)
    cycles = cycles_at(storage)
    if args.cycles:
        cycles = choose_cycles(cycles, args.cycles)
    samples = []
    for cycle in cycles:
        found = gather(config, storage, cycle, config.scratch_root / "climatology")
        say(f"{cycle}: {len(found)} of {len(config.members)} members")
        samples += found
    check_samples(samples)
    folder.mkdir(parents=True, exist_ok=True)
    written = {}
    for path, count in write_climate(config, samples, folder, quantiles=args.quantiles, window=args.window):
        written[str(path)] = count
        say(f"{path}: {count} samples")
    if args.json:
        print_json({"cycles": sorted({one.cycle for one in samples}), "samples": len(samples), "files": written})
    else:
        few = "" if written else f": no week has more than {len(args.quantiles)} samples"
        print(f"{len(samples)} samples of {len({one.cycle for one in samples})} cycles, {len(written)} files{few}")
    return 0
