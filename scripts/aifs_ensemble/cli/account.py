"""What a run took and cost, from its manifests, metrics and Snakemake's benchmarks; or from users' old logs."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from math import isnan
from pathlib import Path

from aifs_ensemble.cli._common import add_config_arguments, check_output, config_from, machines_of
from aifs_ensemble.common.config import Config
from aifs_ensemble.common.text import money, size, table
from aifs_ensemble.planning.machines import Machines, load_machines
from aifs_ensemble.planning.outstanding import everything
from aifs_ensemble.planning.plan import plan
from aifs_ensemble.planning.plan_text import duration
from aifs_ensemble.planning.throughput import load_throughput

HELP = "time and cost of a run, after it"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_arguments(parser)
    parser.add_argument("--fetch", action="store_true", help="first copy manifests and metrics from the destination")
    parser.add_argument("--spot", action=argparse.BooleanOptionalAction, default=None, help="over cloud.spot")
    parser.add_argument("--benchmarks", type=Path, default=Path("logs/benchmarks"), help="Snakemake's benchmark files")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="write tables and figures there")
    parser.add_argument("--formats", nargs="+", choices=("svg", "png"), default=("svg", "png"), help="of the figures")
    parser.add_argument("--old-log", type=Path, nargs="+", metavar="FILE", help="account for past runs' logs instead")
    parser.add_argument("--baseline", action="store_true", help="check the recorded baseline's arithmetic instead")


def run(args: argparse.Namespace) -> int:
    if args.baseline:
        return _baseline(load_machines())
    config = config_from(args)
    prices = config["cloud"]["prices"]
    machines = load_machines(prices=Path(prices) if prices else None)
    if args.old_log:
        return _old_logs(args.old_log, machines, config["cloud"]["regions"][0])
    if args.output:
        check_output("--output", args.output)
    text = _account(
        config, machines, args.benchmarks, args.output, args.formats,
        profile=machines_of(args), spot=args.spot, fetch=args.fetch,
    )  # fmt: skip
    print(text)
    return 0


def write_account(config: Config, folder: Path, formats: Sequence[str] = ("svg", "png")) -> str:
    """Write a run's tables and figures to a folder and return its account as text."""
    prices = config["cloud"]["prices"]
    machines = load_machines(prices=Path(prices) if prices else None)
    return _account(config, machines, Path("logs/benchmarks"), folder, formats)


def _account(
    config: Config,
    machines: Machines,
    benchmarks: Path,
    output: Path | None,
    formats: Sequence[str],
    *,
    profile: str | None = None,
    spot: bool | None = None,
    fetch: bool = False,
) -> str:
    from aifs_ensemble.planning.account import account
    from aifs_ensemble.planning.baseline import against_baseline
    from aifs_ensemble.planning.runs import fetch_run, read_run
    from aifs_ensemble.planning.tables import account_frames, account_text, plan_against_actual, write_frames

    said = [f"fetched {fetch_run(config)} manifests from {config['destination']}"] if fetch else []
    found = account(config, machines, read_run(config, benchmarks), profile=profile, spot=spot)
    throughput = load_throughput(machines.gpu_specs)
    finished = {member.manifest.member for member in found.members}
    work = everything(config)
    work = replace(work, members=tuple(member for member in work.members if member.member in finished))
    before = plan(config, machines, profile=profile, work=work, runs=(), alternatives=False)
    compared = {"plan against actual": plan_against_actual(before, found)}
    if config.model.name == "aifs-ens-1.0":
        compared["against what users recorded before"] = against_baseline(found, throughput)
    said.append(account_text(found, compared))
    if output:
        from aifs_ensemble.common.themes import save
        from aifs_ensemble.planning.figures import account_figures

        share = len(config.leads) / throughput.baseline.steps
        recorded = throughput.baseline.member_seconds * share if len(compared) > 1 else None
        named = {title.replace(" ", "_"): frame for title, frame in compared.items()}
        files = write_frames({**account_frames(found), **named}, output)
        files += save(account_figures(found, before, recorded), output, formats)
        said.append(f"\n{len(files)} files in {output}")
    return "\n".join(said)


def _baseline(machines: Machines) -> int:
    from aifs_ensemble.planning.baseline import check_baseline

    rows = [
        ("agrees" if check.agrees else "DOES NOT", check.recorded, check.computed)
        for check in check_baseline(load_throughput(machines.gpu_specs).baseline, machines)
    ]
    print("\n".join(table(rows, ("", "recorded", "computed"))))
    return 0


def _old_logs(paths: list[Path], machines: Machines, region: str) -> int:
    from aifs_ensemble.planning.old_logs import read_old_log

    baseline = load_throughput(machines.gpu_specs).baseline
    for path in paths:
        found = read_old_log(path, baseline)
        done = [member for member in found.members if not member.failed]
        weight = sum(member.bytes for member in done if not isnan(member.bytes))
        usd = found.usd(machines, baseline.machine, region)
        print(
            f"{path}: {len(done)} members finished, {len(found.members) - len(done)} failed, "
            f"{duration(found.seconds / 3600)}, {size(weight)}, {money(usd)} on {baseline.machine} on demand"
            + (f", {money(usd / len(done))} a member" if done else "")
        )
        for problem in found.problems:
            print(f"  does not add up: {problem}")
    return 0
