"""The local profile, with real snakemake runs: from nothing to an ensemble, and what breaks in between."""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
import subprocess
from datetime import datetime
from pathlib import Path

import pytest
import xarray as xr
from aifs_ensemble.fields.state import read_state

from workflow.project import CYCLE, ROOT, Project, jobs_run

pytestmark = pytest.mark.workflow


def lead_path(project: Project, member: int, lead: int) -> Path:
    return project.results / "forecasts" / f"aifs_ens_forecast_{CYCLE}_member{member:03d}_h{lead:03d}.grib2"


def test_a_run_delivers_an_ensemble_that_cfgrib_reads(finished: Project) -> None:
    manifest = json.loads((finished.results / "manifest.json").read_text())
    assert manifest["state"] == "complete"
    assert (finished.results / "_SUCCESS").exists()
    files = sorted((finished.results / "forecasts").glob("*.grib2"))
    assert len(files) == 6
    reading = {"filter_by_keys": {"shortName": "t", "typeOfLevel": "isobaricInhPa"}, "indexpath": ""}
    fields = [xr.open_dataset(file, engine="cfgrib", backend_kwargs=reading) for file in files]
    assert sorted({int(field.number) for field in fields}) == [1, 2]
    assert sorted({int(field.step / 3.6e12) for field in fields}) == [6, 12, 18]


def test_a_run_ends_with_where_and_what(finished: Project) -> None:
    said = finished.said  # type: ignore[attr-defined]
    assert "fields/s" in said
    assert f"files are in results/{CYCLE}" in said
    assert "untrained" in said


def test_forecasts_alone_are_on_scratch(fresh: Project) -> None:
    shutil.rmtree(fresh.results)
    (fresh.scratch / "manifests" / "member002.json").unlink()
    said = fresh.run("forecasts")
    assert f"forecasts of members 1-2 are in scratch/{CYCLE}/forecasts, not delivered" in said
    assert "files are in" not in said


def test_cleaning_keeps_the_record_of_rented_machines(tmp_path: Path) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    kept = tmp_path / ".snakemake" / "rented" / "forecast-1.json"
    for path in (kept, tmp_path / ".snakemake" / "log" / "a.log", tmp_path / "scratch" / "x"):
        path.parent.mkdir(parents=True)
        path.write_text("{}")
    for _ in range(2):
        subprocess.run(["make", "clean"], cwd=tmp_path, check=True, capture_output=True)
        assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / "Makefile", kept]
    shutil.rmtree(tmp_path / ".snakemake")
    subprocess.run(["make", "clean"], cwd=tmp_path, check=True, capture_output=True)


def test_nothing_is_done_twice(finished: Project) -> None:
    assert "Nothing to be done" in finished.run()


def test_jobs_use_the_library_of_the_checkout(fresh: Project) -> None:
    """And not one that is installed, as in an environment made for another checkout."""
    with open(fresh.folder / "scripts" / "aifs_ensemble" / "initial" / "build.py", "a") as module:
        module.write('\nraise InputError(f"the library of {Path(__file__).parents[3].name}")\n')
    said = fresh.snakemake("--forcerun", "initial_cycle", "--until", "initial_cycle")
    assert fresh.code != 0
    assert "the library of project" in said


def test_one_member_is_rerun_alone_with_the_same_bytes(fresh: Project) -> None:
    before, stamps = fresh.leads(), fresh.stamps(other_than=2)
    shutil.rmtree(fresh.scratch / "work" / "member002")
    for path in [*fresh.results.rglob("*member002*"), *fresh.scratch.rglob("*member002*")]:
        if path.is_file() and "initial" not in str(path):
            path.unlink()
    said = fresh.run()
    assert jobs_run(said, "forecast_member") == ["002"]
    assert fresh.leads() == before
    assert fresh.stamps(other_than=2) == stamps


def test_one_lead_can_be_asked_for(fresh: Project) -> None:
    shutil.rmtree(fresh.results)
    shutil.rmtree(fresh.scratch / "work" / "member001")
    wanted = lead_path(fresh, 2, 12)
    said = fresh.run(str(wanted.relative_to(fresh.folder)))
    assert wanted.exists()
    assert jobs_run(said, "sync_member") == ["002"]
    assert jobs_run(said, "forecast_member") == []


def test_the_ensembles_manifest_follows_the_members_asked_for(fresh: Project) -> None:
    fresh.run("--config", "members=2")
    assert json.loads((fresh.results / "manifest.json").read_text())["wanted"] == "2"
    assert "rule ensemble_manifest:" in fresh.run("-n")
    said = fresh.run()
    assert jobs_run(said, "forecast_member") == []
    assert json.loads((fresh.results / "manifest.json").read_text())["wanted"] == "1-2"


def test_a_failed_ensemble_is_no_success_and_never_up_to_date(fresh: Project) -> None:
    """A lead is cut behind the workflow's back, and nothing but the ensemble's manifest may be made."""
    cut = lead_path(fresh, 1, 12)
    stamp = cut.stat()
    cut.write_bytes(cut.read_bytes()[:-100])
    os.utime(cut, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    (fresh.results / "manifest.json").unlink()
    for _ in range(2):
        said = fresh.snakemake("--allowed-rules", "ensemble_manifest")
        assert fresh.code != 0
        assert "Nothing to be done" not in said
        assert f"ensemble {CYCLE}: failed, 1 of 2 members, missing 1" in said
        assert "members 1 do not count: damaged: " in said
        assert json.loads((fresh.results / "manifest.json").read_text())["state"] == "failed"
        assert not (fresh.results / "_SUCCESS").exists()
    assert f"ensemble {CYCLE}: complete, 2 of 2 members" in fresh.run()
    assert "Nothing to be done" in fresh.run()


@pytest.mark.parametrize("streaming", [False, True], ids=["synced", "streamed"])
def test_more_leads_are_made_where_none_are_declared(fresh: Project, streaming: bool) -> None:
    """Only the leads that are new, although each member's declared output is there; on another machine too."""
    settings = {"declare_leads": False, "delivery": {"streaming": streaming}}
    fresh.configure(**settings, keep_scratch=True)
    fresh.run()
    before = fresh.leads()
    if streaming:
        for name in ("work", "forecasts", "manifests", "receipts"):
            shutil.rmtree(fresh.scratch / name)
    fresh.configure(lead_hours=24, members="1")
    said = fresh.run()
    assert jobs_run(said, "forecast_member") == ["001"]
    after = fresh.leads()
    assert {name for name in after if name not in before} == {
        f"aifs_ens_forecast_{CYCLE}_member001_h024.{kind}" for kind in ("grib2", "index")
    }
    assert {name: after[name] for name in before} == before
    assert json.loads((fresh.results / "manifest.json").read_text())["lead_hours"] == [6, 12, 18, 24]
    assert "Nothing to be done" in fresh.run()


@pytest.mark.parametrize("streaming", [False, True], ids=["synced", "streamed"])
def test_another_layout_is_made_from_what_is_there(fresh: Project, streaming: bool) -> None:
    fresh.configure(keep_scratch=True, delivery={"streaming": streaming})
    before = fresh.leads()
    fresh.configure(delivery={"streaming": streaming, "layout": "both", "block_hours": 18})
    fresh.run()
    blocks = sorted(path.name for path in (fresh.results / "forecasts").glob("*h000-018.grib"))
    assert len(blocks) == 2
    assert {name: data for name, data in fresh.leads().items() if name in before} == before
    assert json.loads((fresh.results / "manifest.json").read_text())["layout"] == "both"
    assert "Nothing to be done" in fresh.run()


def test_a_delivered_ensemble_of_other_settings_is_refused(fresh: Project) -> None:
    before = fresh.leads()
    said = fresh.snakemake("--config", 'forecast={"accumulate":"per_step"}')
    assert fresh.code != 0
    assert "member001.json: made with accumulate from_start, not per_step; what is delivered is never" in said
    assert fresh.leads() == before


def test_states_of_another_source_are_made_again(fresh: Project) -> None:
    shutil.rmtree(fresh.results)
    before = (fresh.scratch / "initial" / "member001.safetensors").read_bytes()
    fresh.configure(initial_conditions={"source": "idealised", "idealised": {"seed": 5}})
    fresh.run()
    assert (fresh.scratch / "initial" / "member001.safetensors").read_bytes() != before
    manifest = json.loads((fresh.results / "manifests" / "member001.json").read_text())
    assert manifest["initial_conditions"]["source"]["seed"] == 5


def test_converted_pickles_are_used(fresh: Project) -> None:
    shutil.rmtree(fresh.results)
    initial = fresh.scratch / "initial"
    for member in (1, 2):
        state = read_state(initial / f"member{3 - member:03d}.safetensors")  # exchanged, to tell them from others
        fields = {name: state.fields[:, i].astype("float64") for i, name in enumerate(state.variables)}
        content = {"date": datetime.strptime(CYCLE, "%Y%m%d_%H%M"), "fields": fields}
        (fresh.folder / f"input_state_member_{member:03d}.pkl").write_bytes(pickle.dumps(content))
    shutil.rmtree(initial)
    done = fresh.command("convert-pickle", "input_state_member_001.pkl", "input_state_member_002.pkl")
    assert done.returncode == 0, done.stderr
    before = (initial / "member001.safetensors").read_bytes()
    said = fresh.run()
    assert jobs_run(said, "initial_member") == []
    assert (initial / "member001.safetensors").read_bytes() == before
    manifest = json.loads((fresh.results / "manifests" / "member001.json").read_text())
    assert manifest["initial_conditions"]["source"]["kind"] == "pickle"


def test_a_damaged_copy_on_scratch_does_not_cost_the_delivered_one(fresh: Project) -> None:
    before = fresh.leads()
    on_scratch = fresh.scratch / "forecasts" / lead_path(fresh, 1, 12).name
    on_scratch.chmod(0o644)
    flip(on_scratch)
    fresh.snakemake()
    assert fresh.leads() == before
    assert (fresh.results / "manifests" / "member001.json").exists()


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


@pytest.mark.parametrize(("damage", "keep_scratch"), [
    pytest.param(Path.unlink, True, id="scratch kept-deleted"),
    pytest.param(flip, True, id="scratch kept-one bit", marks=pytest.mark.long),
    pytest.param(cut, True, id="scratch kept-truncated", marks=pytest.mark.long),
    pytest.param(Path.unlink, False, id="scratch emptied-deleted", marks=pytest.mark.long),
    pytest.param(flip, False, id="scratch emptied-one bit"),
    pytest.param(cut, False, id="scratch emptied-truncated", marks=pytest.mark.long),
])  # fmt: skip
def test_damage_is_found_and_only_that_member_mended(fresh: Project, damage, keep_scratch: bool) -> None:
    before, stamps = fresh.leads(), fresh.stamps(other_than=1)
    if not keep_scratch:
        for path in [*fresh.scratch.rglob("*member001*.grib2"), *fresh.scratch.rglob("*member001*.index")]:
            path.unlink()
    damage(lead_path(fresh, 1, 12))
    said = fresh.snakemake("verify")
    assert fresh.code != 0
    assert "member001_h012" in said
    said = fresh.run()
    assert jobs_run(said, "sync_member") == ["001"]
    assert fresh.leads() == before
    assert fresh.stamps(other_than=1) == stamps
    assert "error" not in fresh.run("verify").lower()


def test_a_failed_member_leaves_a_short_ensemble_that_says_so(fresh: Project) -> None:
    fresh.configure(members="1-3", products={"page": {"enabled": True}})
    broken = fresh.scratch / "initial" / "member003.safetensors"
    broken.write_bytes(b"no state")
    said = fresh.snakemake()
    assert fresh.code != 0
    assert "member003.safetensors: not a readable state" in said
    manifest = json.loads((fresh.results / "manifest.json").read_text())
    assert manifest["state"] == "failed"
    assert "missing 3" in said
    assert "no products of the ensemble: 2 of 3 members delivered, expected at least 3" in said
    assert not (fresh.results / "_SUCCESS").exists() and not (fresh.results / "index.html").exists()
    fresh.configure(min_members=2)
    # files by name: the run does not go on by itself, and says how
    page = f"results/{fresh.results.name}/index.html"
    said = fresh.snakemake(page)
    assert fresh.code == 1 and "without members 3\nby this command: snakemake products --profile local\n" in said
    assert not (fresh.results / "index.html").exists()
    said = fresh.snakemake()
    assert fresh.code == 1
    assert "products of the ensemble are made now, short: without members 3" in said
    assert "Short ensemble: without member 3" in (fresh.results / "index.html").read_text()
    assert json.loads((fresh.results / "manifest.json").read_text())["state"] == "short"
    assert (fresh.results / "_SUCCESS").exists()
    broken.unlink()
    said = fresh.run()
    assert jobs_run(said, "forecast_member") == ["003"]
    assert json.loads((fresh.results / "manifest.json").read_text())["state"] == "complete"
    assert "Short ensemble" not in (fresh.results / "index.html").read_text()


@pytest.mark.parametrize("before", ["nothing", "a lead less"])
def test_what_is_delivered_stays_when_its_delivery_fails(fresh: Project, before: str) -> None:
    """Something is in the way of the last lead's index: what is there stays, and the next run sends only the others."""
    wanted, manifest = fresh.leads(1), fresh.results / "manifests" / "member001.json"
    blocked = lead_path(fresh, 1, 18).with_suffix(".index")
    left = {*wanted} - {blocked.name}
    if before == "nothing":
        for path in fresh.results.rglob("*member001*"):
            path.unlink()
        left -= {lead_path(fresh, 1, 18).name}  # an index goes before its lead
    else:
        lead_path(fresh, 1, 12).unlink()
        blocked.unlink()
    (blocked / "in the way").mkdir(parents=True)
    fresh.configure(members="1", delivery={"threads": 1})
    vouched = manifest.read_bytes() if manifest.exists() else None
    files: dict[str, int] = {}
    for _ in range(2):
        said = fresh.snakemake("--logger", "aifs")
        assert fresh.code != 0
        assert said.count("member 1: sync_member failed, log: ") == 1
        assert said.count(f"{blocked.name}: Is a directory") == 1, said
        assert not re.search("restore |Restored", said), said
        assert not (fresh.folder / ".snakemake" / "backups").exists()
        there = {path.name: path.stat().st_ino for path in blocked.parent.glob("*member001*") if path.is_file()}
        assert set(there) == left
        assert files in ({}, there), "sent again"
        files = there
        assert (manifest.read_bytes() if manifest.exists() else None) == vouched
    (blocked / "in the way").rmdir()
    blocked.rmdir()
    said = fresh.run()
    assert jobs_run(said, "sync_member") == ["001"] and jobs_run(said, "forecast_member") == []
    assert fresh.leads(1) == wanted
    assert {name: (blocked.parent / name).stat().st_ino for name in files} == files, "sent again"
    assert not (fresh.folder / ".snakemake" / "backups").exists()
    assert "Nothing to be done" in fresh.run()
