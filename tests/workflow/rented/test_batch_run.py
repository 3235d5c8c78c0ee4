"""Whole runs through the googlebatch profile: the real snakemake, plugin, clients and storage plugin."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import subprocess
import sys
import time
import uuid

import pytest
import yaml
from aifs_ensemble.common.errors import CloudError
from aifs_ensemble.common.models import get_model
from aifs_ensemble.common.storage import open_destination
from aifs_ensemble.delivery.standing import undelivered
from aifs_ensemble.model.checkpoint.build import build_demo
from aifs_ensemble.workflow.googlebatch.jobs import delete_jobs, left_running
from doubles.huggingface_server import huggingface_hub_server
from google.cloud import batch_v1
from waiting import wait_until

pytestmark = [pytest.mark.cloud, pytest.mark.workflow, pytest.mark.timeout(1200)]
SECRET = "hf_fromTheCoordinatorAlone"
ARGUMENTS = ["--profile", "googlebatch", "--group-components", "members=2", "initial=1000"]


def gpu_requests(server):
    return [request for request in server.created if "forecast" in request.job_id]


def test_preemption_failure_and_success(project, batch, tmp_path):
    """One machine is taken away (50001), one member exits 7, Snakemake repeats both, and all is delivered."""
    config = project.configure(
        destination="gs://ensembles/batch",
        cloud={"service_account": "machines@p.iam", "secrets": ["HF_TOKEN", "OTHER"]},
    )
    project.env |= {"HF_TOKEN": SECRET, "OTHER": SECRET}
    batch.machine_env |= {"SMALL_FAIL": "2:7", "SMALL_FAIL_ONCE": str(tmp_path / "failed"), "SMALL_STEP_SECONDS": "0.3"}
    # on Google Batch scratch is the container's own layer
    mounts = tmp_path / "mounts"
    mounts.write_text("overlay / overlay rw 0 0\n")
    batch.machine_env["SMALL_MOUNTS"] = str(mounts)
    taken = []

    def take_one(name, job):
        if "forecast" in name and not taken:
            taken.append(name)
            time.sleep(2)
            batch.preempt(name)

    batch.on_start = take_one
    code, output = project.run(*ARGUMENTS, "--retries", "3", timeout=400)
    assert code == 0, output
    assert "exit code 50001" in output, "the preemption was not seen"
    assert undelivered(config, config.members) == {}
    assert len(gpu_requests(batch)) >= 3
    policy = gpu_requests(batch)[0].job.allocation_policy
    machine = policy.instances[0]
    assert machine.policy.provisioning_model.name == "PROVISIONING_MODEL_UNSPECIFIED"
    assert machine.policy.machine_type == "a2-ultragpu-1g" and machine.install_gpu_drivers
    assert [(card.type_, card.count) for card in machine.policy.accelerators] == [("nvidia-a100-80gb", 1)]
    disk = machine.policy.boot_disk
    assert (disk.size_gb, disk.type_) == (435, "pd-ssd") and disk.image.endswith("batch-cos-stable-official")
    assert policy.service_account.email == "machines@p.iam"
    job = gpu_requests(batch)[0].job
    assert job.labels["workflow"] == "aifs-ensemble" and job.task_groups[0].task_spec.max_run_duration.seconds == 21600
    container = job.task_groups[0].task_spec.runnables[-1].container
    assert container.image_uri == "registry/gpu"
    assert "cloud.secrets: OTHER stay here" in output
    assert_hidden(SECRET, output, batch, project.folder)


def assert_hidden(secret, output, batch, *folders):
    """Assert that a value was neither said, nor sent to Batch, nor written to a file of coordinator or machines."""
    assert secret not in output
    assert all(secret not in str(request) for request in batch.created)
    files = [path for folder in (batch.folder, *folders) for path in folder.rglob("*") if path.is_file()]
    assert files and [path for path in files if secret.encode() in path.read_bytes()] == []


def test_a_checkpoint_is_fetched_by_the_coordinator(whole, batch, tmp_path, monkeypatch):
    """The hub's token never leaves the machine that has it: neither a job of Batch nor a log sees it."""
    model = get_model("demo")
    build_demo(model, tmp_path / "demo.ckpt")
    content = (tmp_path / "demo.ckpt").read_bytes()
    catalogue = whole.folder / "config" / "models.yaml"
    models = yaml.safe_load(catalogue.read_text())
    digest = hashlib.sha256(content).hexdigest()
    source = {"repository": "ecmwf/released", "revision": "main", "file": "x.ckpt", "sha256": digest}
    models["models"]["released"] = models["models"]["demo"] | {"checkpoint": source}
    catalogue.write_text(yaml.safe_dump(models))
    destination = f"gs://ensembles/{uuid.uuid4().hex}"
    config = whole.configure(destination=destination, cloud={"secrets": ["HF_TOKEN"]}, delivery={"streaming": True})
    with huggingface_hub_server({("ecmwf/released", "x.ckpt"): content}) as hub:
        hub.gated = {"ecmwf/released"}
        whole.env |= {"HF_TOKEN": SECRET, "HF_ENDPOINT": hub.url}
        code, output = whole.run(
            "--profile", "googlebatch", "--config", "model=released", "--until", "checkpoint_prepare"
        )
    assert code == 0, output
    assert f"Bearer {SECRET}" in {seen.token for seen in hub.seen}
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", whole.env["STORAGE_EMULATOR_HOST"])
    assert open_destination(config).get_bytes("checkpoints/released.ckpt") == content
    assert batch.created == []
    assert_hidden(SECRET, output, batch, whole.folder)


@pytest.mark.long
@pytest.mark.parametrize("key", ["cycle=latest-00z-1d", "cycles=[latest-00z-1d]"])
def test_a_word_for_the_cycle_is_told_to_jobs_as_a_cycle(whole, batch, key):
    """Found once, here; every job has it on its command line, and the ensemble is complete at its own place."""
    destination = f"gs://ensembles/{uuid.uuid4().hex}"
    whole.configure(destination=destination, members="1", lead_hours=6, delivery={"streaming": True})
    code, output = whole.run("--profile", "googlebatch", "--config", key)
    assert code == 0, output
    name = key.partition("=")[0]
    (cycle,) = re.findall(rf"^{name} latest-00z-1d: (\d{{8}}_0000)$", output, re.MULTILINE)
    commands = [job.job.task_groups[0].task_spec.runnables[0].script.text for job in batch.created]
    assert len(commands) >= 2 and any("forecast" in job.job_id for job in batch.created)
    told = [re.findall(r"\b(cycles?)=([^ '\"]*)", command) for command in commands]
    expected = [("cycle", "null"), ("cycles", cycle)] if name == "cycles" else [("cycle", cycle)]
    assert all(sorted(set(one)) == expected for one in told), told
    config = whole.configure(destination=destination, members="1", lead_hours=6, cycle=cycle)
    assert f"{cycle}: complete, 1 of 1 members" in output, output
    assert undelivered(config, config.members) == {}
    storage = open_destination(config)
    assert [folder for folder in storage.folders() if folder.startswith("2")] == [cycle]
    assert storage.stat(f"{cycle}/run.json") is None


def test_spot_and_project_are_the_configuration_s(project, batch, tmp_path):
    """All attempts, of all rented rules; a member that fails is repeated by Snakemake, and Batch repeats nothing."""
    config = project.configure(destination="gs://ensembles/batch-spot", members="1-2", cloud={"spot": True})
    batch.machine_env |= {"SMALL_FAIL": "2:7", "SMALL_FAIL_ONCE": str(tmp_path / "failed")}
    del project.env["GOOGLE_CLOUD_PROJECT"]
    code, output = project.run(*ARGUMENTS)
    assert code == 0, output
    assert batch.logs_of == {"projects/loopback"}, "not those of cloud.project"
    assert "every attempt is preemptible" in output
    assert undelivered(config, config.members) == {} and len(gpu_requests(batch)) == 2
    models = {r.job.allocation_policy.instances[0].policy.provisioning_model.name for r in batch.created}
    assert models == {"PREEMPTIBLE"}


def batch_cancel(project, *arguments):
    """Run ``aifs-ensemble batch-cancel`` in the coordinator's folder; return its lines."""
    done = subprocess.run(
        [sys.executable, "-m", "aifs_ensemble", "batch-cancel", *arguments],
        cwd=project.folder,
        env={**os.environ, **project.env},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return done.stdout.splitlines()


def test_a_closed_terminal_does_not_keep_jobs_from_being_deleted(tmp_path):
    """What is printed then fails; the command that deletes is started all the same, here without a project."""
    script = "import sys; from pathlib import Path; from aifs_ensemble.workflow.googlebatch import jobs as b;"
    script += "sys.stdin.readline(); b._delete_left('host-1-2-abcdef01', Path(sys.argv[1]))"
    ours, theirs = os.openpty()
    environment = {k: v for k, v in os.environ.items() if k != "GOOGLE_CLOUD_PROJECT"}
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], stdin=subprocess.PIPE, stderr=theirs, env=environment, text=True
    )
    os.close(theirs)
    os.close(ours)
    process.communicate("\n", timeout=60)
    log = tmp_path / ".snakemake/googlebatch_logs/cancel.log"
    wait_until(lambda: log.exists() and "error: " in log.read_text())


def test_jobs_of_a_configuration_of_one_s_own_are_found(project, batch, tmp_path, monkeypatch):
    """A day's file names the cycle and the regions: without it another cycle's jobs would be looked for."""
    config = project.configure(destination="gs://ensembles/own")
    for name, value in project.env.items():
        monkeypatch.setenv(name, value)
    job = ask(batch_v1.BatchServiceClient(), "20260101_0000")
    own = tmp_path / "today.yaml"
    own.write_text("cycle: 20260101_0000\n")
    assert batch_cancel(project, "--list") == [] and config.cycle != "20260101_0000"
    files = ["config/config.yaml", "config/operational.yaml", str(own)]
    for arguments in (["--configfile", *files], ["--config", "cycle=20260101_0000"]):
        assert [line.split()[-1] for line in batch_cancel(project, *arguments, "--list")] == [job]


@pytest.mark.long
def test_killed_coordinator_then_ctrl_c_then_rerun(project, batch):
    """What was delivered stays; jobs left running are told of and deleted; Ctrl-C deletes the jobs."""
    config = project.configure(destination="gs://ensembles/batch-dies")
    code, output = project.run(*ARGUMENTS, "--config", "members=1-2", timeout=400)
    assert code == 0, output
    assert "on Google Batch already" not in output
    before = len(gpu_requests(batch))
    batch.machine_env |= {"SMALL_STEP_SECONDS": "20"}
    process = project.start(*ARGUMENTS)
    wait_until(lambda: len(gpu_requests(batch)) == before + 1, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    project.run("--profile", "googlebatch", "--unlock")
    left = batch.running()
    assert len(left) == 1, "nothing goes on that somebody would have to find"

    process = project.start(*ARGUMENTS)
    wait_until(lambda: len(gpu_requests(batch)) == before + 2, process)
    assert [line.split()[-1] for line in batch_cancel(project, "--list")] == batch.running()
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=240)
    assert f"1 jobs of {config.cycle} are on Google Batch already" in output
    wait_until(lambda: batch.running() == left)
    assert len(batch.deleted) == 1
    assert [line.split()[-1] for line in batch_cancel(project)] == left
    assert not batch.running() and batch_cancel(project, "--list") == []

    batch.machine_env |= {"SMALL_STEP_SECONDS": "0"}
    code, output = project.run(*ARGUMENTS, timeout=400)
    assert code == 0, output
    assert undelivered(config, config.members) == {}
    logs = [path.read_text() for path in batch.folder.glob("members*/task.log")]
    assert sum("member 1: made [6" in text for text in logs) == 1, "a delivered member was made again"


@pytest.mark.long  # a minute and a half, most of it waiting
def test_interrupted_while_it_asks(project, batch):
    """The plugin deletes none of the jobs that it is asking about; those of another coordinator stay."""
    config = project.configure(destination="gs://ensembles/batch-asks")
    code, output = project.run(*ARGUMENTS, "--until", "initial_member")
    assert code == 0, output
    assert "deleting what Google Batch still has" not in output
    with pytest.MonkeyPatch.context() as patch:
        for name, value in project.env.items():
            patch.setenv(name, value)
        other = ask(batch_v1.BatchServiceClient(), config.cycle, coordinator="another")
    batch.machine_env |= {"SMALL_STEP_SECONDS": "20"}
    process = project.start(*ARGUMENTS)
    wait_until(lambda: len(gpu_requests(batch)) == 2, process)
    batch.answer_seconds, before = 3.0, batch.asked
    wait_until(lambda: batch.asked > before, process)
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert "deleting what Google Batch still has of this run" in output
    wait_until(lambda: batch.running() == [other])


def ask(client, cycle, region="us-central1", **labels):
    """Ask for a job that sleeps until it is deleted, labelled as one of a cycle."""
    runnable = batch_v1.Runnable(script=batch_v1.Runnable.Script(text="sleep 900"))
    group = batch_v1.TaskGroup(task_spec=batch_v1.TaskSpec(runnables=[runnable]))
    job = batch_v1.Job(task_groups=[group], labels={"workflow": "aifs-ensemble", "cycle": cycle, **labels})
    number = f"job{uuid.uuid4().hex[:8]}"
    return client.create_job(parent=f"projects/loopback/locations/{region}", job_id=number, job=job).name


def test_jobs_are_found_by_labels_and_deleted(project, batch, monkeypatch):
    """Those of the cycle and of this workflow, in every configured region, that have not ended."""
    for name, value in project.env.items():
        monkeypatch.setenv(name, value)
    config = project.configure(cloud={"regions": ["us-central1", "europe-west4"]})
    client = batch_v1.BatchServiceClient()
    here = [ask(client, config.cycle), ask(client, config.cycle, "europe-west4")]
    other = ask(client, "20250820_0000")
    foreign = ask(client, config.cycle, workflow="another")
    ended = ask(client, config.cycle)
    wait_until(lambda: len(batch.running()) == 5)
    batch.kill(ended)
    wait_until(lambda: batch.jobs[ended].status.state.name == "FAILED")
    assert list(left_running(config)) != []
    assert [line.split()[-1] for line in batch_cancel(project)] == here
    assert sorted(batch.running()) == sorted([other, foreign])
    assert list(left_running(config)) == []
    assert [line.split()[-1] for line in batch_cancel(project, "--cycle", "all")] == [other]
    assert batch.running() == [foreign]


def test_batch_that_does_not_answer_stops_no_run(project, batch, monkeypatch):
    for name, value in project.env.items():
        monkeypatch.setenv(name, value)
    config = project.configure()
    batch.refuses = True
    said = list(left_running(config))
    assert len(said) == 1 and "unknown: Google Batch: 403 batch.jobs.list denied" in said[0]


def test_one_job_that_is_gone_or_kept_does_not_save_the_others(project, batch, monkeypatch):
    for name, value in project.env.items():
        monkeypatch.setenv(name, value)
    client = batch_v1.BatchServiceClient()
    gone, kept, *others = [ask(client, "20250819_0000") for _ in range(4)]
    wait_until(lambda: len(batch.running()) == 4)
    delete_jobs([gone])
    batch.kept = {kept}
    with pytest.raises(CloudError, match=rf"^Google Batch: {kept} is not deleted \(403 batch.jobs.delete denied\)$"):
        delete_jobs([gone, kept, *others])
    assert batch.deleted == [gone, *others]
    wait_until(lambda: batch.running() == [kept])


def test_a_region_that_does_not_answer_keeps_no_jobs_elsewhere(project, batch, monkeypatch):
    for name, value in project.env.items():
        monkeypatch.setenv(name, value)
    config = project.configure(cloud={"regions": ["europe-west9", "us-central1"]})
    name = ask(batch_v1.BatchServiceClient(), config.cycle)
    wait_until(lambda: batch.running() == [name])
    batch.closed = {"europe-west9"}
    assert [line.split()[-1] for line in batch_cancel(project)] == [name]
    wait_until(lambda: not batch.running())
