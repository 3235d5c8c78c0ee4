"""Score a delivered ensemble against analyses: how good it was, by variable, lead and area."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aifs_ensemble.cli._common import (
    add_config_arguments,
    add_cycle_argument,
    add_json_argument,
    check_output,
    config_from,
    run_each_cycle,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from aifs_ensemble.common.config import Config

GROUP = "after"
EXAMPLE = """\
aifs-ensemble evaluate --profile coiled-gpu
aifs-ensemble evaluate --output scores --config products.evaluation.source=file"""
HELP = "scores of a delivered ensemble against analyses"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    add_config_arguments(parser)
    add_cycle_argument(parser)
    parser.add_argument(
        "--output", type=Path, metavar="FOLDER", help="where to write (default: products/evaluation at the destination)"
    )
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Write table, data set and figures, and print the scores of the first area."""
    config = config_from(args, "there")
    if args.output:
        check_output("--output", args.output)
    several = len(config.units) > 1

    def evaluate(of_cycle: Config, tell: Callable[[Any], None]) -> None:
        folder = args.output / of_cycle.unit if args.output and several else args.output
        _evaluate(of_cycle, folder, tell if args.json else None)

    run_each_cycle(args, config, evaluate)
    return 0


def _evaluate(config: Config, output: Path | None, tell: Callable[[Any], None] | None) -> None:
    """Score a cycle; print the scores, or `tell` them."""
    from aifs_ensemble.products.deliver import deliver_copies
    from aifs_ensemble.products.evaluation.due import evaluation_files
    from aifs_ensemble.products.evaluation.tables import write_evaluation

    key = config.objects.evaluation("")
    at_home = config.scratch.copy(key) if config.cloud_destination else Path(config.destination or "") / key
    folder = output or at_home
    data = write_evaluation(config, folder)
    deliver_copies(config, [folder / name for name in evaluation_files(config)])
    if tell:
        columns = ("crps", "persistence_crps", "rmse", "spread", "bias")
        rows = data[list(columns)].to_dataframe().dropna(how="all").reset_index()
        tell({"files": folder, "attributes": data.attrs, "scores": rows.to_dict("records")})
        return
    _print_scores(data)
    for line in data.attrs["without_analysis"].splitlines():
        print(f"without analysis: {line}")
    print(f"{data.attrs['title']}: {data.attrs['ensemble']}")
    print(f"files are in {folder}")


def _print_scores(data) -> None:  # type: ignore[no-untyped-def]  # xarray is imported late
    area = data["area"].to_numpy()[0]
    columns = ("crps", "persistence_crps", "rmse", "spread", "bias")
    print(f"{area:<12}{'lead h':>8}" + "".join(f"{name.replace('_', ' '):>18}" for name in columns))
    for name in data["variable"].to_numpy():
        for lead in data["lead"].to_numpy():
            one = data.sel(variable=name, area=area, lead=lead)
            values = [one[column].item() for column in columns]
            if values[0] == values[0]:  # not NaN
                print(f"{name:<12}{lead:>8}" + "".join(f"{value:>18.4g}" for value in values))
