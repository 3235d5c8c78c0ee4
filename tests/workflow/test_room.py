"""Room on scratch: the plan, the start of a run and the job ask for the same bytes."""

from __future__ import annotations

import itertools
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aifs_ensemble.common import environment
from aifs_ensemble.common.config import Config, read_files
from aifs_ensemble.common.errors import ConfigError, PlanError
from aifs_ensemble.common.text import size
from aifs_ensemble.delivery import scratch
from aifs_ensemble.delivery.room import ToCome
from aifs_ensemble.delivery.scratch import FileSystem, MemberSizes
from aifs_ensemble.planning import plan as planning
from aifs_ensemble.planning.machines import load_machines
from aifs_ensemble.workflow import preflight
from aifs_ensemble.workflow.members_here import MembersHere
from aifs_ensemble.workflow.preflight import check_destination_room, check_room
from delivery.members import make_config, publish_lead
from snakemake.resources import Resources

from workflow.project import Project

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


def snakemake_on(machine: Any, targets: int, **wildcards: str) -> SimpleNamespace:
    """What a rented machine's Snakemake knows when it starts the first of its jobs."""
    members = [SimpleNamespace(rulename="forecast_member", wildcards_dict=wildcards) for _ in range(targets)]
    others = [SimpleNamespace(rulename="initial_member", wildcards_dict={})]
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
        check_room(config, here, config if beside_others else None)
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
    MembersHere.of(snakemake_on(machine, min(GROUP, len(config.members))), config).tell_jobs()
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
            check_room(config, MembersHere(7, 3), config)
        else:
            with pytest.raises(PlanError, match="to give on /"):
                check_room(config, MembersHere(7, 3), config)


def test_local_copies_that_stay_are_those_of_the_machine_and_not_of_the_ensemble(tmp_path: Path) -> None:
    """A group of seven fits a disk of 375 GB that fifty members would not fit."""
    config = config_of(tmp_path, streaming=True, keep=True, threads=8, members="1-50")
    assert refused(config, MembersHere(7, 3), beside_others=True) < 0.2 * refused(
        config, MembersHere(50, 3), beside_others=False
    )


def two_models(
    folder: Path, *, streaming: bool, keep: bool = False, budget: float | None = None, **over: Any
) -> Config:
    return make_config(
        folder / "scratch", str(folder / "out"), model=["demo", "demo-v2"], members="1-3", lead_hours=792,
        keep_scratch=keep, forecast={"encoders": 1, "gpu_mem_mb": 1000, "device": "cpu"},
        delivery={"streaming": streaming, "threads": 4, "scratch_budget_mb": budget}, **over,
    )  # fmt: skip


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    """MB: leads of 10 and 20, restart states of 1 and 2, initial states of 2 and 4."""
    of = {"demo": MemberSizes(10e6, 1e6, 2e6), "demo-v2": MemberSizes(20e6, 2e6, 4e6)}
    monkeypatch.setattr(preflight, "member_sizes", lambda config: of[config.model.name])


HERE = MembersHere(6, 2, ("demo", "demo-v2"))


@pytest.mark.usefixtures("sizes")
@pytest.mark.parametrize(
    ("streaming", "keep", "at_once", "megabytes"),
    [
        # eight leads, three restart states and an initial state of each of the two that run, the larger ones
        (True, False, 2, 2 * (8 * 20 + 3 * 2 + 4)),
        # all three of the larger, and one of the other
        (True, False, 4, 3 * (8 * 20 + 3 * 2 + 4) + 1 * (8 * 10 + 3 * 1 + 2)),
        # 132 leads of every member, and the states of those that run
        (True, True, 2, 3 * 132 * 20 + 3 * 132 * 10 + 2 * (3 * 2 + 4)),
        # two that run and two that wait for their delivery: three of the larger and one of the other
        (False, False, 2, 3 * 132 * 20 + 132 * 10 + 2 * (3 * 2 + 4)),
    ],
    ids=["streaming", "more at once", "kept", "delivered afterwards"],
)
def test_two_models_hold_together_what_runs_at_once(
    tmp_path: Path, streaming: bool, keep: bool, at_once: int, megabytes: float
) -> None:
    """Three members of each model: as many run at once as the machine takes, not as many of each."""
    config = two_models(tmp_path, streaming=streaming, keep=keep, budget=1)
    here = MembersHere(6, at_once, config.models)
    assert refused(config, here, beside_others=False) == megabytes / 1000


@pytest.mark.usefixtures("sizes")
def test_a_job_asks_for_its_own_room_and_for_that_of_any_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the 170 MB beside it 100 are there, of the other model: 70 are missing, and its own 85."""
    config = two_models(tmp_path, streaming=True)
    first, second = config.of_each_cycle
    held = {first.unit: 0, second.unit: 100 * 10**6}
    monkeypatch.setattr(preflight, "room_held", lambda one: held[one.unit])
    for own, needed in ((first, 85 + 70), (second, 170 + 70)):
        for more in (1, -1):
            disk = FileSystem("/", "ext4", 0, needed * 10**6 + more)
            monkeypatch.setattr(scratch, "file_system", lambda *_, disk=disk: disk)
            if more > 0:
                check_room(config, HERE, own)
            else:
                with pytest.raises(PlanError, match="to give on /"):
                    check_room(config, HERE, own)


@pytest.mark.usefixtures("sizes")
@pytest.mark.parametrize("own", ["demo/20250819_0000", "demo-v2/20250819_0000"])
def test_copies_that_stay_of_another_unit_are_there_already(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: str
) -> None:
    """The last member of a run with local copies finds all that is done before it, whatever the model or the cycle."""
    config = two_models(tmp_path, streaming=True, keep=True)
    whole = 3 * 132 * 20 + 3 * 132 * 10 + 2 * (3 * 2 + 4)
    monkeypatch.setattr(preflight, "room_held", lambda _one: whole / 2 * 10**6)
    monkeypatch.setattr(scratch, "file_system", lambda *_: FileSystem("/", "ext4", 0, 0))
    check_room(config, HERE, config.of_unit(own))


def test_a_group_on_a_rented_machine_is_of_its_own_model(tmp_path: Path) -> None:
    """As many members run at once as of its model fit the card, and room is asked for no other."""
    by_model = {"demo": {"gpu_mem_mb": 20000}, "demo-v2": {"gpu_mem_mb": 40000}}
    config = two_models(tmp_path, streaming=True, by_model=by_model)
    machine = SimpleNamespace(vcpus=12, gpu=SimpleNamespace(memory_mb=80000))
    for model, at_once in (("demo", 4), ("demo-v2", 2)):
        MembersHere.of(snakemake_on(machine, GROUP, model=model), config).tell_jobs()
        assert MembersHere.from_environment() == MembersHere(GROUP, at_once, (model,))


def test_models_share_a_budget_and_what_is_taken_of_it(tmp_path: Path) -> None:
    config = two_models(tmp_path, streaming=True, budget=1)
    first, second = map(scratch.ScratchBudget.of, config.of_each_cycle)
    (tmp_path / "scratch/demo").mkdir(parents=True)
    (tmp_path / "scratch/demo/lead").write_bytes(bytes(900_000))
    assert [budget.short(150_000) for budget in (first, second)] == [50_000] * 2


def test_a_budget_of_mb_is_of_a_million_bytes_in_plan_and_job(tmp_path: Path) -> None:
    """Of the same 2.4 GB budget the job had 2.5 GB."""
    make = {"streaming": True, "keep": False, "threads": 8, "members": "1"}
    needed = refused(config_of(tmp_path, **make), MembersHere(), beside_others=True)
    enough, short = (config_of(tmp_path, **make, budget=1000 * needed + more) for more in (1, -1))
    check_room(enough, MembersHere(), enough)
    with pytest.raises(PlanError, match="scratch_budget_mb"):
        check_room(short, MembersHere(), short)
    assert scratch.ScratchBudget.of(enough).limit == int((1000 * needed + 1) * 1e6)


@pytest.mark.parametrize("text", ["", "7", "7 x", "1 2 3", "1 2 demo 3"])
def test_a_variable_of_something_else_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv(environment.MEMBERS_HERE, text)
    with pytest.raises(ConfigError, match=f"{environment.MEMBERS_HERE}: .*expected two numbers"):
        MembersHere.from_environment()


def folder_of(
    folder: Path, monkeypatch: pytest.MonkeyPatch, *, apart: bool, layout: str = "leads", **over: Any
) -> Config:
    """Two members of 24 hours, with a scratch on the destination's file system or `apart` from it.

    A lead takes 10 MB, 4 of them in its coarse file; a restart state takes 1 MB, an initial state 2.
    """
    monkeypatch.setattr(preflight, "member_sizes", lambda _: MemberSizes(10e6, 1e6, 2e6, 4e6))
    monkeypatch.setattr(scratch, "same_file_system", lambda *_: not apart)
    return make_config(
        folder / "scratch", str(folder / "out"), keep_scratch=True,
        forecast={"encoders": 1, "gpu_mem_mb": 1000, "device": "cpu"},
        delivery={"streaming": False, "layout": layout, "block_hours": 12}, **over,
    )  # fmt: skip


def needs(monkeypatch: pytest.MonkeyPatch, check: Any, megabytes: float) -> str:
    """With a byte less than `megabytes` the check refuses, with as many it does not; return what is said then."""
    for free in (megabytes * 1e6 - 1, megabytes * 1e6):
        disk = FileSystem("/disk", "ext4", 0, int(free))
        monkeypatch.setattr(scratch, "file_system", lambda *_, disk=disk: disk)
        if free < megabytes * 1e6:
            with pytest.raises(PlanError, match=r"^config: destination: "):
                check()
    said: str = check()
    return said


@pytest.mark.parametrize(
    ("layout", "there", "megabytes"),
    [
        ("leads", (), 2 * 4 * 10),
        # of one member two leads are there
        ("leads", ("member001_h006.grib2", "member001_h012.grib2"), 2 * 10 + 4 * 10),
        # blocks hold no coarse fields
        ("both", (), 2 * 4 * 10 + 2 * 4 * 6),
        ("both", ("member002_h000-012.grib",), 2 * 4 * 10 + (4 + 2) * 6),
        # what stays of both members, and one member's leads until its blocks are there
        ("blocks", (), 2 * 4 * (4 + 6) + 4 * 6),
    ],
    ids=["leads", "leads there", "both", "a block there", "blocks"],
)
def test_a_destination_needs_room_for_what_is_still_to_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str, there: tuple[str, ...], megabytes: float
) -> None:
    config = folder_of(tmp_path, monkeypatch, apart=True, layout=layout)
    listed = {config.objects.published(f"aifs_ens_forecast_{config.cycle}_{name}") for name in there}
    work = {config.unit: ToCome(config.members, config.members, listed)}
    said = needs(monkeypatch, lambda: check_destination_room(config, work, 1), megabytes)
    assert said == f"{tmp_path / 'out'}: {megabytes} MB to give, {megabytes} MB of leads to come"


def test_scratch_on_the_same_file_system_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Delivery copies: 80 MB of leads to come, and on scratch 80 of leads, 3 of restart states and 2 of a state."""
    config = folder_of(tmp_path, monkeypatch, apart=False)
    work = {config.unit: ToCome(config.members, config.members)}
    needs(monkeypatch, lambda: check_destination_room(config, work, 1), 80 + 85)
    publish_lead(config, 1, 6, size=3_000_000)
    publish_lead(config, 3, 6, size=5_000_000)  # of a member that is not to be made
    held = scratch.room_held(config, [1, 2]) / 1e6
    assert 3 < held < 3.01
    needs(monkeypatch, lambda: check_destination_room(config, work, 1), 80 + 85 - held)
    # one is on scratch: 40 MB of leads of the other, 3 of restart states and 2 of a state
    one_made = {config.unit: ToCome(config.members, [2])}
    needs(monkeypatch, lambda: check_destination_room(config, one_made, 1), 80 + 45)
    needs(monkeypatch, lambda: check_destination_room(config, {config.unit: ToCome(config.members)}, 1), 80)
    disk = FileSystem("/disk", "ext4", 100_000_000, 30_000_000)
    monkeypatch.setattr(scratch, "file_system", lambda *_: disk)
    with pytest.raises(PlanError) as caught:
        check_destination_room(config, work, 1)
    assert str(caught.value) == (
        f"config: destination: {tmp_path / 'out'} has 25 MB to give on /disk (ext4), expected 162 MB: "
        "80 MB of leads to come, and 82 MB on scratch, which is there too"
    )


def test_nothing_to_come_needs_no_room_and_a_bucket_is_not_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = folder_of(tmp_path, monkeypatch, apart=True)
    for disk in (FileSystem("/", "ext4", 10**9, 0), FileSystem("/", "fuse.silent", 0, 0)):
        monkeypatch.setattr(scratch, "file_system", lambda *_, disk=disk: disk)
        check_destination_room(config, {}, 1)
    # a file system that says nothing of its room
    check_destination_room(config, {config.unit: ToCome(config.members)}, 1)
    config = make_config(tmp_path / "scratch", "gs://bucket")
    assert check_destination_room(config, {config.unit: ToCome(config.members)}, 1) is None


def test_two_models_need_room_for_the_leads_of_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"demo": MemberSizes(10e6, 1e6, 2e6), "demo-v2": MemberSizes(20e6, 2e6, 4e6)}
    monkeypatch.setattr(preflight, "member_sizes", lambda one: sizes[one.model.name])
    monkeypatch.setattr(scratch, "same_file_system", lambda *_: False)
    config = two_models(tmp_path, streaming=True)
    work = dict.fromkeys(config.units, ToCome((1, 2, 3)))
    needs(monkeypatch, lambda: check_destination_room(config, work, 1), 3 * 132 * 10 + 3 * 132 * 20)


@pytest.mark.workflow
def test_doctor_and_run_refuse_a_small_destination(tmp_path: Path) -> None:
    """A file system of 6 MB, in memory, for 50 members of 24 leads of the demonstration: nothing is started."""
    mount = "mkdir -p results && mount -t tmpfs -o size=6m none results"
    if shutil.which("unshare") is None or _in(tmp_path, mount).returncode:
        pytest.skip("no file system can be mounted here")
    project = Project.copy(tmp_path / "project", members="1-50", lead_hours=144)
    config = Config(read_files(project.folder / "config" / "config.yaml"))
    leads = 50 * 24 * preflight.member_sizes(config).lead
    assert leads > 6e6
    python = f"PYTHONPATH=scripts {sys.executable} -m"
    for command in ("aifs_ensemble doctor --role cpu --configfile config/config.yaml", "snakemake --profile local"):
        done = _in(project.folder, f"{mount} && {python} {command}; echo code $?; df results >&2")
        lines = [line for line in (done.stdout + done.stderr).splitlines() if "config: destination: " in line]
        assert "code 1" in done.stdout, done.stdout + done.stderr
        assert len(lines) == 1, done.stdout + done.stderr
        assert re.search(
            rf"config: destination: results has 5.98 MB to give on \S+ \(tmpfs\), expected {re.escape(size(leads))}: ",
            lines[0],
        ), lines
    assert not (project.folder / "scratch").exists() or not list(project.folder.glob("scratch/*/initial/*"))


def _in(folder: Path, command: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a folder, with mounts of its own."""
    return subprocess.run(
        ["unshare", "-rm", "sh", "-c", command], cwd=folder, capture_output=True, text=True, timeout=200, check=False
    )
