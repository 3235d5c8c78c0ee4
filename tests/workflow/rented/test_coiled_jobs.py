"""Coiled jobs through the real client against the loopback service, without Snakemake: asked for and judged."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
import time

import pytest
from aifs_ensemble.common.errors import CloudError, ConfigError
from aifs_ensemble.workflow.coiled import jobs as coiled_jobs
from aifs_ensemble.workflow.coiled import request as coiled_request
from aifs_ensemble.workflow.coiled.job_script import RemoteJob
from coiled.errors import ServerError

from workflow.rented.coiled_helpers import MACHINES, finish, job, rewrite, settings
from workflow.rented.conftest import ROOT

pytestmark = pytest.mark.cloud


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


def test_a_machine_that_boots_is_waited_for_and_not_without_end(server, journal, monkeypatch):
    """A large image takes longer than a region is waited for; a machine that never starts its job is no stock-out."""
    server.never_ready = {"us-central1"}
    config = settings(cloud={"idle_minutes": 1e-6})
    job_id = coiled_jobs.submit(job("exit 0"), config, MACHINES, ["us-central1", "us-east4"], journal)
    server.clusters[1].machine = "started"
    record = coiled_jobs.check(journal.read(job_id), config, MACHINES, journal)
    assert record.state == "running" and len(server.clusters) == 1
    monkeypatch.setattr(coiled_jobs, "STARTING_SECONDS", 0)
    record = coiled_jobs.check(record, config, MACHINES, journal)
    assert record.state == "failed" and "the job did not start within" in record.reason
    assert server.clusters[1].state == "stopped" and len(server.clusters) == 1


def test_a_request_without_an_answer_is_no_refusal(server, journal, monkeypatch):
    """The connection breaks before the machine is there: it is found by its name, and no second one is rented."""
    answer, held = server.answer, []

    def breaks(verb, path, body):
        if verb == "POST" and path.startswith("/api/v2/clusters/account/"):
            held.append((verb, path, body))
            raise ConnectionAbortedError
        return answer(verb, path, body)

    config = settings()
    with monkeypatch.context() as broken:
        broken.setattr(server, "answer", breaks)
        broken.setattr(coiled_request, "find_cluster", lambda name, cloud: None)
        job_id = coiled_jobs.submit(job("exit 0"), config, MACHINES, ["us-central1", "us-east4"], journal)
    record = journal.read(job_id)
    assert (record.state, len(record.requests), record.requests[0].ended) == ("running", 1, None)
    assert record in journal.unfinished()
    server.answer(*held[0])
    assert finish(journal, job_id, config).state == "success" and len(server.clusters) == 1


@pytest.mark.parametrize(
    ("error", "unanswered"),
    [
        (ServerError("upstream timed out"), True),
        (ServerError("502 Bad Gateway"), True),
        (TimeoutError(), True),
        (ServerError("quota exceeded"), False),
        (ServerError("the zone has no capacity: ZONE_RESOURCE_POOL_EXHAUSTED, request timed out"), False),
        (ValueError("unknown machine type"), False),
    ],
)
def test_an_answer_of_what_stands_between_is_none_of_the_service(error, unanswered):
    assert coiled_request._is_unanswered(error) == unanswered


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
