"""Several cycles in one run: their jobs, their files by name, who shares a machine, and one that fails."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import xarray as xr
from aifs_ensemble.common.names import Keys
from waiting import wait_until

from workflow.dry_runs import dry_run
from workflow.late_service import ClockFile, snakemake
from workflow.project import CYCLE, Project

pytestmark = pytest.mark.workflow
OTHER = "20250826_0000"
TWO = {"cycle": None, "cycles": [CYCLE, OTHER], "members": "1-2", "lead_hours": 18}


def jobs(said: str) -> dict[str, list[dict[str, str]]]:
    """Return by rule the wildcards of the jobs that Snakemake's own log tells of."""
    found: dict[str, list[dict[str, str]]] = {}
    rule = ""
    for line in map(str.strip, said.splitlines()):
        if line.startswith(("rule ", "localrule ")):
            rule = line.split()[1].rstrip(":")
            found.setdefault(rule, [])
        elif line.startswith("wildcards: "):
            found[rule].append(dict(item.split("=", 1) for item in line.removeprefix("wildcards: ").split(", ")))
    return found


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project.copy(tmp_path / "project", **TWO)


def test_each_cycle_has_its_jobs_and_the_checkpoint_is_one(project: Project) -> None:
    said = dry_run(project.folder)
    found = jobs(said)
    both = [{"cycle": cycle} for cycle in (CYCLE, OTHER)]
    each = [{"cycle": cycle, "member": member} for cycle in (CYCLE, OTHER) for member in ("001", "002")]
    for rule in ("initial_cycle", "initial_members", "ensemble_manifest"):
        assert sorted(found[rule], key=str) == both, rule
    for rule in ("initial_member", "forecast_member", "sync_member"):
        assert sorted(found[rule], key=str) == each, rule
    assert "checkpoint_prepare" in found and found["checkpoint_prepare"] == []
    assert said.count("localrule checkpoint_prepare") + said.count("rule checkpoint_prepare:") == 1
    assert f"plan: 2 cycles, {CYCLE} to {OTHER}: 4 of 4 members to forecast, 12 steps, 4 members to deliver" in said
    for cycle in (CYCLE, OTHER):
        assert f"  {cycle}: 2 of 2 members to forecast (1-2), 6 steps, 2 members to deliver" in said


PRODUCTS = {
    "coarse": {"enabled": True, "variables": ["2t", "msl", "tp"]},
    "members": {"enabled": True},
    "weekly": {"enabled": True, "hours": 6, "periods": [6, 12], "climatology": "climatology.nc"},
    "pictures": {"enabled": True, "variables": ["2t"], "step_hours": 6, "places": {"Nairobi": [-1.29, 36.82]}},
    "statistics": {"enabled": True, "windows": [6]},
    "page": {"enabled": True},
}


NAMED = {
    "forecast_member": Keys(OTHER).lead(2, 12),
    "product_quintiles": Keys(OTHER).quintiles,  # which has the day alone
    "product_member": Keys(OTHER).member_netcdf(1, "1.5x1.5"),
    "product_pictures": Keys(OTHER).map("2t_mean_globe_h012-light.png"),
    "product_statistics_h006_018": Keys(OTHER).statistics(12, 12, "es"),
    "product_evaluation": Keys(OTHER).evaluation("scores.csv"),
}


def test_a_cycles_files_are_made_by_their_names(project: Project) -> None:
    """And nothing is done for the other cycle."""
    project.configure(products=PRODUCTS)
    said = dry_run(project.folder, *(f"results/{key}" for key in NAMED.values()))
    found = jobs(said)
    assert set(NAMED) <= set(found)
    cycles = [
        f"{one['date']}_{one['time']}" if "date" in one else one["cycle"] for each in found.values() for one in each
    ]
    assert {*cycles} == {OTHER} and len(found["forecast_member"]) == 2
    (idle,) = [line for line in said.splitlines() if line.startswith(f"  {CYCLE}: ")]
    assert "no member to forecast or deliver in this run" in idle


@pytest.mark.parametrize("key", [Keys("20250902_0000").lead(1, 6), Keys("20250819_1200").quintiles])
def test_no_other_cycle_is_made_by_a_name(project: Project, key: str) -> None:
    """Also not the hour of one with the day of another."""
    project.configure(cycles=[CYCLE, "20250826_1200"], products=PRODUCTS)
    said = dry_run(project.folder, f"results/{key}", code=1)
    assert "MissingRuleException" in said, said


TOLD = ("rule ", "localrule ", "input: ", "output: ", "log: ", "benchmark: ", "wildcards: ", "plan: ", "jobs: ")


def test_a_list_of_one_is_that_cycle(project: Project) -> None:
    said = {}
    for name, keys in {"list": {"cycle": None, "cycles": [CYCLE]}, "key": {"cycle": CYCLE, "cycles": None}}.items():
        project.configure(**keys)
        lines = dry_run(project.folder).splitlines()
        said[name] = sorted(line for line in lines if line.strip().startswith(TOLD))
    assert said["list"] == said["key"]
    assert "    wildcards: member=001" in said["key"] and "plan: 20250819_0000: 2 of 2" in "\n".join(said["key"])


GROUPS = """
import atexit, json
def groups():
    found = {}
    for job, group in workflow.dag._group.items():
        found.setdefault(id(group), []).append([job.rule.name, dict(job.wildcards_dict)])
    json.dump(list(found.values()), open("groups.json", "w"))
atexit.register(groups)
"""


def groups(project: Project) -> dict[str, list[list[tuple[str, str]]]]:
    """Return the groups of a dry-run on rented machines by the kind of their rules: cycles and members."""
    files = ["config/config.yaml", "config/operational.yaml", "mine.yaml"]
    dry_run(project.folder, "--configfile", *files, profile="coiled-gpu")
    found: dict[str, list[list[tuple[str, str]]]] = {}
    for group in json.loads((project.folder / "groups.json").read_text()):
        kind = min(rule for rule, _ in group).partition("_")[0]
        found.setdefault(kind, []).append(sorted((named["cycle"], named.get("member", "")) for _, named in group))
    return {kind: sorted(each) for kind, each in found.items()}


def test_machines_take_members_cycle_by_cycle(project: Project) -> None:
    """Seven a machine: 3 cycles of 4 members are 2 machines; states, and products, are of one cycle each."""
    cycles = [CYCLE, OTHER, "20250902_0000"]
    with open(project.folder / "Snakefile", "a") as file:
        file.write(GROUPS)
    (project.folder / "mine.yaml").write_text(
        f"cycle: null\ncycles: {json.dumps(cycles)}\nmembers: 1-4\nlead_hours: 24\n"
        "products: {members: {enabled: true}, weekly: {enabled: true, hours: 6, periods: [6]}}\n"
    )
    found = groups(project)
    ordered = [(cycle, f"{member:03d}") for cycle in cycles for member in range(1, 5)]
    assert found["forecast"] == [ordered[:7], ordered[7:]]
    for kind in ("initial", "product"):
        assert [sorted({cycle for cycle, _ in group}) for group in found[kind]] == [[c] for c in cycles], kind

    # the states of one could not be made: it shares no machine with the others any more
    for cycle in (cycles[0], cycles[2]):
        names = Keys(cycle)
        states = [key for member in range(1, 5) for key in (names.initial(member), names.initial_summary(member))]
        for key in (names.initial_cycle, *states, names.initial_members):
            (project.folder / key).parent.mkdir(parents=True, exist_ok=True)
            (project.folder / key).write_text("{}")
            time.sleep(0.01)
    found = groups(project)
    assert [{cycle for cycle, _ in group} for group in found["initial"]] == [{OTHER}]
    others = ordered[:4] + ordered[8:]
    assert found["forecast"] == sorted([others[:7], others[7:], ordered[4:8]])


def leads(project: Project, cycle: str) -> dict[str, bytes]:
    return {
        path.name: path.read_bytes() for path in sorted((project.folder / "results" / cycle / "forecasts").glob("*"))
    }


@pytest.mark.timeout(900)
def test_a_cycle_that_fails_leaves_the_others(finished: Project, project: Project) -> None:
    """A file in the way of one; the other has the bytes of a run of its own. The next run makes what is missing."""
    project.configure(forecast={"restart_hours": 6, "encoders": 1})
    obstacle = project.folder / "scratch" / OTHER / "work"
    obstacle.parent.mkdir(parents=True)
    obstacle.write_text("in the way")
    said = project.snakemake()
    assert project.code == 1, said[-3000:]
    assert leads(project, CYCLE) == finished.leads()
    assert json.loads((project.results / "manifest.json").read_text())["state"] == "complete"
    assert f"{CYCLE}: complete, 2 of 2 members" in said
    assert f"{OTHER}: run again to make members 1-2" in said
    assert not leads(project, OTHER)
    before = project.stamps(other_than=99)

    obstacle.unlink()
    said = project.run()
    assert [named["cycle"] for named in jobs(said)["forecast_member"]] == [OTHER, OTHER]
    assert "checkpoint_prepare" not in jobs(said) and "initial_member" not in jobs(said)
    assert project.stamps(other_than=99) == before
    assert f"{CYCLE}, {OTHER}: complete, 2 of 2 members" in said
    assert re.search(rf"^{OTHER} +1-2 +6 ", said, re.MULTILINE), "the table has a row a cycle"
    mine, others = leads(project, OTHER), leads(project, CYCLE)
    assert len(mine) == len(others)
    assert not {*mine.values()} & {*others.values()}, "other states and other noise"

    said = project.command("verify")
    assert said.returncode == 0 and said.stdout.count("destination: 2 sound (members 1-2)") == 2, said
    lost = next((project.folder / "results" / OTHER / "forecasts").glob("*member002_h012.grib2"))
    lost.unlink()
    said = project.command("verify", "--json")
    assert said.returncode == 9 and f"error: {OTHER}: members 2 damaged" in said.stderr, said
    assert set(json.loads(said.stdout)["cycles"]) == {CYCLE, OTHER}
    assert project.command("verify", "--cycle", CYCLE).returncode == 0
    said = project.command("status")
    assert re.search(rf"{OTHER} +2 +damaged", said.stdout) and "4 members: 3 delivered, 1 damaged" in said.stdout
    said = project.command("forecast")
    assert said.returncode == 2 and "expected one here (--cycle)" in said.stderr


def of_json(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return found


@pytest.mark.timeout(900)
@pytest.mark.long
def test_a_second_pass_is_for_the_cycle_that_is_short(tmp_path: Path) -> None:
    """Its products say so, and those of the other, which were made in the first, are not made again.

    The later cycle was named by a word, which means another by the clock of the second pass.
    """
    weekly = {"enabled": True, "hours": 6, "periods": [6]}
    products = {"weekly": weekly, "page": {"enabled": True}}
    project = Project.copy(
        tmp_path / "project", cycle=None, cycles=f"{CYCLE}, latest-tuesday", members="1-2", min_members=1,
        lead_hours=12, forecast={"encoders": 1}, products=products,
    )  # fmt: skip
    clock = ClockFile(tmp_path / "clock")
    clock.set(datetime(2025, 8, 26, 5, tzinfo=UTC))
    arguments = ["--profile", "local"]
    code, said = snakemake(project.folder, clock, *arguments, "--until", "initial_members")
    assert code == 0, said[-4000:]
    state = project.folder / "scratch" / CYCLE / "initial" / "member002.safetensors"
    state.write_bytes(b"no state")

    code, said = snakemake(project.folder, clock, *arguments)
    assert code == 1 and "member002.safetensors: not a readable state" in said, said[-4000:]
    second = said.partition(f"{CYCLE}: products of the ensemble are made now, short: without members 2\n")[2]
    assert second and f"{OTHER}: products of" not in said, said[-4000:]
    assert {*jobs(second)} - {"all", "products"} == {"product_weekly", "product_page"}
    assert [one["cycle"] for made in jobs(second).values() for one in made] == [CYCLE] * 2
    assert "products of the ensemble were not made" not in said and "latest-tuesday: " not in second
    results = project.folder / "results"
    assert sorted(path.name for path in results.glob("2*")) == [CYCLE, OTHER]
    expected = {CYCLE: ("short", "1 of 2 members, short: without members 2"), OTHER: ("complete", "2 of 2 members")}
    for cycle, (state_of, ensemble) in expected.items():
        assert of_json(results / cycle / "manifest.json")["state"] == state_of
        assert (results / cycle / "_SUCCESS").exists()
        with xr.open_dataset(results / cycle / "products/weekly/ensemble.nc") as data:
            assert data.attrs["ensemble"] == ensemble
        page = (results / cycle / "index.html").read_text()
        assert ("Short ensemble: without member 2" in page) == (cycle == CYCLE)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_twelve_cycles_killed_and_gone_on(tmp_path: Path) -> None:
    """Killed with all its jobs until it is through; then every lead is as a run of that cycle alone makes it."""
    keys = {"members": "1-2", "lead_hours": 24, "forecast": {"restart_hours": 6, "encoders": 1}}
    project = Project.copy(tmp_path / "many", cycle=None, cycles="20250101_0000..20250319_0000 every 7d", **keys)
    command = [sys.executable, "-m", "snakemake", "--profile", "local", "--nolock"]
    kills = 0
    made = project.folder / "scratch"

    def leads_made(wanted: int) -> bool:
        return len(list(made.glob("*/work/*/leads/*.grib2"))) >= wanted

    for wanted in (4, 30, 60, 85):
        with open(project.folder / "said.txt", "ab") as said:
            process = subprocess.Popen(
                command, cwd=project.folder, stdout=said, stderr=said, start_new_session=True,
                env=os.environ | {"PYTHONPATH": ""},
            )  # fmt: skip
        wait_until(partial(leads_made, wanted), process, seconds=900)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        kills += 1
        time.sleep(1)
    said = project.run("--nolock")
    assert "12 cycles, 20250101_0000 to 20250319_0000: complete, 2 of 2 members" in said, said[-3000:]
    assert project.command("verify", "--deep").returncode == 0
    for cycle in ("20250101_0000", "20250205_0000", "20250319_0000"):
        alone = Project.copy(tmp_path / cycle, cycle=cycle, cycles=None, **keys)
        alone.run()
        assert leads(alone, cycle) == leads(project, cycle) and len(leads(alone, cycle)) == 16
        shutil.rmtree(alone.folder)
    assert kills == 4
