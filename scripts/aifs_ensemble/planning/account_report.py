"""The account of a run as a person reads it: text, and in a folder its tables and figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from aifs_ensemble.common.config import Config
from aifs_ensemble.planning.account import Account, account
from aifs_ensemble.planning.machines import Machines, machines_of
from aifs_ensemble.planning.outstanding import everything
from aifs_ensemble.planning.plan import Plan, plan, plan_case
from aifs_ensemble.planning.runs import BENCHMARKS, read_run
from aifs_ensemble.planning.tables import (
    account_frames,
    account_text,
    against_baseline,
    plan_against_actual,
    write_frames,
)
from aifs_ensemble.planning.throughput import load_throughput


def write_account(
    config: Config,
    folder: Path | None = None,
    *,
    benchmarks: Path = Path(BENCHMARKS),
    formats: Sequence[str] = ("svg", "png"),
    profile: str | None = None,
    spot: bool | None = None,
) -> str:
    """Return the account of a run as text; with a `folder`, write its tables and figures there.

    Parameters
    ----------
    benchmarks : folder of Snakemake's benchmark files
    formats : of the figures
    profile : by default what the configuration is for
    spot : stands for attempts that did not record whether their machine was preemptible
    """
    machines = machines_of(config)
    found = account(config, machines, read_run(config, benchmarks), profile=profile, spot=spot)
    before = _plan_of(config, machines, found, profile)
    throughput = load_throughput(machines.gpu_specs)
    compared = {"plan against actual": plan_against_actual(before, found)}
    recorded = None
    if config.model.name == "aifs-ens-1.0":
        compared["against what users recorded before"] = against_baseline(found, throughput)
        recorded = throughput.baseline.member_seconds * len(config.leads) / throughput.baseline.steps
    text = account_text(found, compared)
    if folder is None:
        return text
    from aifs_ensemble.common.themes import save
    from aifs_ensemble.planning.figures import account_figures

    named = {title.replace(" ", "_"): frame for title, frame in compared.items()}
    files = write_frames({**account_frames(found), **named}, folder)
    files += save(account_figures(found, before, recorded), folder, formats)
    return f"{text}\n\n{len(files)} files in {folder}"


def _plan_of(config: Config, machines: Machines, found: Account, profile: str | None) -> Plan:
    """Return the plan of the members that a run finished, without the run's own corrections of the speeds."""
    finished = {member.manifest.member for member in found.members}
    work = everything(config)
    work = replace(work, members=tuple(member for member in work.members if member.member in finished))
    return plan(plan_case(config, machines, profile=profile, work=work, runs=()))
