"""Words for cycles at the door of a run: resolved once, by indexes, and told to every job.

And which of `cycle` and `cycles` a run and a command mean where one file names the one, and another place the other.
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from aifs_ensemble.cli import main
from aifs_ensemble.common import clock
from aifs_ensemble.common.errors import ConfigError
from aifs_ensemble.workflow.cycle import word_of
from doubles.opendata_server import serve

from workflow.dry_runs import dry_run
from workflow.late_service import ClockFile, snakemake
from workflow.project import Project
from workflow.test_snakemake_internals import run  # noqa: F401

pytestmark = [pytest.mark.workflow, pytest.mark.cloud]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return Project.copy(tmp_path_factory.mktemp("latest") / "project", members="1-2", lead_hours=6, cycle="latest-06z")


def from_server(url: str) -> str:
    source = {"source": "ecmwf-open-data", "ecmwf_open_data": {"sources": [url], "attempts": 1}}
    return f"initial_conditions={json.dumps(source)}"


def test_without_network_a_dry_run_says_one_line(checkout: Project, tmp_path: Path) -> None:
    with serve(tmp_path) as server:
        closed = server.url
    said = dry_run(checkout.folder, "--config", from_server(closed), profile="coiled-gpu", code=1)
    lines = [line for line in said.splitlines() if "'latest-06z' is not known: no source of initial cond" in line]
    assert len(lines) == 1 and lines[0].endswith("; name a cycle, YYYYMMDD_HHMM")
    assert "Traceback" not in said and "rule " not in said


def test_a_service_without_any_of_them_is_asked_for_indexes_alone(checkout: Project, tmp_path: Path) -> None:
    with serve(tmp_path) as server:
        said = dry_run(checkout.folder, "--config", from_server(server.url), code=1)
        assert "'latest-06z': none of the last 8 has its inputs (" in said
        assert 0 < len(server.log) <= 8 and all(path.endswith(".index") for path, _ in server.log)


def test_what_is_no_word_names_file_and_line(tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("members: 1\ncycle: latest-doomsday\n")
    with pytest.raises(ConfigError) as refused:
        word_of({"cycle": "latest-doomsday"}, [own])
    assert str(refused.value).startswith(f"{own}:2: cycle: 'latest-doomsday', expected latest, latest-thursday, ")
    assert word_of({"cycle": "20250819_0000"}, [own]) is None


def test_commands_know_words(
    checkout: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Those that look mean what is there; those that compute mean what could be."""
    monkeypatch.chdir(checkout.folder)
    monkeypatch.setattr(clock, "now", lambda: datetime(2025, 8, 21, 5, tzinfo=UTC))
    assert main(["status"]) == 3
    assert "'latest-06z': results and scratch have no such cycle, expected one that was run" in capsys.readouterr().err
    for cycle in ("20250818_0600", "20250819_0600", "20250820_0000"):
        (checkout.folder / "results" / cycle).mkdir(parents=True)
    (checkout.folder / "scratch" / "20250817_0600").mkdir(parents=True)
    for command in (["status"], ["account"], ["gc"]):
        main(command)
        assert "cycle latest-06z: 20250819_0600\n" in capsys.readouterr().err
    assert main(["plan"]) == 0
    assert "cycle latest-06z: 20250820_0600" in capsys.readouterr().err
    assert main(["doctor", "--json"]) in (0, 1)
    found = {one["name"]: one["text"] for one in json.loads(capsys.readouterr().out)}
    assert "20250820_0600" in found["source"]


def test_a_doctor_says_that_nobody_has_the_cycle(
    checkout: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(checkout.folder)
    with serve(tmp_path) as server:
        assert main(["doctor", "--json", "--profile", "local", "--config", from_server(server.url)]) == 1
    found = {one["name"]: (one["state"], one["text"]) for one in json.loads(capsys.readouterr().out)}
    assert found["cycle"][0] == "failure" and "none of the last 8 has its inputs" in found["cycle"][1]
    assert found["source"][0] == "failure" and found["destination"][0] == "ok"


def test_words_of_one_kind_in_a_list_are_looked_up_once(checkout: Project, tmp_path: Path) -> None:
    with serve(tmp_path) as server:
        asked = ["--config", "cycles=latest-06z-1d, latest-06z, 20250801_0000..latest-06z every 7d"]
        said = dry_run(checkout.folder, *asked, from_server(server.url), code=1)
        assert "config: cycles: 'latest-06z-1d': none of the last 8 has its inputs (" in said, said
        assert 0 < len(server.log) <= 8 and all(path.endswith(".index") for path, _ in server.log)


def test_a_run_without_a_destination_asks_nobody(checkout: Project, tmp_path: Path) -> None:
    clock_file = ClockFile(tmp_path / "clock")
    clock_file.set(datetime(2025, 8, 20, 9, tzinfo=UTC))
    with serve(tmp_path) as server:
        for word in ("cycle=latest-06z", "cycles=[latest-06z]"):
            asked = ["--config", "destination=null", word, from_server(server.url)]
            code, said = snakemake(checkout.folder, clock_file, "--profile", "local", *asked)
            assert code == 1 and server.log == [], said
            assert "config: destination is not set, expected a folder or gs://BUCKET[/PREFIX]" in said


@pytest.mark.long
def test_a_run_of_words_makes_the_cycles_that_they_mean(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Over the cycle of config.yaml. Commands mean the same cycles weeks later, but for those that compute."""
    project = Project.copy(tmp_path / "project", members="1", lead_hours=6, forecast={"encoders": 1})
    asked = ["--config", "cycles=20250819_0000..latest-00z every 1d, latest-00z-1d"]
    clock_file = ClockFile(tmp_path / "clock")
    clock_file.set(datetime(2025, 8, 20, 5, tzinfo=UTC))
    code, said = snakemake(project.folder, clock_file, "--profile", "local", *asked)
    assert code == 0, said[-4000:]
    assert [line for line in said.splitlines() if line.startswith("cycles ")] == [
        "cycles latest-00z: 20250820_0000",
        "cycles latest-00z-1d: 20250819_0000",
        "cycles latest-00z-1d: 20250819_0000 is named already, counted once",
    ]
    made = ["20250819_0000", "20250820_0000"]
    assert sorted(path.name for path in (project.folder / "results").glob("2*")) == made

    monkeypatch.chdir(project.folder)
    monkeypatch.setattr(clock, "now", lambda: datetime(2025, 8, 22, 5, tzinfo=UTC))
    assert main(["verify", "--json", *asked]) == 0
    shown = capsys.readouterr()
    assert [*json.loads(shown.out)["cycles"]] == made and "cycles latest-00z: 20250820_0000\n" in shown.err
    assert main(["status", *asked, "--cycle", made[1]]) == 0
    assert "delivered" in capsys.readouterr().out
    assert main(["plan", "--json", *asked]) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out)["cycles"] == [*made, "20250821_0000", "20250822_0000"]
    assert "cycles latest-00z: 20250822_0000\n" in shown.err


PLACES = {
    "a file over another": ({"mine.yaml": {"cycles": ["20250805_0000", "20250812_0000"]}}, [], 2),
    "the command line over a file": ({}, ["cycles=20250805_0000,20250812_0000"], 2),
    "both, one of them null": ({}, ["cycle=null", "cycles=20250805_0000,20250812_0000"], 2),
    "one over several": ({"mine.yaml": {"cycles": "20250805_0000,20250812_0000"}}, ["cycle=20250805_0000"], 1),
    "both in a file": ({"mine.yaml": {"cycle": "20250805_0000", "cycles": ["20250812_0000"]}}, [], 0),
    "both on the command line": ({}, ["cycle=20250805_0000", "cycles=20250812_0000"], 0),
}


@pytest.mark.parametrize("place", PLACES)
def test_runs_and_commands_mean_the_key_that_is_given_later(
    checkout: Project, place: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Over the word in config.yaml, which nobody looks up then."""
    files, given, count = PLACES[place]
    for name, content in files.items():
        (checkout.folder / name).write_text(json.dumps(content))
    arguments = ["--configfile", "config/config.yaml", *files, *(["--config", *given] if given else [])]
    monkeypatch.chdir(checkout.folder)
    code = main(["plan", "--json", *arguments])
    shown = capsys.readouterr()
    said = dry_run(checkout.folder, *arguments, code=0 if count else 1)
    if not count:
        where = "mine.yaml:1: cycles" if files else "config: cycles"
        line = f"{where}: beside cycle: '20250805_0000', expected one of the two"
        assert code == 2 and shown.err == f"error: {line}\n" and f"Error: {line}\n" in said, said
        return
    assert code == 0, shown.err
    plan = json.loads(shown.out)
    cycles = ["20250805_0000", "20250812_0000"][:count]
    assert plan.get("cycles", [plan.get("cycle")]) == cycles and shown.err == ""
    assert f"plan: {'2 cycles, ' if count == 2 else ''}20250805_0000" in said and "latest-06z" not in said, said


SETTLED = """
configfile: "config.yaml"
given = internals.given_config(workflow)
see(before=config["cycle"], main=internals.is_coordinator(workflow), given=given)
if internals.is_coordinator(workflow):
    internals.settle_config(workflow, config, "cycle", "20250820_0600")
    internals.settle_config(workflow, config, "cycles", None)

rule job:
    output: "job.txt"
    run:
        with open(output[0], "w") as file:
            json.dump(config, file)
"""


@pytest.mark.parametrize("given", [[], ["members=3", "cycle=latest-1d"]])
def test_jobs_are_told_the_cycle(run: Any, tmp_path: Path, given: list[str]) -> None:  # noqa: F811
    """`snakemake_internals.settle_config`: a job reads the file, and takes what the run has found."""
    (tmp_path / "config.yaml").write_text("cycle: latest\ncycles: [latest]\nmembers: 1\n")
    seen = run(SETTLED, "-c1", "job.txt", *(["--config", *given] if given else []))
    assert [one["main"] for one in seen] == [True, False]
    made = json.loads((tmp_path / "job.txt").read_text())
    assert re.sub("_", "", str(made["cycle"])) == "202508200600"
    assert made["members"] == (3 if given else 1) and made["cycles"] == "null"
    assert seen[0]["given"] == ({"members": 3, "cycle": "latest-1d"} if given else {})
