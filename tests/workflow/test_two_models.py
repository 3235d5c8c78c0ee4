"""Two models of one cycle in one run: each as a run of it alone makes it, and their comparison."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from aifs_ensemble.common.names import Keys

from workflow.dry_runs import dry_run
from workflow.project import CYCLE, Project
from workflow.test_cycles import GROUPS, jobs

pytestmark = [pytest.mark.workflow, pytest.mark.timeout(900)]  # whichever comes first waits for the runs
MODELS = ("demo", "demo-v2")
BOTH = "model=[demo,demo-v2]"
KEYS = {"members": "1-2", "lead_hours": 12, "forecast": {"restart_hours": 6, "encoders": 1}}
PRODUCTS = {
    "coarse": {"enabled": True, "variables": ["2t", "msl", "tp"]},
    "members": {"enabled": True, "variables": ["2t", "msl", "tp"]},
    "pictures": {
        "enabled": True, "variables": ["2t"], "step_hours": 12, "areas": ["globe"], "places": {},
    },
    "page": {"enabled": True},
}  # fmt: skip


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Two members of 12 hours of each model. Don't change it: copy it."""
    project = Project.copy(tmp_path_factory.mktemp("both") / "project", **KEYS, products=PRODUCTS)
    for rule in ("initial_members", "forecast_member", "ensemble_manifest"):  # each takes minutes on a busy machine
        project.run("--until", rule, "--config", BOTH)
    project.said = project.run("--config", BOTH)  # type: ignore[attr-defined]
    return project


def files(folder: Path, *parts: str) -> dict[str, bytes]:
    """Return the files below some parts of a folder, by their names relative to it."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for part in parts
        for path in sorted((folder / part).rglob("*"))
        if path.is_file()
    }


def times(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.long
@pytest.mark.parametrize("model", MODELS)
def test_each_is_as_a_run_of_it_alone_makes_it(both: Project, tmp_path: Path, model: str) -> None:
    """The same files with the same bytes; the run alone finds nothing to do in the folder of the run of both."""
    alone = Project.copy(
        tmp_path / "alone", **KEYS, products=PRODUCTS, model=model, scratch=f"scratch/{model}",
        destination=f"results/{model}",
    )  # fmt: skip
    alone.run("--until", "ensemble_manifest")
    alone.run()
    places = [project.folder / "results" / model / CYCLE for project in (alone, both)]
    parts = ("forecasts", "coarse", "products/maps", "1p5deg_nc")
    mine, theirs = (files(place, *parts) for place in places)
    assert len([name for name in mine if name.endswith(".grib2")]) == 2 * 2 * 2
    # the digest in a product is of a manifest, which has the times of its run
    assert mine.keys() == theirs.keys()
    for name in mine:
        if not name.endswith(".nc"):
            assert mine[name] == theirs[name], name
        else:
            with xr.open_dataset(places[0] / name) as one, xr.open_dataset(places[1] / name) as other:
                xr.testing.assert_equal(one, other)
    there = [{path.name for path in place.iterdir()} for place in places]
    assert there[0] == there[1]

    again = Project.of(both, tmp_path / "again")
    said = again.run("--config", f"model={model}", f"scratch=scratch/{model}", f"destination=results/{model}")
    assert "Nothing to be done" in said


def test_the_run_says_what_it_made(both: Project) -> None:
    said = both.said  # type: ignore[attr-defined]
    assert f"demo and demo-v2 side by side: open results/compare/{CYCLE}/index.html in a browser" in said
    assert f"demo/{CYCLE}, demo-v2/{CYCLE}: complete, 2 of 2 members" in said
    for model in MODELS:
        assert re.search(rf"^{model}/{CYCLE} +1-2 +4 ", said, re.MULTILINE), "the table has a row each"
    assert "AIFS ENS architecture at toy size: these are not forecasts" in said
    assert "AIFS ENS v2 architecture at toy size: these are not forecasts" in said
    for given in (BOTH, "model=demo,demo-v2"):
        assert "Nothing to be done" in both.run("--config", given)


def test_the_comparison_is_of_the_products_of_both(both: Project) -> None:
    """Against numpy over the members' files, which another rule made."""
    results = both.folder / "results"
    with xr.open_dataset(results / "compare" / CYCLE / "compare.nc", decode_timedelta=False) as compared:
        for name in ("2t", "msl", "tp"):
            members = []
            for model in MODELS:
                paths = [results / model / Keys(CYCLE).member_netcdf(member, "1.5x1.5") for member in (1, 2)]
                fields = [xr.open_dataset(path, decode_timedelta=False)[name].squeeze().to_numpy() for path in paths]
                members.append(np.stack(fields).astype(float))
            difference = members[1].mean(axis=0) - members[0].mean(axis=0)
            np.testing.assert_allclose(compared[f"{name}_difference"], difference, rtol=1e-5, atol=1e-5)
            for place in (0, 1):
                spread = members[place].std(axis=0)
                np.testing.assert_allclose(compared[f"{name}_spread"][:, place], spread, rtol=1e-5, atol=1e-5)
            assert np.abs(difference).max() > 0
    page = (results / "compare" / CYCLE / "index.html").read_text()
    for model in MODELS:
        link = f"../../{model}/{CYCLE}/index.html"
        assert f'href="{link}"' in page and (results / "compare" / CYCLE / link).is_file()


def test_a_lost_member_of_one_makes_that_and_the_comparison_again(both: Project, tmp_path: Path) -> None:
    project = Project.of(both, tmp_path / "project")
    model, member = "demo-v2", "member002"
    for base in (project.folder / "results" / model, project.folder / "scratch" / model):
        for path in sorted((base / CYCLE).rglob(f"*{member}*")):
            if "initial" in path.parts or "1p5deg_nc" in path.parts:
                continue
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    before = times(project.folder / "results" / "demo")
    compared = project.folder / "results" / "compare" / CYCLE
    stamp = json.loads((compared / "stamp.json").read_text())["models"]
    data = (compared / "compare.nc").read_bytes()
    said = project.run("--config", BOTH)
    found = jobs(said)
    assert found["forecast_member"] == [{"model": model, "cycle": CYCLE, "member": "002"}]
    assert found["compare"] == [{"cycle": CYCLE}]
    others = {rule: each for rule, each in found.items() if rule not in ("compare", "all")}
    assert {one["model"] for each in others.values() for one in each} == {model}, others
    assert times(project.folder / "results" / "demo") == before
    # the same bits again, by another manifest
    assert (compared / "compare.nc").read_bytes() == data
    now = json.loads((compared / "stamp.json").read_text())["models"]
    assert now["demo"] == stamp["demo"] and now[model]["members"]["1"] == stamp[model]["members"]["1"]


def test_other_members_make_the_comparison_again(both: Project, tmp_path: Path) -> None:
    """Times say nothing of a member that is not asked for any more; the stamp does."""
    project = Project.of(both, tmp_path / "project")
    found = jobs(dry_run(project.folder, "--config", BOTH, "members=1"))
    assert found["compare"] == [{"cycle": CYCLE}] and "forecast_member" not in found
    assert "compare" not in jobs(dry_run(project.folder, "--config", BOTH))
    assert "compare" not in jobs(dry_run(project.folder, "--config", BOTH, "products={compare: {enabled: false}}"))


def test_commands_know_both(both: Project, tmp_path: Path) -> None:
    project = Project.of(both, tmp_path / "project")
    project.configure(model=list(MODELS))
    said = project.command("status")
    for model in MODELS:
        assert re.search(rf"{model}/{CYCLE} +2 +delivered", said.stdout), said
    assert "4 members: 4 delivered" in said.stdout
    said = project.command("status", "--json", "--model", "demo-v2")
    assert [one["state"] for one in json.loads(said.stdout)] == ["delivered"] * 2
    said = project.command("account", "--json")
    assert set(json.loads(said.stdout)["cycles"]) == {f"{model}/{CYCLE}" for model in MODELS}, said
    said = project.command("gc")
    assert said.returncode == 0 and said.stdout.count("0 objects to remove") == 2, said
    said = project.command("sync")
    assert said.returncode == 0 and said.stdout.count(f"{CYCLE}: complete, 2 of 2 members") == 2, said
    assert said.stdout.count("members 1-2: ") == 2, said
    said = project.command("doctor")
    assert "OK" in said.stdout.upper() and "demo-v2: demo-v2, its checkpoint's digest" in said.stdout, said
    said = project.command("plan", "--json")
    assert set(json.loads(said.stdout)["models"]) == set(MODELS), said
    lost = next((project.folder / "results" / "demo" / CYCLE / "forecasts").glob("*member002_h012.grib2"))
    lost.unlink()
    said = project.command("verify")
    assert said.returncode == 9 and f"error: demo/{CYCLE}: members 2 damaged" in said.stderr, said
    assert project.command("verify", "--model", "demo-v2").returncode == 0
    for command in ("forecast", "initial"):
        said = project.command(command)
        assert said.returncode == 2 and "demo and demo-v2, expected one here: --model NAME" in said.stderr, said
    said = project.command("status", "--model", "demo-v3")
    assert said.returncode == 2 and "--model: 'demo-v3', expected one of the configuration's: demo and" in said.stderr


@pytest.mark.long
def test_what_fails_of_one_leaves_the_other(tmp_path: Path) -> None:
    """A file in the way of one. The next run makes what is missing, and the comparison."""
    project = Project.copy(tmp_path / "project", **{**KEYS, "members": "1", "lead_hours": 6}, model="demo,demo-v2")
    obstacle = project.folder / "scratch" / "demo-v2" / CYCLE / "work"
    obstacle.parent.mkdir(parents=True)
    obstacle.write_text("in the way")
    said = project.snakemake()
    assert project.code == 1, said[-3000:]
    assert f"demo/{CYCLE}: complete, 1 of 1 members" in said and f"demo-v2/{CYCLE}: run again" in said
    assert json.loads((project.folder / "results/demo" / CYCLE / "manifest.json").read_text())["state"] == "complete"
    assert not (project.folder / "results" / "compare").exists()
    obstacle.unlink()
    found = jobs(project.run())
    assert [one["model"] for one in found["forecast_member"]] == ["demo-v2"] and len(found["compare"]) == 1
    assert (project.folder / "results" / "compare" / CYCLE / "index.html").is_file()


@pytest.mark.long
def test_a_short_ensemble_of_one_is_compared_with_the_other(tmp_path: Path) -> None:
    """In the second pass of the run in which a member of one failed; the other model is left as it is."""
    keys = {**KEYS, "lead_hours": 6, "min_members": 1, "model": list(MODELS), "products": {"page": {"enabled": True}}}
    project = Project.copy(tmp_path / "project", **keys)
    obstacle = project.folder / "scratch" / "demo-v2" / CYCLE / "work" / "member002"
    obstacle.parent.mkdir(parents=True)
    obstacle.write_text("in the way")
    for rule in ("initial_members", "forecast_member"):  # each takes minutes on a busy machine
        project.snakemake("--until", rule)
    said = project.snakemake()
    assert project.code == 1, said[-3000:]
    assert f"demo-v2/{CYCLE}: products of the ensemble are made now, short: without members 2" in said
    results = project.folder / "results"
    stamp = json.loads((results / "compare" / CYCLE / "stamp.json").read_text())["models"]
    assert {model: list(one["members"]) for model, one in stamp.items()} == {"demo": ["1", "2"], "demo-v2": ["1"]}
    assert "demo-v2: Short ensemble: without member 2" in (results / "compare" / CYCLE / "index.html").read_text()
    obstacle.unlink()
    found = jobs(project.run())
    assert found["forecast_member"] == [{"model": "demo-v2", "cycle": CYCLE, "member": "002"}]
    stamp = json.loads((results / "compare" / CYCLE / "stamp.json").read_text())["models"]
    assert list(stamp["demo-v2"]["members"]) == ["1", "2"]


def test_a_dry_run_has_totals_and_a_plan_of_each(tmp_path: Path) -> None:
    project = Project.copy(tmp_path / "project", **KEYS, cycle=None, cycles=[CYCLE, "20250826_0000"])
    said = dry_run(project.folder, "--config", BOTH)
    found = jobs(said)
    assert len(found["forecast_member"]) == 8 and len(found["compare"]) == 2
    assert sorted(one["model"] for one in found["checkpoint_prepare"]) == list(MODELS)
    assert f"plan: demo and demo-v2, {CYCLE}, 20250826_0000: 8 of 8 members to forecast, 16 steps" in said
    assert "2 of them to compare the models" in said
    for model in MODELS:
        assert f"\n{model}:\n  plan: 2 cycles, {CYCLE} to 20250826_0000: 4 of 4 members to forecast, 8 steps" in said


def test_rented_machines_take_one_model_each(tmp_path: Path) -> None:
    """With costs, no bucket and no checkpoint; no group has members of two models."""
    project = Project.copy(tmp_path / "project")
    with open(project.folder / "Snakefile", "a") as file:
        file.write(GROUPS)
    (project.folder / "mine.yaml").write_text("model: [aifs-ens-1.0, aifs-ens-2.0]\nmembers: 1-10\n")
    configs = ["config/config.yaml", "config/operational.yaml", "mine.yaml"]
    said = dry_run(project.folder, "--configfile", *configs, profile="coiled-gpu")
    totals, *each = [
        tuple(map(float, found)) for found in re.findall(r"cost: \$([\d.]+) on demand, \$([\d.]+) spot", said)
    ]
    assert len(each) == 2 and all(usd > 0 for pair in each for usd in pair)
    assert totals == pytest.approx([sum(pair) for pair in zip(*each, strict=True)], abs=0.011)
    grouped = json.loads((project.folder / "groups.json").read_text())
    forecasts = [group for group in grouped if group[0][0] == "forecast_member"]
    assert len(forecasts) == 4  # seven a machine, and three
    for group in grouped:
        assert len({named.get("model") for _, named in group}) == 1, group
    assert sorted(len(group) for group in forecasts) == [3, 3, 7, 7]


def test_google_batch_takes_one_model(tmp_path: Path) -> None:
    project = Project.copy(tmp_path / "project")
    said = dry_run(project.folder, "--config", BOTH, "destination=gs://my-bucket/x", profile="googlebatch", code=1)
    assert "model: demo and demo-v2, expected one model on Google Batch" in said and "Traceback" not in said
