"""Ten ways in which a coordinator ends, and the machines left after it: none, once their limits have passed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from coiled_server import CoiledServer
from snakemake_executor_plugin_coiled.records import JobRecord, Journal

from workflow.rented.conftest import Project

pytestmark = [pytest.mark.cloud, pytest.mark.workflow, pytest.mark.timeout(1200)]
# a member a machine, no second try
ARGUMENTS = ["--profile", "coiled-gpu", "--group-components", "members=1", "initial=1000", "--retries", "0"]
LIMIT_SECONDS = 90
Way = Callable[[subprocess.Popen, Project], None]


def to_all(*signals: signal.Signals) -> Way:
    """Send signals to the coordinator and its commands, as a terminal does."""

    def end(process: subprocess.Popen, project: Project) -> None:
        for number in signals:
            os.killpg(process.pid, number)
            time.sleep(0.3)

    return end


def lose_records(process: subprocess.Popen, project: Project) -> None:
    # looks at jobs write there meanwhile
    while process.poll() is None:
        shutil.rmtree(project.folder / ".snakemake" / "rented", ignore_errors=True)
        time.sleep(0.2)


def wait(process: subprocess.Popen, project: Project) -> None:
    """Do nothing: the run ends by itself."""


# how it ends, seconds a step takes meanwhile, and what is changed for it
WAYS: dict[str, tuple[Way, float, dict]] = {
    "Ctrl-C": (to_all(signal.SIGINT), 30, {}),
    "closed terminal": (to_all(signal.SIGHUP), 30, {}),
    "two Ctrl-C": (to_all(signal.SIGINT, signal.SIGINT), 30, {}),
    "SIGTERM waits for what runs": (to_all(signal.SIGTERM), 1, {}),
    "SIGKILL": (to_all(signal.SIGKILL), 200, {"limit": True}),
    "records lost": (lose_records, 200, {"limit": True}),
    "failed job": (wait, 0, {"machine": {"SMALL_FAIL": "2:7"}}),
    "failed rule here": (wait, 0, {"rule": "exit 3"}),
    "--until": (wait, 0, {"arguments": ["--until", "forecast_member"]}),
    "full disk": (wait, 5, {"full": True}),
}
QUICK = ("Ctrl-C",)


def records(project: Project) -> list[JobRecord]:
    return Journal(project.folder / ".snakemake" / "rented").all()


def forecasts(server: CoiledServer) -> list:
    return [each for each in server.clusters.values() if "forecast_member" in each.title and each.process is not None]


def start(project: Project, full: bool, arguments: list[str]) -> subprocess.Popen:
    """Start a run; with `full`, all that it says meets a disk without room."""
    if not full:
        return project.start(*ARGUMENTS, *arguments)
    with open("/dev/full", "w") as nowhere:
        return subprocess.Popen(
            project.command(*ARGUMENTS, *arguments), cwd=project.folder, env={**os.environ, **project.env},
            stdout=nowhere, stderr=nowhere, start_new_session=True,
        )  # fmt: skip


@pytest.mark.parametrize("way", [way if way in QUICK else pytest.param(way, marks=pytest.mark.long) for way in WAYS])
def test_nothing_stays_rented(project: Project, coiled: CoiledServer, way: str) -> None:
    end, seconds, changes = WAYS[way]
    limit = {"max_hours": LIMIT_SECONDS / 3600} if changes.get("limit") else {}
    project.configure(destination=f"gs://ensembles/ends{list(WAYS).index(way)}", members="1-2", cloud=limit)
    if rule := changes.get("rule"):
        snakefile = project.folder / "Snakefile"
        snakefile.write_text(snakefile.read_text().replace("cat {input} > {output}", rule))
    coiled.machine_env |= {"SMALL_STEP_SECONDS": str(seconds), **changes.get("machine", {})}
    process = start(project, bool(changes.get("full")), changes.get("arguments", []))
    until = time.monotonic() + 300
    while len(forecasts(coiled)) < 2 and process.poll() is None and time.monotonic() < until:
        time.sleep(0.05)
    assert len(forecasts(coiled)) == 2 or way == "full disk", process.communicate()[0]
    end(process, project)
    output = process.communicate(timeout=400)[0] or ""
    assert (process.returncode == 0) == (way == "--until"), output
    until = time.monotonic() + 300
    while coiled.running():
        assert time.monotonic() < until, f"{len(coiled.running())} machines left\n{output}\n{log(project)}"
        time.sleep(0.2)
    if way in QUICK:
        assert "Cancelling" in output or "Terminating" in output, output
        while {record.state for record in records(project)} & {"running"}:
            assert time.monotonic() < until, log(project)
            time.sleep(0.2)
    if way == "SIGKILL":
        assert all(each.reason == "job timeout" for each in forecasts(coiled)), "its limit ended the machine"
    # whatever a machine is rented for has limits, here and outside
    assert all(each.job["job_timeout_seconds"] for each in coiled.clusters.values())


def log(project: Project) -> str:
    path: Path = project.folder / ".snakemake" / "rented" / "cancel.log"
    return path.read_text() if path.exists() else ""
