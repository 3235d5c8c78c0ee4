"""Whole runs through the googlebatch profile: the real snakemake, plugin, clients and storage plugin."""

from __future__ import annotations

import os
import signal
import time

import pytest
from aifs_ensemble.cloud.delivered import undelivered

from cloud.test_coiled_run import wait_for

pytestmark = [pytest.mark.cloud, pytest.mark.workflow, pytest.mark.timeout(1200)]
ARGUMENTS = ["--profile", "googlebatch", "--group-components", "members=2", "initial=1000"]


def gpu_requests(server):
    return [request for request in server.created if "forecast" in request.job_id]


def test_preemption_failure_and_success(project, batch, tmp_path):
    """One machine is taken away (50001), one member exits 7, Snakemake repeats both, and all is delivered."""
    config = project.configure(destination="gs://ensembles/batch", cloud={"service_account": "machines@p.iam"})
    batch.machine_env |= {"SMALL_FAIL": "2:7", "SMALL_FAIL_ONCE": str(tmp_path / "failed"), "SMALL_STEP_SECONDS": "0.3"}
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
    assert machine.policy.machine_type == "a2-ultragpu-1g" and machine.install_gpu_drivers
    assert [(card.type_, card.count) for card in machine.policy.accelerators] == [("nvidia-a100-80gb", 1)]
    disk = machine.policy.boot_disk
    assert (disk.size_gb, disk.type_) == (435, "pd-ssd") and disk.image.endswith("batch-cos-stable-official")
    assert policy.service_account.email == "machines@p.iam"
    job = gpu_requests(batch)[0].job
    assert job.labels["workflow"] == "aifs-ensemble" and job.task_groups[0].task_spec.max_run_duration.seconds == 21600
    container = job.task_groups[0].task_spec.runnables[-1].container
    assert container.image_uri == "registry/gpu"


@pytest.mark.long
def test_killed_coordinator_then_ctrl_c_then_rerun(project, batch):
    """What was delivered stays; a rerun makes no delivered member again; Ctrl-C deletes the jobs."""
    config = project.configure(destination="gs://ensembles/batch-dies")
    code, output = project.run(*ARGUMENTS, "--config", "members=1-2", timeout=400)
    assert code == 0, output
    before = len(gpu_requests(batch))
    batch.machine_env |= {"SMALL_STEP_SECONDS": "20"}
    process = project.start(*ARGUMENTS)
    wait_for(lambda: len(gpu_requests(batch)) == before + 1, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for name in batch.running():
        batch.kill(name)
    project.run("--profile", "googlebatch", "--unlock")

    process = project.start(*ARGUMENTS)
    wait_for(lambda: len(gpu_requests(batch)) == before + 2, process)
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=240)
    assert len(batch.deleted) == 1 and not batch.running()

    batch.machine_env |= {"SMALL_STEP_SECONDS": "0"}
    code, output = project.run(*ARGUMENTS, timeout=400)
    assert code == 0, output
    assert undelivered(config, config.members) == {}
    logs = [path.read_text() for path in batch.folder.glob("members*/task.log")]
    assert sum("member 1: made [6" in text for text in logs) == 1, "a delivered member was made again"
