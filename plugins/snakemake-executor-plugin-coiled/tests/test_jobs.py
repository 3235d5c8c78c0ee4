"""Jobs through the real client against the loopback service, without Snakemake: asked for and judged."""

from __future__ import annotations

import inspect
import re
import time

import pytest
from coiled.errors import ServerError
from coiled_server import CoiledServer
from coordinators import Coordinator, coordinator
from snakemake_executor_plugin_coiled import ExecutorSettings, service
from snakemake_executor_plugin_coiled import jobs as plugin_jobs
from snakemake_executor_plugin_coiled.machine import Machine, machine_script, run_arguments
from snakemake_executor_plugin_coiled.records import Journal

pytestmark = pytest.mark.cloud
REGIONS = ["us-central1", "us-east4", "europe-west4"]


def test_client_takes_what_is_given():
    """The installed client still has every parameter, and the functions, that the executor uses."""
    import coiled
    import coiled.batch

    machine = Machine("true", "make", "a2-ultragpu-1g", "registry/gpu", spot=True)
    arguments = run_arguments(machine, "x", "us-central1", ExecutorSettings(), {}, {})
    run = inspect.signature(coiled.batch.run).parameters
    cluster = inspect.signature(coiled.Cluster.__init__).parameters
    assert set(arguments) | {"cloud", "logger"} <= set(run)
    assert set(arguments["cluster_kwargs"]) <= set(cluster)
    assert list(inspect.signature(coiled.batch.status).parameters) == ["cluster", "workspace"]
    for name in ("delete_cluster", "cluster_details", "get_clusters_by_name"):
        assert callable(getattr(coiled.Cloud, name))
    assert {"cluster_id", "reason"} <= set(inspect.signature(coiled.Cloud.delete_cluster).parameters)


REQUESTS = {
    "on demand": (
        {},
        {
            "scheduler_instance_types": ["a2-ultragpu-1g"],
            "workers": 0,
            "extra_user_container": "registry/gpu",
            "cluster_timeout_seconds": 6 * 3600 + 1800,
        },
        {"region_name": "us-central1", "spot": False},
    ),
    "spot": (
        {"spot": True},
        {"worker_instance_types": ["a2-ultragpu-1g"], "workers": 1, "scheduler_instance_types": ["n2-standard-2"]},
        {"spot": True, "spot_on_demand_fallback": False, "spot_replacement": False},
    ),
    "disk": ({"disk_mb": 20500}, {"scheduler_disk_size": 81}, {}),
    "software": ({"image": "my-software"}, {"env_name": "my-software", "extra_user_container": None}, {}),
}


@pytest.mark.parametrize("case", REQUESTS)
def test_request(case: str, server: CoiledServer, journal: Journal):
    asked, expected, options = REQUESTS[case]
    coordinator(journal, tags=["team=ens"]).submit(**asked)
    request = server.clusters[1].request
    assert {name: request[name] for name in expected} == expected
    assert {name: request["options"][name] for name in options} == options
    assert "scheduler_accelerator_type" not in request["options"], "a card that nobody asked for"
    assert request["scheduler_options"]["idle_timeout"] == "520 weeks", "dask sees no work and would end the job"
    assert request["tags"] == {"team": "ens", "coiled-cluster-type": "batch"}
    sent = server.jobs[1]
    assert sent["job_timeout_seconds"] == 6 * 3600 and sent["max_retries"] == 0
    assert "shutdown -P +390" in sent["host_setup"]
    assert [file["path"] for file in sent["user_files"]] == ["script"], "local files were uploaded"


def test_secrets_reach_the_machine_and_nothing_else(server, journal, monkeypatch):
    run = coordinator(journal, secrets=["TOKEN"])
    monkeypatch.delenv("TOKEN", raising=False)
    refused = run.submit()
    assert run.finish(refused).state == "failed" and "secrets: TOKEN not set" in refused.record.reason
    monkeypatch.setenv("TOKEN", "hidden-value")
    job = run.finish(run.submit('test "$TOKEN" = hidden"-value"'))
    assert job.state == "success", job.record.reason
    (sent,) = (content for content in server.jobs.values() if content["secret_env_vars"])
    others = {name: value for name, value in sent.items() if name != "secret_env_vars"}
    assert "hidden-value" not in repr(others) + repr(server.clusters[1].request)
    assert not [path for path in journal.folder.iterdir() if "hidden-value" in path.read_text()]


ENDS = {
    "exit 0": ("exit 0", "success", ""),
    "exit 7": ("exit 7", "failed", "exit code 7"),
    "killed": ("kill -9 $$", "failed", "exit code"),
}


@pytest.mark.parametrize("case", ENDS)
def test_ends(case, server, run):
    command, state, reason = ENDS[case]
    job = run.finish(run.submit(command))
    assert job.state == state and reason in job.record.reason
    assert server.clusters[1].state == "stopped"


def test_a_job_that_ends_between_two_looks_is_no_failure(server, run, tmp_path):
    """Its tasks and its machine are asked for one after the other; both end in between."""
    end = tmp_path / "end"
    job = run.submit(f"while [ ! -e {end} ]; do sleep 0.05; done")

    def ends(cluster):
        end.touch()
        cluster.process.wait()
        server._ended(cluster, 0)

    while not server.running():
        time.sleep(0.02)
    server.after_tasks = ends
    assert run.finish(job).state == "success"


def test_preempted(server, run):
    job = run.submit("sleep 60", spot=True)
    while not server.running():
        time.sleep(0.02)
    server.preempt(server.clusters[1])
    assert run.finish(job).state == "failed" and "preempted" in job.record.reason
    assert ("DELETE", "/api/v2/clusters/account/loopback/id/1") in [call[:2] for call in server.calls]


def test_a_preempted_worker_beside_a_living_scheduler(server, run):
    """The cluster stays ready and its task has no exit code: after one more look the job has failed."""
    job = run.submit("sleep 60", spot=True)
    while not server.running():
        time.sleep(0.02)
    assert run.look(job).state == "running"
    server.preempt_worker(server.clusters[1])
    assert [run.look(job).state for _ in range(2)] == ["running", "failed"]
    assert "preempted" in job.record.reason and server.clusters[1].state == "stopped"


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
        assert service.worker_lost(jobs, workers) == lost, (jobs, workers)


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
        assert service.judge(jobs, {"state": state, "reason": ""})[0] == verdict, (tasks, state)


@pytest.mark.parametrize(("why", "state"), [("", "success"), ("too short", "failed")])
def test_hooks_have_the_last_word(why, state, server, run):
    """An exit code is what a shell says."""
    run.hooks.verdicts = lambda: {"make:n=1": why}
    job = run.finish(run.submit())
    assert (job.state, job.record.reason) == (state, why)
    assert run.journal.read(job.record.id).state == state


def test_a_judge_that_cannot_see_is_asked_again(server, run):
    def blind():
        raise OSError("the bucket does not answer")

    run.hooks.verdicts = blind
    job = run.submit()
    while not job.made:
        run.look(job)
        time.sleep(0.05)
    assert run.jobs.look(job).state == "running"
    run.hooks.verdicts = dict
    assert run.jobs.look(job).state == "success"


@pytest.mark.parametrize("in_first_region", [True, False], ids=["when asked", "at a look"])
def test_what_cannot_be_said_of_a_machine_is_no_failure(in_first_region, server, journal):
    """Such as what is spent, beside the damaged record of another job."""
    run = coordinator(journal, regions=REGIONS)
    server.no_machines = set() if in_first_region else {"us-central1"}
    (journal.folder / "make-2-0123abcd.json").write_text("{")
    run.journal.take_up = lambda *_: []
    run.journal.to_stop = lambda *_: []
    job = run.finish(run.submit())
    assert job.state == "success", job.record.reason


# -- regions


@pytest.mark.parametrize("at_once", [True, False], ids=["refused at once", "found out later"])
def test_next_region_on_stock_out(at_once, server, journal):
    server.no_machines, server.refuse_at_once = set(REGIONS[:2]), at_once
    run = coordinator(journal, regions=REGIONS)
    job = run.finish(run.submit())
    assert job.state == "success"
    assert [request.region for request in job.record.requests] == REGIONS


def test_next_region_when_no_machine_comes(server, journal):
    server.never_ready = {"us-central1"}
    run = coordinator(journal, regions=REGIONS, idle_minutes=0.01)
    job = run.submit()
    time.sleep(0.8)
    assert [request.region for request in run.look(job).requests] == REGIONS[:2]
    assert server.clusters[1].state == "stopped", "the request that waits in vain still stands"


def test_a_machine_that_boots_is_waited_for_and_not_without_end(server, journal, monkeypatch):
    """A large image takes longer than a region is waited for; a machine that never starts its job is no stock-out."""
    server.never_ready = {"us-central1"}
    run = coordinator(journal, regions=REGIONS, idle_minutes=1e-6)
    job = run.submit()
    server.clusters[1].machine = "started"
    assert run.look(job).state == "running" and len(server.clusters) == 1
    monkeypatch.setattr(plugin_jobs, "STARTING_SECONDS", 0)
    record = run.look(job)
    assert record.state == "failed" and "the job did not start within" in record.reason
    assert server.clusters[1].state == "stopped" and len(server.clusters) == 1


@pytest.mark.parametrize("at_once", [True, False], ids=["refused at once", "found out later"])
def test_no_machine_anywhere_is_waited_for(at_once, server, journal, caplog):
    """Snakemake's retries, seconds apart, are not spent on it."""
    regions = REGIONS[:2]
    server.no_machines, server.refuse_at_once = set(regions), at_once
    run = coordinator(journal, regions=regions)
    job = run.submit()
    for _ in range(4):
        record = run.look(job)
    assert job.state == "running" and [request.region for request in record.requests] == regions
    assert "no machine in us-central1, us-east4, asked again in 120 s" in caplog.text
    # and again, in the order of preference
    record.ask_at = time.time()
    for _ in range(4):
        run.look(job)
    assert job.state == "running" and [request.region for request in record.requests] == 2 * regions
    server.no_machines = {"us-central1"}
    record.ask_at = time.time()
    assert run.finish(job).state == "success"
    assert [request.region for request in record.requests] == 3 * regions


WAITS = {"on demand": (False, 3600.0), "preemptible": (True, 600.0)}


@pytest.mark.parametrize("case", WAITS)
def test_no_machine_anywhere_is_waited_for_so_long(case, server, journal):
    spot, longest = WAITS[case]
    server.no_machines, server.refuse_at_once = {"us-central1"}, True
    run = coordinator(journal, wait_hours=1, idle_minutes=10)
    job = run.submit(spot=spot)
    for waited, state in ((longest - 30, "running"), (longest + 1, "failed")):
        now = time.time()
        job.record.ask_at, job.record.waiting_since = now, now - waited
        run.look(job)
        assert job.state == state
    assert re.search(rf"no machine in us-central1 for {longest / 60:.0f} min: .*EXHAUSTED", job.record.reason)
    assert len(job.record.requests) == 3 and not server.clusters


def test_no_machine_anywhere_and_no_wait(server, journal):
    server.no_machines, server.refuse_at_once = {"us-central1"}, True
    run = coordinator(journal, wait_hours=0)
    job = run.finish(run.submit())
    assert job.state == "failed"
    assert re.search(r"no machine in us-central1 .*ZONE_RESOURCE_POOL_EXHAUSTED", job.record.reason)


# -- answers that are lost


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
    assert service.is_unanswered(error) == unanswered


def test_a_request_without_an_answer_is_no_refusal(server, journal, monkeypatch):
    """The connection breaks before the machine is there: it is found by its name, and no second one is rented."""
    answer, held = server.answer, []

    def breaks(verb, path, body):
        if verb == "POST" and path.startswith("/api/v2/clusters/account/"):
            held.append((verb, path, body))
            raise ConnectionAbortedError
        return answer(verb, path, body)

    run = coordinator(journal, regions=REGIONS)
    with monkeypatch.context() as broken:
        broken.setattr(server, "answer", breaks)
        broken.setattr(run.jobs.service, "find", lambda name: None)
        job = run.submit()
    record = journal.read(job.record.id)
    assert (record.state, len(record.requests), record.requests[0].ended) == ("running", 1, None)
    assert record in journal.unfinished()
    server.answer(*held[0])
    assert run.finish(job).state == "success" and len(server.clusters) == 1


def test_a_slow_answer_of_the_next_region_is_waited_for(server, journal, monkeypatch):
    """The limit of a look does not interrupt the request for a machine that follows from it."""
    answer = server.answer
    server.never_ready = {"us-central1"}
    run = coordinator(journal, regions=REGIONS, idle_minutes=1e-6)
    job = run.submit("sleep 60")

    def slow(verb, path, body):
        if verb == "POST" and path.startswith("/api/v2/clusters/account/"):
            time.sleep(7)
        return answer(verb, path, body)

    monkeypatch.setattr(server, "answer", slow)
    monkeypatch.setattr(service, "LOOK_SECONDS", 6.0)
    record = run.look(job)
    assert record.state == "running", record.reason
    assert [request.cluster_id for request in record.requests] == [1, 2]


def test_a_submission_whose_answer_is_unknown_is_looked_for_again(server, run, monkeypatch):
    """The machine was rented, the answer lost, and its name cannot be asked for now: nothing is rented beside it."""
    answer = server.answer

    def lost(verb, path, body):
        if "interaction" in path:
            return 500, {}
        return (400, {"message": "not now"}) if verb == "GET" and "?name=" in path else answer(verb, path, body)

    with monkeypatch.context() as now:
        now.setattr(server, "answer", lost)
        job = run.submit()
    assert run.journal.read(job.record.id).requests[0].cluster_id is None
    assert run.finish(job).state == "success" and len(server.clusters) == 1


def test_lost_answer_is_found_again(server, run, monkeypatch):
    """The machine was rented, but what the client did after that failed: it is neither lost nor rented twice."""
    answer = server.answer
    # the client reports every submission in the end; that request fails
    monkeypatch.setattr(
        server, "answer", lambda verb, path, body: (500, {}) if "interaction" in path else answer(verb, path, body)
    )
    assert run.finish(run.submit()).state == "success" and len(server.clusters) == 1


def test_no_token_no_browser(run: Coordinator):
    import dask.config

    with dask.config.set({"coiled.token": None}):
        job = run.submit()
    assert job.record.state == "failed" and "coiled login" in job.record.reason


def test_script_runs_packed():
    """What the machine gets is the command, whatever is in it, in a folder of its own."""
    machine = Machine("printf '%s' \"$HOME `pwd`\" 'python config/config.yaml'", "make", "n2", "registry/cpu")
    script = machine_script(machine)
    assert "python" not in script and not re.search(r"\.(py|yaml|sh)\b", script)


MESSAGES = {
    "The zone 'projects/p/zones/us-central1-a' does not have enough resources available to fulfill the request.": True,
    "ZONE_RESOURCE_POOL_EXHAUSTED_WITH_DETAILS": True,
    "Quota 'NVIDIA_A100_80GB_GPUS' exceeded.  Limit: 0.0 in region us-central1.": True,
    "insufficient instance capacity": True,
    "Permission 'compute.instances.create' denied": False,
    "Task failed with exit code 1": False,
    "instance was preempted": False,
    "": False,
}


@pytest.mark.parametrize("message", MESSAGES)
def test_stock_out_messages(message):
    assert service.is_stock_out(message) is MESSAGES[message]
