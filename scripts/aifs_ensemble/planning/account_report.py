"""The account of a run as a person reads it: text, and in a folder its tables and figures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from aifs_ensemble.common.config import Config
from aifs_ensemble.common.names import benchmarks_folder
from aifs_ensemble.planning.account import Account, account
from aifs_ensemble.planning.machines import Machines, machines_of
from aifs_ensemble.planning.outstanding import everything
from aifs_ensemble.planning.plan import Plan, plan, plan_case
from aifs_ensemble.planning.runs import read_run
from aifs_ensemble.planning.tables import (
    account_frames,
    account_text,
    against_baseline,
    plan_against_actual,
    write_frames,
)
from aifs_ensemble.planning.throughput import load_throughput

if TYPE_CHECKING:
    import pandas as pd


class ReadAccount(NamedTuple):
    """The account, the plan of the same members, tables that compare it, and seconds recorded by users."""

    found: Account
    plan: Plan
    compared: dict[str, pd.DataFrame]
    recorded_seconds: float | None


def write_account(
    config: Config,
    folder: Path | None = None,
    *,
    benchmarks: Path | None = None,
    formats: Sequence[str] = ("svg", "png"),
    profile: str | None = None,
    spot: bool | None = None,
) -> str:
    """Return the account of a run as text; with a `folder`, write its tables and figures there.

    Parameters
    ----------
    benchmarks : folder of Snakemake's benchmark files, by default where a run from here leaves them
    formats : of the figures
    profile : by default what the configuration is for
    spot : stands for attempts that did not record whether their machine was preemptible
    """
    found, before, compared, recorded = read_account(config, benchmarks=benchmarks, profile=profile, spot=spot)
    text = account_text(found, compared)
    if folder is None:
        return text
    from aifs_ensemble.common.themes import save
    from aifs_ensemble.planning.figures import account_figures

    named = {title.replace(" ", "_"): frame for title, frame in compared.items()}
    files = write_frames({**account_frames(found), **named}, folder)
    files += save(account_figures(found, before, recorded), folder, formats)
    return f"{text}\n\n{len(files)} files in {folder}"


def account_tables(
    config: Config, *, benchmarks: Path | None = None, profile: str | None = None, spot: bool | None = None
) -> dict[str, list[dict[str, Any]]]:
    """Return every table of the account by name, as rows of names and values; arguments as of `write_account`."""
    found, _, compared, _ = read_account(config, benchmarks=benchmarks, profile=profile, spot=spot)
    frames = {**account_frames(found), **{title.replace(" ", "_"): frame for title, frame in compared.items()}}
    # through JSON, which has no NaN: what is not known is null
    return {name: json.loads(frame.to_json(orient="records", date_format="iso")) for name, frame in frames.items()}


def read_account(
    config: Config, *, benchmarks: Path | None = None, profile: str | None = None, spot: bool | None = None
) -> ReadAccount:
    """Return the account of a run beside what it compares with; arguments as of `write_account`."""
    machines, benchmarks = machines_of(config), benchmarks or Path(benchmarks_folder(config.model_folder))
    found = account(config, machines, read_run(config, benchmarks), profile=profile, spot=spot)
    before = _plan_of(config, machines, found, profile)
    throughput = load_throughput(machines.gpu_specs)
    compared = {"plan against actual": plan_against_actual(before, found)}
    recorded: float | None = None
    if config.model.name == "aifs-ens-1.0":
        compared["against what users recorded before"] = against_baseline(found, throughput)
        recorded = throughput.baseline.member_seconds * len(config.steps) / throughput.baseline.steps
    return ReadAccount(found, before, compared, recorded)


def _plan_of(config: Config, machines: Machines, found: Account, profile: str | None) -> Plan:
    """Return the plan of the members that a run finished, without the run's own corrections of the speeds."""
    finished = {member.manifest.member for member in found.members}
    work = everything(config)
    work = replace(work, members=tuple(member for member in work.members if member.member in finished))
    return plan(plan_case(config, machines, profile=profile, work=work, runs=()))
