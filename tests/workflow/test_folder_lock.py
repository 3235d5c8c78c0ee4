"""A run that was killed is started again as ever; one that lives is named: real snakemake, really killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import pytest
from aifs_ensemble.common.files import write_json
from aifs_ensemble.common.records import sealed
from aifs_ensemble.workflow.folder_lock import SCHEMA, RunRecord
from waiting import wait_until

from workflow.project import CYCLE, Project

pytestmark = pytest.mark.workflow
LIBRARY = Path(__file__).parents[2] / "scripts"
SNAKEFILE = """
import sys
from aifs_ensemble.workflow import folder_lock

if workflow.is_main_process:
    folder_lock.hold(workflow, lambda line: print(line, file=sys.stderr))

rule slow:
    output: "{name}.txt"
    shell: "echo $$ > {wildcards.name}.begun; while [ ! -e go ]; do sleep 0.1; done; touch {output}"
"""
Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Return a function that starts ``snakemake ARGUMENTS`` in a folder; what still runs is killed at the end."""
    (tmp_path / "Snakefile").write_text(SNAKEFILE)
    begun: list[subprocess.Popen[str]] = []

    def snakemake(*arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "snakemake", "--cores", "1", "--rerun-incomplete", *arguments]
        # a file: nobody waits for what orphans hold open
        with open(tmp_path / f"said{len(begun)}", "w") as said:
            begun.append(
                subprocess.Popen(
                    command, cwd=tmp_path, stdout=said, stderr=said, text=True, start_new_session=True,
                    env=os.environ | {"PYTHONPATH": str(LIBRARY)},
                )
            )  # fmt: skip
        return begun[-1]

    yield snakemake
    (tmp_path / "go").touch()  # orphans end
    for process in begun:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def records(folder: Path) -> list[Path]:
    return list((folder / ".snakemake" / "runs").glob("*.json"))


def test_a_living_run_is_named_and_a_dead_one_is_gone_on_from(start: Start, tmp_path: Path) -> None:
    first = start("a.txt")
    wait_until((tmp_path / "a.begun").exists, first)
    assert start("a.txt").wait() == 1
    said = (tmp_path / "said1").read_text()
    (line,) = [line for line in said.splitlines() if "another snakemake" in line]
    assert line.startswith(
        f"Error: {tmp_path}: another snakemake works in this folder (process {first.pid} on {os.uname()[1]}"
    )
    assert "LockException" not in said and "--unlock" not in said
    assert first.poll() is None and len(records(tmp_path)) == 1, "the run that lives was harmed"

    (tmp_path / "b.begun").unlink(missing_ok=True)
    other = start("b.txt")  # other files: both run beside each other, as ever
    wait_until((tmp_path / "b.begun").exists, other)

    for process in (first, other):
        process.kill()
        process.wait()
    # their jobs go on: what they inherited holds nobody up
    assert all((Path("/proc") / (tmp_path / f"{name}.begun").read_text().strip()).exists() for name in "ab")
    assert len(records(tmp_path)) == 2
    # neither of them takes or removes anything
    for arguments in (["-n"], ["--summary"], ["--list-rules"]):
        assert start("a.txt", *arguments).wait() == 0
    assert len(records(tmp_path)) == 2 and list((tmp_path / ".snakemake" / "locks").iterdir())

    again = start("a.txt")
    wait_until(lambda: "the run before is dead (process" in (tmp_path / "said6").read_text(), again)
    (tmp_path / "go").touch()
    assert again.wait() == 0
    assert (tmp_path / "a.txt").exists() and records(tmp_path) == []


@pytest.mark.parametrize("known", [True, False], ids=["of another machine", "without a record"])
def test_locks_of_which_nobody_knows_are_left_in_one_line(start: Start, tmp_path: Path, known: bool) -> None:
    first = start("a.txt")
    wait_until((tmp_path / "a.begun").exists, first)
    first.kill()
    first.wait()
    (record,) = records(tmp_path)
    record.unlink()
    if known:
        write_json(record, sealed(asdict(RunRecord(SCHEMA, "elsewhere", 17, "2026-11-29 12:00:00 UTC"))))
    assert start("a.txt").wait() == 1
    (line,) = [line for line in (tmp_path / "said1").read_text().splitlines() if "snakemake works" in line]
    assert ("process 17 on elsewhere" if known else "unknown") in line and "--unlock" in line
    (tmp_path / "go").touch()
    assert start("a.txt", "--unlock").wait() == 0
    assert start("a.txt").wait() == 0
    assert records(tmp_path) == []


def test_the_database_of_snakemake_is_unlocked_too(start: Start, tmp_path: Path) -> None:
    first = start("a.txt", "--persistence-backend", "db")
    wait_until((tmp_path / "a.begun").exists, first)
    first.kill()
    first.wait()
    again = start("a.txt", "--persistence-backend", "db")
    wait_until(lambda: "the run before is dead" in (tmp_path / "said1").read_text(), again)
    (tmp_path / "go").touch()
    assert again.wait() == 0


def test_a_killed_run_of_the_workflow_goes_on(fresh: Project) -> None:
    """The whole workflow: killed while a member computes. The same command makes the same bytes, and its job lives."""
    expected = fresh.leads(2)
    for path in [*fresh.results.rglob("*member002*"), *(fresh.scratch / "forecasts").rglob("*member002*")]:
        path.unlink()
    shutil.rmtree(fresh.scratch / "work" / "member002")
    (fresh.scratch / "manifests" / "member002.json").unlink()
    process = subprocess.Popen(
        [sys.executable, "-m", "snakemake", "--profile", "local"], cwd=fresh.folder, start_new_session=True,
        env=os.environ | {"PYTHONPATH": ""}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    work = fresh.scratch / "work" / "member002" / "lock"
    wait_until(lambda: work.exists() and work.read_text(), process)
    process.kill()
    process.wait()
    said = fresh.run()
    assert f"the run before is dead (process {process.pid} " in said
    assert fresh.leads(2) == expected
    assert json.loads((fresh.results / "manifest.json").read_text())["cycle"] == CYCLE
