"""Coiled jobs through the real client against the loopback service, without Snakemake."""

from __future__ import annotations

import inspect
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from aifs_ensemble.cli import main
from aifs_ensemble.cloud import coiled_jobs, coiled_request, context, coordinator
from aifs_ensemble.cloud.jobscript import RemoteJob, parse_job
from aifs_ensemble.cloud.journal import JobRecord, Journal
from aifs_ensemble.config import Config, merge, read_files
from aifs_ensemble.errors import CloudError, ConfigError
from aifs_ensemble.machines import load_machines
from doubles.coiled_server import CoiledServer

from cloud.conftest import ROOT, SETTINGS

pytestmark = pytest.mark.cloud
MACHINES = load_machines()


def settings(**changes: object) -> Config:
    raw = read_files(ROOT / "config" / "config.yaml", ROOT / "config" / "operational.yaml")
    merge(raw, SETTINGS)
    merge(raw, changes)
    return Config(raw)


def job(
    command: str = "true", machine: str = "gpu", spot: bool = False, members: str = "001", **resources
) -> RemoteJob:
    targets = " ".join(f"'forecast_member:member={m}'" for m in members.split(","))
    kind = "spot" if spot else "standard"
    asked = ", ".join(f'"{k}": {v}' for k, v in resources.items())
    script = (
        f'#!/bin/sh\n# properties = {{"resources": {{"machine": "{machine}", "provisioning": "{kind}"'
        f"{', ' + asked if asked else ''}}}}}\n{command} # --target-jobs\n: --target-jobs {targets} --attempt 1\n"
    )
    return parse_job(script.replace(" # --target-jobs", ""), "test")


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[CoiledServer]:
    import coiled  # noqa: F401  (puts its defaults into dask's configuration, which are gone after `set` otherwise)
    import dask.config

    made = CoiledServer(tmp_path / "machines", {"PATH": "/usr/bin:/bin"})
    with dask.config.set({"coiled.server": made.url, "coiled.token": "loopback-token", "coiled.workspace": None}):
        yield made
    made.close()
    assert not made.unknown, made.unknown


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "journal")


def rewrite(journal: Journal, job_id: str, **changes: object) -> JobRecord:
    """Change what is on disk, whatever was there."""
    path = journal.path(job_id)
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return journal.read(job_id)


def forget_answer(journal: Journal, job_id: str) -> JobRecord:
    """Leave the record as a process killed between asking and being answered does."""
    requests = json.loads(journal.path(job_id).read_text())["requests"]
    return rewrite(journal, job_id, requests=[*requests[:-1], {**requests[-1], "cluster_id": None}])


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Journal:
    """The journal of a coordinator's folder, in which its commands run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(context.VARIABLE, json.dumps(dict(settings())))
    return Journal()


@contextmanager
def other_coordinator() -> Iterator[str]:
    """Yield the name of a coordinator that lives as long as the context."""
    process = subprocess.Popen(["sleep", "600"])
    started = psutil.Process(process.pid).create_time()
    try:
        yield f"{coordinator.this_host()}-{process.pid}-{started:.0f}-0123abcd"
    finally:
        process.kill()
        process.wait()


def finish(journal: Journal, job_id: str, config: Config, seconds: float = 20) -> JobRecord:
    end = time.monotonic() + seconds
    while True:
        record = coiled_jobs.check(journal.read(job_id), config, MACHINES, journal)
        if record.state != "running":
            return record
        assert time.monotonic() < end, record
        time.sleep(0.05)


def test_client_takes_what_is_given():
    """The installed client still has every parameter, and the functions, that the adapter uses."""
    import coiled
    import coiled.batch

    arguments = coiled_request.run_arguments(job(spot=True), "x", settings(), MACHINES, "us-central1")
    run = inspect.signature(coiled.batch.run).parameters
    cluster = inspect.signature(coiled.Cluster.__init__).parameters
    assert set(arguments) | {"cloud"} <= set(run)
    assert set(arguments["cluster_kwargs"]) <= set(cluster)
    assert list(inspect.signature(coiled.batch.status).parameters) == ["cluster", "workspace"]
    for name in ("delete_cluster", "cluster_details", "get_clusters_by_name"):
        assert callable(getattr(coiled.Cloud, name))
    assert {"cluster_id", "reason"} <= set(inspect.signature(coiled.Cloud.delete_cluster).parameters)


REQUESTS = {
    "gpu on demand": (
        {"machine": "gpu"},
        {
            "scheduler_instance_types": ["a2-ultragpu-1g"],
            "workers": 0,
            "extra_user_container": "registry/gpu",
            "cluster_timeout_seconds": 6 * 3600 + 1800,
        },
        {"region_name": "us-central1", "spot": False},
    ),
    "gpu spot": (
        {"machine": "gpu", "spot": True},
        {"worker_instance_types": ["a2-ultragpu-1g"], "workers": 1, "scheduler_instance_types": ["n2-standard-2"]},
        {"spot": True, "spot_on_demand_fallback": False, "spot_replacement": False},
    ),
    "cpu": (
        {"machine": "cpu"},
        {"scheduler_instance_types": ["n2-standard-2"], "extra_user_container": "registry/etl"},
        {"spot": False},
    ),
    "disk": ({"machine": "cpu", "disk_mb": 20500}, {"scheduler_disk_size": 81}, {}),
}


@pytest.mark.parametrize("case", REQUESTS)
def test_request(case, server, journal):
    asked, expected, options = REQUESTS[case]
    config = settings(cloud={"labels": {"team": "ens"}})
    coiled_jobs.submit(job(**asked), config, MACHINES, ["us-central1"], journal)
    request = server.clusters[1].request
    assert {name: request[name] for name in expected} == expected
    assert {name: request["options"][name] for name in options} == options
    assert "scheduler_accelerator_type" not in request["options"], "a card that nobody asked for"
    assert request["scheduler_options"]["idle_timeout"] == "520 weeks", "dask sees no work and would end the job"
    assert request["tags"] == {
        "cycle": config.cycle,
        "rule": "forecast_member",
        "workflow": "aifs-ensemble",
        "team": "ens",
        "coiled-cluster-type": "batch",
    }
    sent = server.jobs[1]
    assert sent["job_timeout_seconds"] == 6 * 3600 and sent["max_retries"] == 0
    assert "shutdown -P +390" in sent["host_setup"]
    assert [file["path"] for file in sent["user_files"]] == ["script"], "local files were uploaded"


def test_secrets_reach_the_machine_and_nothing_else(server, journal, monkeypatch):
    config = settings(cloud={"secrets": ["HF_TOKEN"]})
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with pytest.raises(ConfigError, match=r"cloud\.secrets: HF_TOKEN not set"):
        coiled_jobs.submit(job(), config, MACHINES, ["us-central1"], journal)
    monkeypatch.setenv("HF_TOKEN", "hidden-value")
    asked = job('test "$HF_TOKEN" = hidden"-value"')
    record = finish(journal, coiled_jobs.submit(asked, config, MACHINES, ["us-central1"], journal), config)
    assert record.state == "success", record.reason
    (sent,) = (content for content in server.jobs.values() if content["secret_env_vars"])
    others = {name: value for name, value in sent.items() if name != "secret_env_vars"}
    assert "hidden-value" not in repr(others) + repr(server.clusters[1].request)
    assert not [path for path in journal.folder.iterdir() if "hidden-value" in path.read_text()]


def test_environment_instead_of_image(server, journal):
    config = settings(cloud={"gpu_image": "aifs-ensemble-gpu"})
    coiled_jobs.submit(job(), config, MACHINES, ["us-central1"], journal)
    request = server.clusters[1].request
    assert (request["env_name"], request["extra_user_container"]) == ("aifs-ensemble-gpu", None)


ENDS = {
    "exit 0": ("exit 0", "success", ""),
    "exit 7": ("exit 7", "failed", "exit code 7"),
    "killed": ("kill -9 $$", "failed", "exit code"),
}


@pytest.mark.parametrize("case", ENDS)
def test_ends(case, server, journal):
    command, state, reason = ENDS[case]
    config = settings()
    record = finish(journal, coiled_jobs.submit(job(command), config, MACHINES, ["us-central1"], journal), config)
    assert record.state == state and reason in record.reason
    assert server.clusters[1].state == "stopped"


def test_a_job_that_ends_between_two_looks_is_no_failure(server, journal, tmp_path):
    """Its tasks and its machine are asked for one after the other; both end in between."""
    config = settings()
    end = tmp_path / "end"
    command = f"while [ ! -e {end} ]; do sleep 0.05; done"
    job_id = coiled_jobs.submit(job(command), config, MACHINES, ["us-central1"], journal)

    def ends(cluster):
        end.touch()
        cluster.process.wait()
        server._ended(cluster, 0)

    while not server.running():
        time.sleep(0.02)
    server.after_tasks = ends
    assert finish(journal, job_id, config).state == "success"


def test_preempted(server, journal):
    config = settings()
    job_id = coiled_jobs.submit(job("sleep 60", spot=True), config, MACHINES, ["us-central1"], journal)
    while not server.running():
        time.sleep(0.02)
    server.preempt(server.clusters[1])
    record = finish(journal, job_id, config)
    assert record.state == "failed" and "preempted" in record.reason
    assert ("DELETE", "/api/v2/clusters/account/loopback/id/1") in [call[:2] for call in server.calls]


def test_a_preempted_worker_beside_a_living_scheduler(server, journal):
    """The cluster stays ready and its task has no exit code: after one more look the job has failed."""
    config = settings()
    job_id = coiled_jobs.submit(job("sleep 60", spot=True), config, MACHINES, ["us-central1"], journal)
    while not server.running():
        time.sleep(0.02)
    assert coiled_jobs.check(journal.read(job_id), config, MACHINES, journal).state == "running"
    server.preempt_worker(server.clusters[1])
    states = [coiled_jobs.check(journal.read(job_id), config, MACHINES, journal).state for _ in range(2)]
    assert states == ["running", "failed"]
    assert "preempted" in journal.read(job_id).reason and server.clusters[1].state == "stopped"


def test_a_worker_is_lost_only_when_none_lives():
    def worker(process, instance):
        made = {"current_state": {"state": instance, "reason": "why"}} if instance else None
        return {"current_state": {"state": process, "reason": ""}, "instance": made}

    pending, begun = ([{"tasks": [{"state": "pending", "exit_code": None, "start": s}]}] for s in (None, "t"))
    gone = "preemptible machine gone before the job ended"
    cases = [
        (pending, [], None),
        (begun, [], gone),
        (pending, [worker("pending", None)], None),
        (begun, [worker("started", "ready")], None),
        (begun, [worker("started", "stopping")], f"{gone}: why"),
        (pending, [worker("stopped", "error")], f"{gone}: why"),
        (begun, [worker("stopped", "stopped"), worker("pending", "starting")], None),
    ]
    for jobs, workers, lost in cases:
        assert coiled_jobs.worker_lost(jobs, workers) == lost, (jobs, workers)


@pytest.mark.parametrize("at_once", [True, False], ids=["refused at once", "found out later"])
def test_next_region_on_stock_out(at_once, server, journal):
    server.no_machines, server.refuse_at_once = {"us-central1", "us-east4"}, at_once
    config = settings()
    regions = ["us-central1", "us-east4", "europe-west4"]
    record = finish(journal, coiled_jobs.submit(job("exit 0"), config, MACHINES, regions, journal), config)
    assert record.state == "success"
    assert [request.region for request in record.requests] == regions


def test_next_region_when_no_machine_comes(server, journal):
    server.never_ready = {"us-central1"}
    config = settings(cloud={"idle_minutes": 0.01})
    job_id = coiled_jobs.submit(job("exit 0"), config, MACHINES, ["us-central1", "us-east4"], journal)
    time.sleep(0.8)
    record = coiled_jobs.check(journal.read(job_id), config, MACHINES, journal)
    assert [request.region for request in record.requests] == ["us-central1", "us-east4"]
    assert server.clusters[1].state == "stopped", "the request that waits in vain still stands"


def test_a_slow_answer_of_the_next_region_is_waited_for(server, journal, monkeypatch):
    """The deadline of a look does not interrupt the request for a machine that follows from it."""
    answer, config = server.answer, settings(cloud={"idle_minutes": 1e-6})
    server.never_ready = {"us-central1"}
    job_id = coiled_jobs.submit(job("sleep 60"), config, MACHINES, ["us-central1", "us-east4"], journal)

    def slow(verb, path, body):
        if verb == "POST" and path.startswith("/api/v2/clusters/account/"):
            time.sleep(1.5)
        return answer(verb, path, body)

    monkeypatch.setattr(server, "answer", slow)
    monkeypatch.setattr(coiled_jobs, "LOOK_SECONDS", 1.0)
    record = coiled_jobs.check(journal.read(job_id), config, MACHINES, journal)
    assert record.state == "running", record.reason
    assert [request.cluster_id for request in record.requests] == [1, 2]


def test_a_submission_whose_answer_is_unknown_is_looked_for_again(server, journal, monkeypatch):
    """The machine was rented, the answer lost, and its name cannot be asked for now: nothing is rented beside it."""
    answer, config = server.answer, settings()

    def lost(verb, path, body):
        if "interaction" in path:
            return 500, {}
        return (400, {"message": "not now"}) if verb == "GET" and "?name=" in path else answer(verb, path, body)

    with monkeypatch.context() as now:
        now.setattr(server, "answer", lost)
        job_id = coiled_jobs.submit(job("exit 0"), config, MACHINES, ["us-central1"], journal)
    assert journal.read(job_id).requests[0].cluster_id is None
    assert finish(journal, job_id, config).state == "success" and len(server.clusters) == 1


def test_a_submission_is_not_interrupted_by_what_ends_the_coordinator():
    code = """if True:
        import os, signal
        from aifs_ensemble.cli._quiet import stdout_for_snakemake
        with stdout_for_snakemake() as answer:
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                os.kill(os.getpid(), number)
            print("the answer", file=answer)
    """
    env = {**os.environ, "PYTHONPATH": str(ROOT / "scripts")}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "the answer\n"), done.stderr


@pytest.mark.parametrize("at_once", [True, False], ids=["refused at once", "found out later"])
def test_no_machine_anywhere_is_waited_for(at_once, server, journal, caplog):
    """Snakemake's retries, seconds apart, are not spent on it."""
    config, regions = settings(), ["us-central1", "us-east4"]
    server.no_machines, server.refuse_at_once = set(regions), at_once
    job_id = coiled_jobs.submit(job("exit 0"), config, MACHINES, regions, journal)
    for _ in range(4):
        record = coiled_jobs.check(journal.read(job_id), config, MACHINES, journal)
    assert record.state == "running" and [request.region for request in record.requests] == regions
    assert "no machine in us-central1, us-east4, asked again in 120 s" in caplog.text
    # and again, in the order of preference
    rewrite(journal, job_id, ask_at=time.time())
    for _ in range(4):
        record = coiled_jobs.check(journal.read(job_id), config, MACHINES, journal)
    assert record.state == "running" and [request.region for request in record.requests] == 2 * regions
    server.no_machines = {"us-central1"}
    rewrite(journal, job_id, ask_at=time.time())
    record = finish(journal, job_id, config)
    assert record.state == "success" and [request.region for request in record.requests] == 3 * regions


WAITS = {"on demand": (False, 3600.0), "preemptible": (True, 600.0)}


@pytest.mark.parametrize("case", WAITS)
def test_no_machine_anywhere_is_waited_for_so_long(case, server, journal):
    spot, longest = WAITS[case]
    server.no_machines, server.refuse_at_once = {"us-central1"}, True
    config = settings(cloud={"wait_hours": 1, "idle_minutes": 10})
    job_id = coiled_jobs.submit(job(spot=spot), config, MACHINES, ["us-central1"], journal)
    for waited, state in ((longest - 30, "running"), (longest + 1, "failed")):
        now = time.time()
        rewrite(journal, job_id, ask_at=now, waiting_since=now - waited)
        record = coiled_jobs.check(journal.read(job_id), config, MACHINES, journal)
        assert record.state == state
    assert re.search(rf"no machine in us-central1 for {longest / 60:.0f} min: .*EXHAUSTED", record.reason)
    assert len(record.requests) == 3 and not server.clusters


def test_no_machine_anywhere_and_no_wait(server, journal):
    server.no_machines, server.refuse_at_once = {"us-central1"}, True
    with pytest.raises(CloudError, match=r"no machine in us-central1 .*ZONE_RESOURCE_POOL_EXHAUSTED"):
        coiled_jobs.submit(job(), settings(cloud={"wait_hours": 0}), MACHINES, ["us-central1"], journal)
    assert journal.all()[0].state == "failed"


def test_lost_answer_is_found_again(server, journal, monkeypatch):
    """The machine was rented, but what the client did after that failed: it is neither lost nor rented twice."""
    answer = server.answer
    # the client reports every submission in the end; that request fails
    monkeypatch.setattr(
        server, "answer", lambda verb, path, body: (500, {}) if "interaction" in path else answer(verb, path, body)
    )
    config = settings()
    record = finish(journal, coiled_jobs.submit(job("exit 0"), config, MACHINES, ["us-central1"], journal), config)
    assert record.state == "success" and len(server.clusters) == 1


def test_running_jobs_are_taken_up_again(server, journal):
    """However Snakemake groups the members the next time, no machine is rented for what another one is making."""
    config = settings()
    for members in ("001,003", "002,004"):
        coiled_jobs.submit(job("sleep 2", members=members), config, MACHINES, ["us-central1"], journal)
    again = {}
    for members, jobs in (("003", 1), ("001,004", 2), ("002,005", 1)):
        again[members] = coiled_jobs.submit(job(members=members), config, MACHINES, ["us-central1"], journal)
        assert len(journal.read(again[members]).follows) == jobs
    for job_id in again.values():
        assert finish(journal, job_id, config).state == "success", "for members, the manifest decides"
    assert len(server.clusters) == 2
    assert all(record.state == "success" for record in journal.all())


OTHER_WORK = {
    "cycle": {"cycle": "20260101_1200"},
    "destination": {"destination": "gs://ensembles/smoke"},
    "leads": {"lead_hours": 48},
    "model": {"model": "aifs-ens-1.0"},
}


@pytest.mark.parametrize("case", OTHER_WORK)
def test_a_machine_of_another_run_is_not_taken_up(case, server, journal):
    """Targets name the member alone; the same member of another cycle is another job, and stops by itself."""
    config, other = settings(), settings(**OTHER_WORK[case])
    first = coiled_jobs.submit(job("sleep 60"), config, MACHINES, ["us-central1"], journal)
    second = coiled_jobs.submit(job("sleep 60"), other, MACHINES, ["us-central1"], journal)
    assert journal.read(second).follows == () and len(server.clusters) == 2
    assert coiled_jobs.cancel([second], other, journal) == []
    assert server.clusters[1].state != "stopped" and journal.read(first).state == "running"


def test_a_machine_of_a_living_coordinator_is_not_taken_up(server, journal, monkeypatch):
    config = settings()
    with other_coordinator() as name:
        monkeypatch.setenv(coordinator.VARIABLE, name)
        first = coiled_jobs.submit(job("sleep 60"), config, MACHINES, ["us-central1"], journal)
        monkeypatch.setenv(coordinator.VARIABLE, coordinator.new_name())
        with pytest.raises(CloudError, match=r"forecast_member 1: being made for another run \(process \d+ on "):
            coiled_jobs.submit(job(), config, MACHINES, ["us-central1"], journal)
        assert journal.read(first).owner == name and len(server.clusters) == 1
    again = coiled_jobs.submit(job(), config, MACHINES, ["us-central1"], journal)
    assert journal.read(again).follows == (first,) and journal.read(first).owner == coordinator.current()


def test_a_coordinator_is_known_by_more_than_its_number():
    mine = coordinator.new_name()
    host, pid, started, word = mine.rsplit("-", 3)
    assert coordinator.lives(mine)
    for other in (
        "",
        "4711-0123abcd",
        f"{host}-{pid}-{int(started) - 3600}-{word}",
        f"elsewhere-{pid}-{started}-{word}",
    ):
        assert not coordinator.lives(other), other


def test_records_of_an_earlier_version_can_be_cancelled_and_no_more(server, journal):
    config = settings()
    old = coiled_jobs.submit(job("sleep 60"), config, MACHINES, ["us-central1"], journal)
    content = json.loads(journal.path(old).read_text())
    del content["work"]
    journal.path(old).write_text(json.dumps({**content, "no_longer_known": 1}))
    new = coiled_jobs.submit(job("sleep 60"), config, MACHINES, ["us-central1"], journal)
    assert journal.read(new).follows == ()
    assert coiled_jobs.cancel([old], config, journal) == []
    assert server.clusters[1].state == "stopped" and journal.read(new).state == "running"


def test_a_copy_read_before_undoes_nothing(server, journal):
    """A status check that was under way while the job was cancelled and taken up writes its record last."""
    config = settings()
    job_id = coiled_jobs.submit(job("sleep 60"), config, MACHINES, ["us-central1"], journal)
    stale = journal.read(job_id)
    journal.take_up(stale.targets, stale.work, "another")
    coiled_jobs.cancel([job_id], config, journal)
    journal.write(stale)
    record = journal.read(job_id)
    assert (record.state, record.owner, record.requests[0].ended) == ("cancelled", "another", "cancelled")
    assert stale == record


def test_cancelled_while_being_looked_at(server, journal, monkeypatch):
    answer, config = server.answer, settings()
    job_id = coiled_jobs.submit(job("sleep 60"), config, MACHINES, ["us-central1"], journal)

    def cancels(verb, path, body):
        if path.startswith("/api/v2/jobs/cluster/"):
            monkeypatch.setattr(server, "answer", answer)
            found = answer(verb, path, body)
            assert coiled_jobs.cancel([job_id], config, journal) == []
            return found
        return answer(verb, path, body)

    monkeypatch.setattr(server, "answer", cancels)
    assert coiled_jobs.check(journal.read(job_id), config, MACHINES, journal).state == "cancelled"
    assert journal.read(job_id).state == "cancelled"


def test_cancelling_everything_ends_the_renting_of_a_run_under_way(here, server, monkeypatch, capsys):
    """Snakemake asks again for a job that was cancelled beside it; the next run is not concerned."""
    config = settings()
    name = coordinator.new_name()
    while not coordinator.started_before(name, time.time()):
        time.sleep(0.2)
    monkeypatch.setenv(coordinator.VARIABLE, name)
    first = coiled_jobs.submit(job("sleep 60"), config, MACHINES, ["us-central1"], here)
    assert main(["coiled-cancel", first]) == 0
    second = coiled_jobs.submit(job("sleep 60"), config, MACHINES, ["us-central1"], here)
    assert here.read(second).state == "running", "the run of a job cancelled by its id goes on"
    capsys.readouterr()
    assert main(["coiled-cancel"]) == 0
    told = capsys.readouterr().err.splitlines()
    assert [line for line in told if f"process {os.getpid()} on" in line and "rents no more machines" in line]
    with pytest.raises(CloudError, match="no more machines for this run, stopped by coiled-cancel"):
        coiled_jobs.submit(job("sleep 60"), config, MACHINES, ["us-central1"], here)
    assert {cluster.state for cluster in server.clusters.values()} == {"stopped"} and not here.unfinished()
    with other_coordinator() as later:
        monkeypatch.setenv(coordinator.VARIABLE, later)
        record = finish(here, coiled_jobs.submit(job(), config, MACHINES, ["us-central1"], here), config)
    assert record.state == "success"


def test_cancelled_while_being_asked_for(server, journal, monkeypatch):
    """The machine that is rented although its job was cancelled meanwhile is stopped again."""
    answer, config = server.answer, settings()

    def cancels(verb, path, body):
        if verb == "POST" and path.startswith("/api/v2/jobs/compressed"):
            monkeypatch.setattr(server, "answer", answer)
            assert coiled_jobs.cancel([journal.all()[0].id], config, journal) == []
        return answer(verb, path, body)

    monkeypatch.setattr(server, "answer", cancels)
    job_id = coiled_jobs.submit(job("sleep 60"), config, MACHINES, ["us-central1"], journal)
    assert server.clusters[1].state == "stopped"
    record = journal.read(job_id)
    assert (record.state, record.requests[0].ended) == ("cancelled", "cancelled")


def test_cancel_reaches_what_is_followed(server, journal):
    config = settings()
    coiled_jobs.submit(job("sleep 60", members="001,002"), config, MACHINES, ["us-central1"], journal)
    again = coiled_jobs.submit(job(members="002,003"), config, MACHINES, ["us-central1"], journal)
    assert coiled_jobs.cancel([again], config, journal) == []
    assert server.clusters[1].state == "stopped" and not journal.running()


def test_service_that_does_not_answer_is_no_failure(server, journal, monkeypatch):
    config = settings()
    job_id = coiled_jobs.submit(job("sleep 60"), config, MACHINES, ["us-central1"], journal)
    with monkeypatch.context() as short:
        short.setattr(coiled_jobs, "LOOK_SECONDS", 1.0)
        server.failing = 10**6
        record = coiled_jobs.check(journal.read(job_id), config, MACHINES, journal)
    assert record.state == "running" and record.unheard == 1
    server.failing = 0
    assert coiled_jobs.check(record, config, MACHINES, journal).unheard == 0


@pytest.fixture
def deaf(server, journal, monkeypatch):
    """A job that runs on a machine, looked at by a coordinator that gets no answer; it looks after so many seconds."""
    config = settings()
    job_id = coiled_jobs.submit(job("sleep 60"), config, MACHINES, ["us-central1"], journal)

    def look(after: float) -> JobRecord:
        record = journal.read(job_id)
        if record.unheard:
            rewrite(journal, job_id, unheard_at=time.time() - after)
        return coiled_jobs.check(journal.read(job_id), config, MACHINES, journal)

    monkeypatch.setattr(coiled_jobs, "LOOK_SECONDS", 0.3)
    server.failing = 10**6
    return look


def test_a_coordinator_that_slept_has_not_listened(deaf):
    for _ in range(3):
        record = deaf(after=3 * coiled_jobs.UNREACHABLE_SECONDS)
    assert record.state == "running" and record.unheard == 3


def test_a_service_silent_for_long_is_given_up_and_its_machine_can_still_be_stopped(deaf, server, journal, here):
    looks = 0
    while deaf(after=500).state == "running":
        looks += 1
        assert looks < 10
    assert looks >= 3 and not journal.running()
    server.failing = 0
    again = coiled_jobs.submit(job(), settings(), MACHINES, ["us-central1"], journal)
    assert journal.read(again).follows and len(server.clusters) == 1, "a second machine beside one that runs"
    (first,) = journal.read(again).follows
    for name in (first, again):
        rewrite(journal, name, state="failed")
    here.folder.parent.mkdir()
    journal.folder.rename(here.folder)
    assert main(["coiled-cancel"]) == 0
    assert server.clusters[1].state == "stopped" and not here.unfinished()


def test_submission_interrupted_before_the_answer(server, journal, monkeypatch):
    """The machine exists, its number was never written down: the next look finds it by its name."""
    config = settings()
    job_id = coiled_jobs.submit(job("exit 0"), config, MACHINES, ["us-central1"], journal)
    record = forget_answer(journal, job_id)
    assert finish(journal, job_id, config).state == "success"
    # and one that was never made does not run for ever
    record.requests[0].requested -= 2 * coiled_jobs.UNANSWERED_SECONDS
    record.id, record.state = "never-made", "running"
    journal.write(record)
    assert coiled_jobs.check(record, config, MACHINES, journal).reason == "submission was interrupted"


def test_cancel(server, journal):
    config = settings()
    ids = [
        coiled_jobs.submit(job("sleep 60", members=m), config, MACHINES, ["us-central1"], journal)
        for m in ("001", "002")
    ]
    # killed after asking, before the answer was written down: only the name is known
    forget_answer(journal, ids[1])
    assert coiled_jobs.cancel([*ids, "nothing-like-it"], config, journal)[0].startswith("nothing-like-it: not stopped")
    assert [cluster.state for cluster in server.clusters.values()] == ["stopped", "stopped"]
    assert {journal.read(job_id).state for job_id in ids} == {"cancelled"}


REFUSED = {
    "no image": ({"cloud": {"gpu_image": None}}, ConfigError, r"cloud\.gpu_image is missing"),
    "unknown machine": ({"cloud": {"gpu": "a2-ultragpu-2g"}}, ConfigError, "did you mean 'a2-ultragpu-1g'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case, server, journal):
    changes, error, text = REFUSED[case]
    with pytest.raises(error, match=text):
        coiled_jobs.submit(job(), settings(**changes), MACHINES, ["us-central1"], journal)
    assert not server.clusters


def test_no_token_no_browser(journal):
    import dask.config

    with dask.config.set({"coiled.token": None}), pytest.raises(ConfigError, match="coiled login"):
        coiled_jobs.submit(job(), settings(), MACHINES, ["us-central1"], journal)


def test_judge_never_calls_a_failure_success():
    task = {"state": "done", "exit_code": 0, "start": "t"}
    cases = [
        ([task], "stopped", "ended"),
        ([{**task, "exit_code": 1}], "ready", "failed"),
        ([{**task, "state": "error", "exit_code": None}], "ready", "failed"),
        ([{**task, "exit_code": None}], "ready", "running"),
        ([{**task, "exit_code": None}], "stopped", "failed"),
        ([task, {**task, "state": "pending", "exit_code": None}], "stopped", "failed"),
        ([], "stopped", "failed"),
        ([], "starting", "running"),
        ([{**task, "state": "assigned", "exit_code": None}], "error", "failed"),
    ]
    for tasks, state, verdict in cases:
        jobs = [{"tasks": tasks}] if tasks else []
        assert coiled_jobs.judge(jobs, {"state": state, "reason": ""})[0] == verdict, (tasks, state)


def test_script_runs_packed():
    """What the machine gets is the job script, whatever is in it, in a folder of its own."""
    text = job("printf '%s' \"$HOME `pwd`\" 'python config/config.yaml'").script
    script = coiled_request.machine_script(RemoteJob(text, ("forecast_member:member=001",)))
    assert "python" not in script and not re.search(r"\.(py|yaml|sh)\b", script)
