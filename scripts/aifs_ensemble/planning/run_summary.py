"""What a run took and cost, in a few lines and a table of members, for the page of a cycle."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from aifs_ensemble.common.config import Config
from aifs_ensemble.common.errors import WorkflowError
from aifs_ensemble.common.names import benchmarks_folder
from aifs_ensemble.common.text import duration, money, size
from aifs_ensemble.planning.account import Account, account
from aifs_ensemble.planning.machines import machines_of
from aifs_ensemble.planning.runs import fetch_run, read_run
from aifs_ensemble.planning.tables import member_frame, totals_frame


class RunSummary(NamedTuple):
    """Figures of a run by their names, and a table of its members, header first."""

    figures: list[tuple[str, str]]
    members: list[list[str]]


def run_summary(config: Config) -> RunSummary:
    """Return what is known of a run: of this machine's records, or of those at the destination; empty without any."""
    try:
        if not any(config.scratch.manifest(member).exists() for member in config.members):
            fetch_run(config)
        found = account(config, machines_of(config), read_run(config, Path(benchmarks_folder(config.model_folder))))
    except WorkflowError:
        return RunSummary([], [])
    rows = [["member", "leads", "fields", "size", "seconds", "seconds a step"]]
    for _, row in member_frame(found.run.manifests).iterrows():
        member, leads, fields = int(row["member"]), int(row["leads"]), f"{row['fields']:,.0f}"
        step = f"{row['step_seconds']:.3f}"
        rows.append([str(member), str(leads), fields, size(row["bytes"]), f"{row['seconds']:.1f}", step])
    return RunSummary([("Members", str(len(found.members))), *figures_of(found)], rows)


def figures_of(found: Account) -> list[tuple[str, str]]:
    """Return what a run took and cost, by name."""
    total = totals_frame(found).iloc[0]
    kinds = sorted({stay.rates.label for stay in found.stays})
    return [
        ("From the first start to the last end", duration(3600 * found.hours)),
        ("Machines", f"{', '.join(kinds)}, {duration(3600 * total['machine_hours'])} together"),
        ("Forecast computing", f"{total['computing_percent']:.0f} % of that time"),
        ("Fields", f"{total['fields']:,.0f}, {size(total['bytes'])}"),
        (
            "Cost",
            f"{money(found.usd)}, {money(total['usd_per_member'])} a member" if found.usd else "nothing was rented",
        ),
    ]
