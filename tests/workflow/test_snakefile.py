"""What the Snakefile knows of a run: where its rules find and leave files, and what it refuses."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from aifs_ensemble.common.config import Config, merge, read_files
from aifs_ensemble.common.cycles import cycle_of
from aifs_ensemble.workflow.snakefile import Paths
from snakemake.iocontainers import Wildcards

from workflow.project import CYCLE, ROOT, Project

MEMBER = "member{member}"
LEADS = [f"aifs_ens_forecast_{CYCLE}_{MEMBER}_h{lead:03d}.grib2" for lead in (6, 12)]
PLACES = {
    "folder": ("out/", False, f"out//{CYCLE}"),
    "none": (None, False, f"scratch/{CYCLE}/delivered"),
    "synced bucket": ("gs://bucket/p", False, f"scratch/{CYCLE}/delivered"),
    "rented": ("gs://bucket/p", True, CYCLE),
}


def paths(place: str, **changes: Any) -> Paths:
    destination, rented, _ = PLACES[place]
    values = read_files(ROOT / "config" / "config.yaml")
    merge(values, {"destination": destination, "lead_hours": 12, "scratch": "scratch", **changes})
    return Paths(Config(values), rented)


@pytest.mark.parametrize("place", PLACES)
def test_places_of_files(place: str) -> None:
    path, at_destination = paths(place), PLACES[place][2]
    between = CYCLE if place == "rented" else f"scratch/{CYCLE}"
    keys = path.config.objects
    assert path.delivered(keys.ensemble_manifest) == f"{at_destination}/manifest.json"
    assert path.manifest() == f"{at_destination}/manifests/{MEMBER}.json"
    assert path.between_machines(keys.initial_cycle) == f"{between}/initial/cycle.json"
    assert path.between_machines(keys.initial("{member}")) == f"{between}/initial/{MEMBER}.safetensors"
    receipts = f"scratch/{CYCLE}" if place == "synced bucket" else at_destination
    assert path.receipt("003") == f"{receipts}/receipts/member003.json"


@pytest.mark.parametrize(
    ("place", "declare", "layout", "declared"),
    [("rented", True, "leads", True), ("rented", True, "both", True), ("rented", True, "blocks", False),
     ("rented", False, "leads", False), ("folder", True, "leads", False), ("synced bucket", True, "leads", False)],
)  # fmt: skip
def test_a_forecast_that_streams_declares_its_leads_as_objects(
    place: str, declare: bool, layout: str, declared: bool
) -> None:
    """Of a folder, Snakemake would remove them before the job runs; blocks take the place of their leads."""
    path = paths(place, declare_leads=declare, delivery={"streaming": True, "layout": layout})
    leads = [f"{CYCLE}/forecasts/{lead}" for lead in LEADS] if declared else []
    assert path.forecast_outputs() == path.member_files() == [path.manifest(), *leads]
    assert [path.by_job(name) for name in path.forecast_outputs()] == [False, *(True for _ in leads)]


@pytest.mark.parametrize("declared", [True, False])
def test_what_forecast_and_delivery_declare_on_one_machine(declared: bool) -> None:
    leads = LEADS if declared else []
    path = paths("folder", declare_leads=declared)
    manifest = f"scratch/{CYCLE}/manifests/{MEMBER}.json"
    assert path.forecast_outputs() == [manifest, *(f"scratch/{CYCLE}/forecasts/{lead}" for lead in leads)]
    delivered = [path.manifest(), *(f"out//{CYCLE}/forecasts/{lead}" for lead in leads)]
    assert path.sync_outputs() == path.member_files() == delivered


@pytest.mark.parametrize(("place", "layout"), [("folder", "blocks"), ("synced bucket", "leads")])
def test_leads_that_are_no_files_here_are_not_declared(place: str, layout: str) -> None:
    path = paths(place, declare_leads=True, delivery={"layout": layout})
    assert path.sync_outputs() == [path.manifest()]


def snakemake(project: Project, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Run snakemake in this process, which is faster; return its exit code."""
    from snakemake.cli import main

    monkeypatch.chdir(project.folder)
    monkeypatch.setattr(sys, "argv", ["snakemake", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    return int(end.value.code or 0)


@pytest.mark.workflow
def test_logs_and_benchmarks_are_named_after_their_rules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Snakemake does not tell a rule's name while it reads the rule, so each says it again: none of them wrongly."""
    project = Project.copy(tmp_path / "project")
    with open(project.folder / "Snakefile", "a") as file:
        file.write(
            "\nimport json\njson.dump({rule.name: [[str(f) for f in rule.output], [str(f) for f in rule.log], "
            "str(rule.benchmark or '')] for rule in workflow.rules}, open('rules.json', 'w'))\n"
        )
    assert snakemake(project, monkeypatch, "--list-rules", "--cores", "1") == 0
    rules = json.loads((project.folder / "rules.json").read_text())
    assert len(rules) > 10
    for rule, (outputs, logs, benchmark) in rules.items():
        for path in (*logs, *([benchmark] if benchmark else [])):
            folder, name = Path(path).parts[1:-1], Path(path).stem
            if rule == "benchmark_engine":
                assert folder == (rule,)
                continue
            assert folder in ((rule, CYCLE), ("benchmarks", rule, CYCLE)), path
            each = any("{member" in output for output in outputs)
            assert name.startswith("member{") if each else name == rule, path


@pytest.mark.workflow
def test_other_settings_are_refused_but_for_unlocking_and_linting(fresh: Project) -> None:
    """A delivered member is not overwritten; whoever wants to unlock the folder, or looks at the rules, may."""
    other = ("--config", "forecast={restart_hours: 6, encoders: 1, accumulate: per_step}")
    for arguments, code in ((["-n"], 1), (["--list-rules"], 1), (["--unlock"], 0), (["--lint"], 0)):
        said = fresh.snakemake(*arguments, *other)
        assert fresh.code == code, said
        assert ("made with accumulate from_start, not per_step" in said) == bool(code)
        if code:
            assert "snakefile.py" not in said and "Traceback" not in said


def test_a_job_is_of_the_cycle_that_its_wildcards_name() -> None:
    assert cycle_of(Wildcards(fromdict={"cycle": "20250826_0000", "member": "001"})) == "20250826_0000"
    assert cycle_of(Wildcards(fromdict={"date": "20250826", "time": "1200"})) == "20250826_1200"
    assert cycle_of(Wildcards(fromdict={"member": "001"})) is None
