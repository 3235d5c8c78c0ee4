"""Measure machine types: run the engine benchmark on each, keep its JSON, correct the throughput table, show prices.

Without --machines it runs here, on the card of this machine. With --machines and --profile it runs through Snakemake
on each machine type, which writes benchmarks/MACHINE.json to the destination. --results takes in files that were
measured elsewhere.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aifs_ensemble.cli._checkout import CHECKOUT
from aifs_ensemble.cli._common import add_config_arguments, add_json_argument, config_from, print_json
from aifs_ensemble.common.errors import ConfigError, WorkflowError

if TYPE_CHECKING:
    from aifs_ensemble.common.config import Config
    from aifs_ensemble.planning.machines import Machines

HELP = "measure machine types and show the price of a member on each"
GROUP = "before"
EXAMPLE = """\
aifs-ensemble benchmark                                   # the card of this machine
aifs-ensemble benchmark --prices-only
aifs-ensemble benchmark --profile coiled-gpu --machines g2-standard-8
aifs-ensemble benchmark -- --model demo --steps 4 --reference-steps 2    # without a GPU: that it works"""
ENGINE = CHECKOUT / "benchmarks" / "forecast_engine.py"
TABLE = CHECKOUT / "config" / "throughput.json"
TARGET = "benchmark_engine"
_TOY = "aifs-ensemble benchmark -- --model demo --steps 4 --reference-steps 2"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_arguments(parser)
    parser.add_argument("--machines", nargs="+", metavar="TYPE", help="machine types of config/machines.yaml to rent")
    parser.add_argument("--results", nargs="+", type=Path, metavar="FILE", help="take these results in, run nothing")
    parser.add_argument("--output", type=Path, default=Path("scratch/benchmark"), help="folder for the results")
    parser.add_argument("--table", type=Path, default=TABLE, help="throughput table to correct")
    parser.add_argument("--prices-only", action="store_true", help="run nothing, show the table")
    parser.add_argument("engine", nargs="*", help="after --: arguments of the engine benchmark")
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    from aifs_ensemble.common.files import read_json
    from aifs_ensemble.planning.machines import machines_of
    from aifs_ensemble.planning.throughput import add_result

    config = config_from(args, "begun")
    machines = machines_of(config)
    measured = []
    if not args.prices_only:
        for file in _results(args, config, machines):
            speed = add_result(read_json(file), machines.gpu_specs, args.table)
            measured.append({"file": file, "card": speed.gpu, "step_seconds": speed.step_seconds})
            if not args.json:
                print(f"{file}: {speed.gpu}, {speed.step_seconds:.4f} s a step, into {args.table}")
    rows = price_rows(config, machines, args.table)
    if args.json:
        about = {"model": config.model.name, "lead_hours": config.lead_hours, "region": config.cloud.regions[0]}
        print_json(about | {"measured": measured, "machines": rows})
    else:
        print("\n".join(price_lines(config, rows)))
    return 0


def _results(args: argparse.Namespace, config: Config, machines: Machines) -> Sequence[Path]:
    from aifs_ensemble.common.gpu import benchmark_problem

    if args.results:
        return args.results
    if args.machines:
        if args.engine:
            raise WorkflowError(
                f"benchmark: {' '.join(args.engine)}: with --machines the rule benchmark_engine decides"
            )
        names = [machines.machine(name).name for name in args.machines]  # all known before one is rented
        return [rent(config, name, args.profile, args.output) for name in names]
    asked = argparse.ArgumentParser(allow_abbrev=False)
    asked.add_argument("--model", default="aifs-ens-size")
    asked.add_argument("--device")
    engine, _ = asked.parse_known_args(args.engine)
    if engine.device is None and (problem := benchmark_problem(engine.model, _TOY)):
        raise ConfigError(f"benchmark: {problem}")
    out = args.output / "here.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    _call([sys.executable, str(ENGINE), "--out", str(out), *args.engine], quiet=args.json)
    return [out]


def rent_command(profile: str, configfile: Path) -> list[str]:
    """Return the Snakemake command that runs the engine benchmark, whatever an earlier run left at the destination."""
    options = ["--profile", profile, "--configfile", str(configfile), "--forcerun", TARGET]
    return [sys.executable, "-m", "snakemake", *options, "--", TARGET]


def rent(config: Config, machine: str, profile: str | None, output: Path) -> Path:
    """Run the engine benchmark on a machine type and return its result, fetched from the destination.

    Snakemake gets this very configuration, as a file beside the result. Raises ConfigError without a bucket, over which
    the result comes.
    """
    if not profile:
        raise WorkflowError("benchmark: --machines needs --profile, expected the profile that rents them")
    import yaml

    from aifs_ensemble.common.config import merge
    from aifs_ensemble.common.files import write_bytes
    from aifs_ensemble.common.storage import open_destination
    from aifs_ensemble.workflow.bucket import bucket_problem

    if problem := bucket_problem(config):
        raise ConfigError(problem)

    store = open_destination(config)
    settings = config.to_dict()
    merge(settings, {"cloud": {"gpu": machine}})
    configfile = output / f"{machine}.yaml"
    write_bytes(configfile, yaml.safe_dump(settings).encode())
    _call(rent_command(profile, configfile))
    path = output / f"{machine}.json"
    store.get_file(f"benchmarks/{machine}.json", path)
    return path


def _call(command: Sequence[str], *, quiet: bool = False) -> None:
    """Run a command; where it is `quiet` its tables go to standard error."""
    status = subprocess.run(command, check=False, stdout=sys.stderr if quiet else None).returncode
    if status:
        raise WorkflowError(f"benchmark: {' '.join(command[:6])} ... ended with exit code {status}")


def price_rows(config: Config, machines: Machines, path: Path = TABLE) -> list[dict[str, Any]]:
    """Return what a member and a forecast day of the configuration's model cost on each GPU machine type, in USD.

    Cheapest first. Raises ConfigError where the configuration's first region has no price of any.
    """
    from aifs_ensemble.planning.costs import member_price
    from aifs_ensemble.planning.throughput import load_throughput

    throughput = load_throughput(machines.gpu_specs, path)
    region = config.cloud.regions[0]
    rows = []
    for name in machines.names("gpu"):
        machine = machines.machine(name)
        if region not in machine.prices:
            continue
        speed = throughput.for_config(config, machine.gpu)
        usual, spot = (member_price(config, machines, machine, speed, spot=kind) for kind in (False, True))
        days = config.lead_hours / 24
        rows.append(
            {
                "machine": name,
                "card": speed.gpu,
                "step_seconds": speed.step_seconds,
                "member_usd": usual,
                "member_spot_usd": spot,
                "day_usd": usual / days,
                "day_spot_usd": spot / days,
                "speed": speed.status,
            }
        )
    if not rows:
        known = sorted({place for kind in machines.names("gpu") for place in machines.machine(kind).prices})
        raise ConfigError(
            f"config: cloud.regions: no price of a GPU machine in {region}, expected one of {', '.join(known)}; "
            "or add prices with cloud.prices"
        )
    return sorted(rows, key=lambda row: round(row["member_usd"], 3))


def price_lines(config: Config, rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return the rows of `price_rows` as a table."""
    from aifs_ensemble.common.text import table, terminal_width

    shown = [
        (
            row["machine"],
            row["card"],
            f"{row['step_seconds']:.3f}",
            f"${row['member_usd']:.3f}",
            f"${row['member_spot_usd']:.3f}",
            f"${row['day_usd']:.4f}",
            f"${row['day_spot_usd']:.4f}",
            row["speed"],
        )
        for row in rows
    ]
    headers = ("machine", "card", "s/step", "a member", "spot", "a day", "spot ", "speed")
    region = config.cloud.regions[0]
    return [
        f"{config.model.name}, {config.lead_hours} h, {region}, machine and disks:",
        *table(shown, headers, width=terminal_width(sys.stdout)),
    ]
