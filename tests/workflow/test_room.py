"""Room on scratch: the plan, the start of a run and the job ask for the same bytes."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aifs_ensemble.common import environment
from aifs_ensemble.common.config import Config
from aifs_ensemble.common.errors import ConfigError, PlanError
from aifs_ensemble.delivery import scratch
from aifs_ensemble.delivery.scratch import FileSystem
from aifs_ensemble.planning import plan as planning
from aifs_ensemble.planning.machines import load_machines
from aifs_ensemble.workflow.members_here import MembersHere
from aifs_ensemble.workflow.preflight import check_room
from delivery.members import make_config
from snakemake.resources import Resources

GROUP = 7


@pytest.fixture(autouse=True)
def large_disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(scratch, "file_system", lambda *_: FileSystem("/", "ext4", 10**14, 10**14))
    monkeypatch.delenv(environment.MEMBERS_HERE, raising=False)
    yield


def config_of(folder: Path, *, streaming: bool, keep: bool, threads: int, members: str, budget: float = 1) -> Config:
    """The real model for 33 days, with a budget of `budget` MB, so that whoever is asked says what is needed."""
    return make_config(
        folder / "scratch",
        str(folder / "out"),
        model="aifs-ens-1.0",
        members=members,
        lead_hours=792,
        keep_scratch=keep,
        forecast={"encoders": 4, "gpu_mem_mb": 12000, "device": "cpu"},
        delivery={"streaming": streaming, "threads": threads, "scratch_budget_mb": budget},
    )


def snakemake_on(machine: Any, config: Config, targets: int) -> SimpleNamespace:
    """What a rented machine's Snakemake knows when it starts the first of its jobs."""
    members = [SimpleNamespace(rulename="forecast_member", wildcards={}) for _ in range(targets)]
    others = [SimpleNamespace(rulename="initial_member", wildcards={})]
    return SimpleNamespace(
        remote_exec=True,
        cores=machine.vcpus,
        global_resources=Resources.from_mapping({"gpu_mem_mb": machine.gpu.memory_mb}),
        dag_settings=SimpleNamespace(target_jobs=members + others),
    )


def planned(config: Config, profile: str) -> tuple[float, int]:
    """GB that a plan says are needed, and members at once."""
    found = planning.plan(planning.plan_case(config, load_machines(), profile=profile, group=GROUP, runs=[]))
    said = re.match(r"scratch peak ([\d,.]+) GB, delivery\.scratch_budget_mb leaves", found.chosen.problem or "")
    assert said, found.chosen.problem
    return float(said[1].replace(",", "")), found.chosen.at_once


def refused(config: Config, here: MembersHere, *, beside_others: bool) -> float:
    """GB that the check of a start or a job says are needed."""
    with pytest.raises(PlanError, match=r"scratch_budget_mb: 1, expected at least \d+$") as caught:
        check_room(config, here, beside_others=beside_others)
    return int(str(caught.value).rpartition(" ")[2]) / 1000


TABLE = list(itertools.product((True, False), (True, False), (8, 32), ("1-3", "1-7", "1-50")))


@pytest.mark.parametrize(("streaming", "keep", "threads", "members"), TABLE)
def test_plan_start_and_job_say_the_same(
    tmp_path: Path, streaming: bool, keep: bool, threads: int, members: str
) -> None:
    config = config_of(tmp_path, streaming=streaming, keep=keep, threads=threads, members=members)
    gigabytes, at_once = planned(config, "local")
    start = refused(config, MembersHere(len(config.members), at_once), beside_others=False)
    assert start == pytest.approx(gigabytes, abs=0.06)
    if not streaming:
        return  # such a job has nothing to wait for room with: it takes what the start found
    machine = load_machines().for_class("gpu", config)
    gigabytes, at_once = planned(config, "coiled-gpu")
    MembersHere.of(snakemake_on(machine, config, min(GROUP, len(config.members))), config).tell_jobs()
    here = MembersHere.from_environment()
    assert here == MembersHere(min(GROUP, len(config.members)), at_once)
    assert refused(config, here, beside_others=True) == pytest.approx(gigabytes, abs=0.06)


def test_members_that_share_a_machine_ask_for_the_room_of_all(tmp_path: Path) -> None:
    config = config_of(tmp_path, streaming=True, keep=False, threads=8, members="1-50")
    one, three = (refused(config, MembersHere(7, at_once), beside_others=True) for at_once in (1, 3))
    assert three == pytest.approx(3 * one, rel=1e-3)


def test_what_the_others_hold_counts_for_them_and_not_for_the_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(tmp_path, streaming=True, keep=False, threads=8, members="1-50", budget=10**6)
    needed = 1e9 * refused(
        config_of(tmp_path, streaming=True, keep=False, threads=8, members="1-50"),
        MembersHere(7, 3),
        beside_others=True,
    )
    monkeypatch.setattr("aifs_ensemble.workflow.preflight.room_held", lambda _config: 10**12)
    for share, fits in ((1.01, True), (0.99, False)):
        disk = FileSystem("/", "ext4", 0, int(share * needed / 3))
        monkeypatch.setattr(scratch, "file_system", lambda *_, disk=disk: disk)
        if fits:
            check_room(config, MembersHere(7, 3), beside_others=True)
        else:
            with pytest.raises(PlanError, match="to give on /"):
                check_room(config, MembersHere(7, 3), beside_others=True)


def test_local_copies_that_stay_are_those_of_the_machine_and_not_of_the_ensemble(tmp_path: Path) -> None:
    """A group of seven fits a disk of 375 GB that fifty members would not fit."""
    config = config_of(tmp_path, streaming=True, keep=True, threads=8, members="1-50")
    assert refused(config, MembersHere(7, 3), beside_others=True) < 0.2 * refused(
        config, MembersHere(50, 3), beside_others=False
    )


def test_a_budget_of_mb_is_of_a_million_bytes_in_plan_and_job(tmp_path: Path) -> None:
    """Of the same 2.4 GB budget the job had 2.5 GB."""
    make = {"streaming": True, "keep": False, "threads": 8, "members": "1"}
    needed = refused(config_of(tmp_path, **make), MembersHere(), beside_others=True)
    enough, short = (config_of(tmp_path, **make, budget=1000 * needed + more) for more in (1, -1))
    check_room(enough, MembersHere(), beside_others=True)
    with pytest.raises(PlanError, match="scratch_budget_mb"):
        check_room(short, MembersHere(), beside_others=True)
    assert scratch.ScratchBudget.of(enough).limit == int((1000 * needed + 1) * 1e6)


@pytest.mark.parametrize("text", ["", "7", "7 x", "1 2 3"])
def test_a_variable_of_something_else_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv(environment.MEMBERS_HERE, text)
    with pytest.raises(ConfigError, match=f"{environment.MEMBERS_HERE}: .*expected two numbers"):
        MembersHere.from_environment()
