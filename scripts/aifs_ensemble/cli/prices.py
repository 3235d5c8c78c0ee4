"""Prices of machines from a public catalogue, as a file that cloud.prices names.

Reads SkyPilot's vms.csv of Google Cloud or Google's list of SKUs as JSON, from a file or an address, and shows what
they change. With --output the prices are written, with their date and source; nothing else is changed.
"""

from __future__ import annotations

import argparse
import datetime as dt
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from aifs_ensemble.cli._common import add_config_arguments, add_json_argument, check_output, config_from, print_json
from aifs_ensemble.common.errors import ConfigError
from aifs_ensemble.common.text import table, terminal_width

if TYPE_CHECKING:
    from aifs_ensemble.planning.machines import Machines
    from aifs_ensemble.planning.price_catalogue import Catalogue

GROUP = "machines"
EXAMPLE = """\
aifs-ensemble prices
aifs-ensemble prices --update vms.csv --date 2026-11-20 --output my-prices.yaml"""
HELP = "prices of machines from a public catalogue"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add_config_arguments(parser)
    parser.add_argument(
        "--update", metavar="FILE|URL", help="a catalogue: SkyPilot's gcp/vms.csv, or Google's SKUs as JSON"
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="write them here; other prices in it stay")
    parser.add_argument("--date", metavar="YYYY-MM-DD", help="of the catalogue, where it bears none")
    parser.add_argument(
        "--regions", nargs="+", metavar="REGION", help="by default those of cloud.regions and the table"
    )
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Show the prices in use, or those of a catalogue beside them."""
    from aifs_ensemble.planning.machines import machines_of
    from aifs_ensemble.planning.price_catalogue import read_catalogue

    config = config_from(args, "begun")
    machines = machines_of(config)
    if not args.update:
        if args.output or args.date:
            raise ConfigError("--output and --date: of a catalogue, which --update names")
        rows = [
            (name, region, f"{price.on_demand:.4f}", f"{price.spot:.4f}", machines.lists[price.list].label(_today()))
            for name, machine in machines.types.items()
            for region, price in machine.prices.items()
        ]
        header = ("machine", "region", "USD an hour", "spot", "list")
        if args.json:
            print_json([dict(zip(header, row, strict=True)) for row in rows])
        else:
            print("\n".join(table(rows, header, width=terminal_width(sys.stdout))))
        return 0
    if args.output:
        check_output("--output", args.output, file=True)
    known = {region for machine in machines.types.values() for region in machine.prices}
    found = read_catalogue(args.update, machines, args.regions or known | set(config.cloud.regions), _date(args.date))
    name = found.kind.partition("'")[0].lower()
    content = found.as_table(name)
    if args.json:
        print_json(content)
    else:
        print("\n".join(_compared(found, machines)))
    if args.output:
        _write(args.output, content)
        if not args.json:
            print(f"written: {args.output}; name it in cloud.prices")
    return 0


def _today() -> dt.date:
    return dt.datetime.now(dt.UTC).date()


def _date(text: str | None) -> dt.date | None:
    try:
        return dt.date.fromisoformat(text) if text else None
    except ValueError:
        raise ConfigError(f"--date: {text!r}, expected a date such as 2026-11-20") from None


def _compared(found: Catalogue, machines: Machines) -> list[str]:
    """Return the prices found beside those in use."""
    rows = []
    for one in found.prices:
        before = machines.types[one.machine].prices.get(one.region)
        change = f"{100 * (one.on_demand / before.on_demand - 1):+.1f} %" if before and before.on_demand else "new"
        old = f"{before.on_demand:.4f}" if before else ""
        rows.append((one.machine, one.region, old, f"{one.on_demand:.4f}", change, f"{one.spot:.4f}"))
    date = found.date.isoformat() if found.date else "no date: --date gives one"
    headers = ("machine", "region", "in use", "found", "change", "spot")
    lines = table(rows, headers, width=terminal_width(sys.stdout))
    return [*lines, f"{found.kind}, {date}"]


def _write(path: Path, content: dict[str, object]) -> None:
    """Write prices over those of a file, which must make a sound table with ours before it is exchanged."""
    import yaml

    from aifs_ensemble.common.config import merge
    from aifs_ensemble.common.files import write_bytes
    from aifs_ensemble.common.yaml_tables import read_table
    from aifs_ensemble.planning.machines import load_machines

    merged = dict(read_table(path, "a table of prices")) if path.exists() else {}
    merge(merged, content)
    trial = path.with_name(f".{path.name}.trial")
    try:
        write_bytes(trial, yaml.safe_dump(merged, sort_keys=False).encode())
        load_machines(prices=trial)
        trial.replace(path)
    finally:
        trial.unlink(missing_ok=True)
