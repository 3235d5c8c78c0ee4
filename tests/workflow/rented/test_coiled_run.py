"""Whole runs through the coiled-gpu profile: the real snakemake, adapters, client and storage plugin."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from aifs_ensemble.common.storage import open_destination
from aifs_ensemble.delivery.standing import undelivered
from snakemake_executor_plugin_coiled.records import Journal
from waiting import wait_until

pytestmark = [pytest.mark.cloud, pytest.mark.workflow, pytest.mark.timeout(1200)]
# two members a machine, no second try
ARGUMENTS = ["--profile", "coiled-gpu", "--group-components", "members=2", "initial=1000", "--retries", "0"]


def forecasts(server):
    return [cluster for cluster in server.clusters.values() if "forecast_member" in cluster.title]


def logs(clusters):
    return "".join((cluster.folder / "log").read_text(errors="replace") for cluster in clusters)


def made(clusters):
    """Return the leads that each member's jobs said they made, by member."""
    found: dict[int, list[str]] = {}
    for member, leads in re.findall(r"member (\d+): made \[(.*?)\]", logs(clusters)):
        found.setdefault(int(member), []).append(leads)
    return found


def test_one_member_fails_and_only_it_is_made_again(project, coiled, tmp_path):
    config = project.configure(destination="gs://ensembles/fails")
    coiled.machine_env |= {"SMALL_FAIL": "2:7", "SMALL_FAIL_ONCE": str(tmp_path / "failed")}
    code, output = project.run(*ARGUMENTS)
    assert code != 0 and "exit code" in output
    first = forecasts(coiled)
    assert set(undelivered(config, config.members)) >= {2}, "a failed job was called a success"
    leads = {info.key for info in open_destination(config).list(config.objects.folder("forecasts"))}
    assert {config.objects.lead(member, 24) for member in (1, 3, 4)} | {config.objects.lead(2, 6)} <= leads
    states = {record.state for record in records(project) if "forecast" in record.title}
    assert states == {"success", "failed"}

    code, output = project.run(*ARGUMENTS)
    assert code == 0, output
    again = [cluster for cluster in forecasts(coiled) if cluster not in first]
    assert undelivered(config, config.members) == {}
    for member, leads in made(again).items():
        expected = "12, 18, 24" if member == 2 else ""
        assert leads == [expected], f"member {member} made {leads} again"
    assert all(cluster.state == "stopped" for cluster in coiled.clusters.values())

    # somebody deletes a lead: it is missed, and made by its name, and everything else stays as it is
    storage, lost = open_destination(config), config.objects.lead(3, 12)
    storage.delete(lost)
    before, clusters = generations(storage, config), len(coiled.clusters)
    code, output = project.run(*ARGUMENTS, lost)
    assert code == 0, output
    (cluster,) = [each for each in coiled.clusters.values() if each.id > clusters]
    assert made([cluster]) == {3: ["12"]}
    after = generations(storage, config)
    new = {lost, config.objects.receipt(3), config.objects.manifest(3)}
    assert {key for key in after if after[key] != before.get(key)} == new and set(before) <= set(after)
    assert storage.get_bytes(lost).startswith(b"3 12")
    # and whoever asks for a lead that is there hears so, with no machine
    code, output = project.run(*ARGUMENTS, lost)
    assert code == 0 and "Nothing to be done" in output and len(coiled.clusters) == clusters + 1, output


def generations(storage, config):
    return {info.key: info.generation for info in storage.list(f"{config.cycle}/")}


def records(project):
    return Journal(project.folder / ".snakemake" / "rented").all()


@pytest.mark.long
def test_a_coordinator_that_died_takes_its_jobs_up_again(project, coiled):
    config = project.configure(destination="gs://ensembles/dies")
    coiled.machine_env |= {"SMALL_STEP_SECONDS": "1.5"}
    process = project.start(*ARGUMENTS)
    wait_until(lambda: len(forecasts(coiled)) == 2 and len(records(project)) == 3, process)
    wait_until(lambda: all(c.process is not None for c in forecasts(coiled)), process)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    project.run("--profile", "coiled-gpu", "--unlock")
    code, output = project.run(*ARGUMENTS)
    assert code == 0, output
    assert len(forecasts(coiled)) == 2, "machines were rented again for jobs that were still running"
    assert undelivered(config, config.members) == {}


@pytest.mark.long
def test_cancelling_beside_a_run_ends_it(project, coiled):
    """Snakemake has retries left for every job, and none of them rents a machine."""
    project.configure(destination="gs://ensembles/cancelled")
    coiled.machine_env |= {"SMALL_STEP_SECONDS": "30"}
    process = project.start(*ARGUMENTS[:-1], "2")
    # the mark concerns runs that have started for certain
    begun = time.monotonic() + 6
    wait_until(lambda: len(forecasts(coiled)) == 2 and time.monotonic() > begun, process)
    command = [sys.executable, "-m", "aifs_ensemble", "coiled-cancel"]
    done = subprocess.run(
        command, cwd=project.folder, env={**os.environ, **project.env}, capture_output=True, text=True, check=True
    )
    assert f"process {process.pid} on " in done.stderr and "rents no more machines" in done.stderr, done.stderr
    output, _ = process.communicate(timeout=240)
    assert process.returncode != 0 and "no more machines for this run" in output, output
    assert len(forecasts(coiled)) == 2 and not coiled.running()


@pytest.mark.long
def test_jobs_got_nothing_but_sources_and_the_bucket(project, coiled):
    """The machines' folders had only what was deployed; the bucket has the sources no more."""
    config = project.configure(destination="gs://ensembles/clean", members=1)
    code, output = project.run(*ARGUMENTS)
    assert code == 0, output
    keys = [info.key for info in open_destination(config).list("")]
    assert not [key for key in keys if "sources" in key]
    script = Path(coiled.clusters[1].folder / "script").read_text()
    assert str(project.folder) not in script


def test_a_checkpoint_that_machines_would_refuse_rents_none(whole, coiled):
    """One line names what registers the digest, before anything is asked for."""
    whole.configure(destination="gs://ensembles/unlisted", delivery={"streaming": True}, members="1")
    code, output = whole.run(*ARGUMENTS, "--config", "model=aifs-ens-1.0")
    assert code != 0
    assert (
        "models.yaml lists no sha256 for aifs-ens-1.0" in output and "checkpoint register aifs-ens-1.0 PATH" in output
    )
    assert "Traceback" not in output and not coiled.clusters
