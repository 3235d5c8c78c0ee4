"""What rented machines cost, from the coordinator's own records: while they run, when they end, and when none came."""

from __future__ import annotations

import json

import pytest
from aifs_ensemble.cli import main
from aifs_ensemble.planning.machines import load_machines
from aifs_ensemble.workflow.coiled.hooks import spending_of, work_of
from aifs_ensemble.workflow.coiled.spending import spending_line
from aifs_ensemble.workflow.googlebatch.spending import spending_line as batch_spending
from google.cloud import batch_v1
from snakemake_executor_plugin_coiled.records import JobRecord, Journal, MachineRequest

from workflow.rented.coiled_helpers import settings

MACHINES = load_machines()
CONFIG = settings()
GPU, CPU = (MACHINES.for_class(kind, CONFIG) for kind in ("gpu", "cpu"))
REGION = "us-central1"


def record(*requests: MachineRequest) -> JobRecord:
    return JobRecord("an-id", "title", (), requests=list(requests))


def request(**changes: object) -> MachineRequest:
    asked = {"region": REGION, "spot": False, "vm_type": GPU.name, "cluster_id": 1, "requested": 0.0}
    return MachineRequest(**{**asked, **changes})


def usd(value: float) -> str:
    return f"${value:,.2f}"


def test_machines_that_run_and_that_have_ended() -> None:
    running = record(request())
    done = record(request(ended="success", ended_at=1800.0, vm_type=CPU.name))
    gpu, cpu = GPU.prices[REGION], CPU.prices[REGION]
    spent = 2 * gpu.on_demand + 0.5 * cpu.on_demand
    assert spending_line([running, done], CONFIG, MACHINES, now=7200.0) == (
        f"rented: {usd(spent)} so far by list prices, {usd(gpu.on_demand)} an hour; 1 machine (1 x {GPU.name})"
    )
    assert spending_line([done], CONFIG, MACHINES, now=7200.0) == (
        f"rented: {usd(0.5 * cpu.on_demand)} by list prices; no machine now"
    )


def test_a_preemptible_machine_has_a_small_one_beside_it() -> None:
    usd_hour = usd(GPU.prices[REGION].spot + CPU.prices[REGION].on_demand)
    assert spending_line([record(request(spot=True))], CONFIG, MACHINES, now=3600.0) == (
        f"rented: {usd_hour} so far by list prices, {usd_hour} an hour; 2 machines (1 x {GPU.name}, 1 x {CPU.name})"
    )


@pytest.mark.parametrize(
    "refused",
    [{"cluster_id": None, "ended": "refused"}, {"ended": "ZONE_RESOURCE_POOL_EXHAUSTED"}],
    ids=["asked in vain", "no stock"],
)
def test_what_gave_no_machine_costs_nothing(refused: dict) -> None:
    assert spending_line([record(request(**refused, ended_at=9.0))], CONFIG, MACHINES, now=7200.0) is None
    assert spending_line([], CONFIG, MACHINES) is None


def test_records_know_when_a_machine_ended(here: Journal) -> None:
    made = record(request(vm_type=CPU.name))
    made.work = work_of(CONFIG)
    here.write(made)
    line = spending_of(CONFIG)
    assert line and line.endswith(f" an hour; 1 machine (1 x {CPU.name})")
    made.requests[0].ended = "success"
    here.write(made)
    (ended,) = here.read(made.id).requests
    assert ended.ended_at >= ended.requested
    assert "no machine now" in str(spending_of(CONFIG))
    assert spending_of(settings(lead_hours=48)) is None


def batch_job(number: int, machine: str, model: str, *moments: int, ended: str = "") -> batch_v1.Job:
    """Return a job in `REGION` that waits from the first moment, runs from the second and has `ended` at the third."""
    words = ("state is set to SCHEDULED", "state is set from SCHEDULED to RUNNING", f"from RUNNING to {ended}")
    events = [
        {"type_": "STATUS_CHANGED", "description": said, "event_time": {"seconds": moment}}
        for said, moment in zip(words, moments, strict=False)
    ]
    policy = {"machine_type": machine, "provisioning_model": model}
    return batch_v1.Job(
        name=f"projects/p/locations/{REGION}/jobs/job-{number}",
        allocation_policy={"instances": [{"policy": policy}]},
        status={"state": ended or ("RUNNING" if len(moments) > 1 else "SCHEDULED"), "status_events": events},
    )


def test_jobs_on_google_batch() -> None:
    """Two hours of a job that runs, half an hour of a preemptible one that failed; one waits yet."""
    gpu = GPU.prices[REGION]
    jobs = [
        batch_job(1, GPU.name, "STANDARD", 0, 3600),
        batch_job(2, GPU.name, "PREEMPTIBLE", 0, 600, 2400, ended="FAILED"),
        batch_job(3, CPU.name, "STANDARD", 0),
    ]
    spent = 2 * gpu.on_demand + 0.5 * gpu.spot
    assert batch_spending(jobs, MACHINES, now=10800.0) == (
        f"rented: {usd(spent)} so far by list prices, {usd(gpu.on_demand)} an hour; 1 machine (1 x {GPU.name})"
    )
    assert (
        batch_spending(jobs[1:], MACHINES, now=1e6) == f"rented: {usd(0.5 * gpu.spot)} by list prices; no machine now"
    )
    assert batch_spending(jobs[2:], MACHINES, now=1e6) is None


def test_status_says_what_is_rented(tmp_path, monkeypatch, capsys) -> None:
    """From the folder that the workflow runs in; another folder has rented nothing."""
    monkeypatch.chdir(tmp_path)
    config = settings(destination=str(tmp_path / "out"))
    made = record(request())
    made.work = work_of(config)
    Journal().write(made)
    (tmp_path / "c.yaml").write_text(json.dumps(config.to_dict()))
    assert main(["status", "--configfile", "c.yaml"]) == 0
    assert f"an hour; 1 machine (1 x {GPU.name})" in " ".join(capsys.readouterr().out.split())
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert main(["status", "--configfile", "../c.yaml"]) == 0
    assert "rented" not in capsys.readouterr().out
