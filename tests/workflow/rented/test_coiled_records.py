"""Records of Coiled jobs: whose they are, taken up again, given up, cancelled; the real client, without Snakemake."""

from __future__ import annotations

import json
import os
import time

import psutil
import pytest
from aifs_ensemble.cli import main
from aifs_ensemble.common import environment
from aifs_ensemble.common.errors import CloudError, ConfigError, DiskFullError, StorageError
from aifs_ensemble.workflow import coordinator, start
from aifs_ensemble.workflow.coiled import jobs as coiled_jobs
from aifs_ensemble.workflow.coiled import request
from aifs_ensemble.workflow.coiled.records import JobRecord, work_of

from workflow.rented.coiled_helpers import MACHINES, finish, forget_answer, job, other_coordinator, rewrite, settings

pytestmark = pytest.mark.cloud


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
    "settings": {"forecast": {"precision": "bf16"}},
    "packing": {"forecast": {"packing": {"t": 12}}},
    "seed": {"initial_conditions": {"idealised": {"seed": 7}}},
    "layout": {"delivery": {"layout": "blocks", "block_hours": 24}},
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
        monkeypatch.setenv(environment.COORDINATOR, name)
        first = coiled_jobs.submit(job("sleep 60"), config, MACHINES, ["us-central1"], journal)
        monkeypatch.setenv(environment.COORDINATOR, coordinator.new_name())
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
        f"{host}-{pid}-{int(started) - 3600}-ffffff{word[-2:]}",
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
    monkeypatch.setenv(environment.COORDINATOR, name)
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
        monkeypatch.setenv(environment.COORDINATOR, later)
        record = finish(here, coiled_jobs.submit(job(), config, MACHINES, ["us-central1"], here), config)
    assert record.state == "success"


def test_cancelled_while_being_asked_for(server, journal, monkeypatch):
    """The machine that is rented although its job was cancelled meanwhile is stopped again."""
    answer, config = server.answer, settings()

    def cancels(verb, path, body):
        if verb == "POST" and path.startswith("/api/v2/jobs/compressed"):
            monkeypatch.setattr(server, "answer", answer)
            (problem,) = coiled_jobs.cancel([journal.all()[0].id], config, journal, wait_seconds=0)
            assert problem.endswith("not stopped (the request for its machine is under way)")
        return answer(verb, path, body)

    monkeypatch.setattr(server, "answer", cancels)
    job_id = coiled_jobs.submit(job("sleep 60"), config, MACHINES, ["us-central1"], journal)
    assert server.clusters[1].state == "stopped"
    record = journal.read(job_id)
    assert (record.state, record.requests[0].ended) == ("cancelled", "cancelled")


def test_a_machine_that_comes_after_its_job_was_cancelled_is_stopped(server, journal, monkeypatch):
    """Whoever asked for it is gone: `cancel` waits for what may still come."""
    config = settings()
    job_id = coiled_jobs.submit(job("sleep 60"), config, MACHINES, ["us-central1"], journal)
    forget_answer(journal, job_id)
    monkeypatch.setattr(coiled_jobs, "POLL_SECONDS", 0.01)
    find, looks = request.find_cluster, []

    def later(name, cloud):
        looks.append(name)
        return find(name, cloud) if len(looks) > 2 else None

    monkeypatch.setattr(request, "find_cluster", later)
    assert coiled_jobs.cancel([job_id], config, journal) == []
    assert server.clusters[1].state == "stopped" and not journal.unfinished()


def test_a_machine_that_could_not_be_stopped_is_stopped_before_another_is_rented(server, journal, monkeypatch):
    config, answer = settings(), server.answer
    first = coiled_jobs.submit(job("sleep 60"), config, MACHINES, ["us-central1"], journal)
    with monkeypatch.context() as deaf:
        deaf.setattr(server, "answer", lambda verb, *more: (500, {}) if verb == "DELETE" else answer(verb, *more))
        assert coiled_jobs.cancel([first], config, journal)
        with pytest.raises(CloudError, match="of an earlier run could not be stopped"):
            coiled_jobs.submit(job(), config, MACHINES, ["us-central1"], journal)
        assert len(server.clusters) == 1
    again = coiled_jobs.submit(job(), config, MACHINES, ["us-central1"], journal)
    assert server.clusters[1].state == "stopped" and journal.read(again).follows == ()
    assert not [record for record in journal.unfinished() if record.id == first]


def test_a_full_disk_keeps_no_machine_running(server, journal, monkeypatch):
    config = settings()
    job_id = coiled_jobs.submit(job("sleep 60"), config, MACHINES, ["us-central1"], journal)

    def full(*_):
        raise DiskFullError("no space left")

    monkeypatch.setattr("aifs_ensemble.workflow.coiled.records.write_json", full)
    (problem,) = coiled_jobs.cancel([job_id], config, journal)
    assert "not written down: no space left" in problem
    assert server.clusters[1].state == "stopped"


def test_what_goes_wrong_beside_the_job_does_not_end_the_run(server, here, monkeypatch, capfd):
    """A status command that fails would: a table in the middle of an edit, a disk that is full."""
    job_id = coiled_jobs.submit(job("sleep 60"), settings(), MACHINES, ["us-central1"], here)

    def answer() -> str:
        assert main(["coiled-status", job_id]) == 0
        return capfd.readouterr().out.strip()

    def broken():
        raise ConfigError("machines.yaml: not valid YAML")

    with monkeypatch.context() as edited:
        edited.setattr("aifs_ensemble.planning.machines.load_machines", broken)
        assert answer() == "running" and here.read(job_id).unheard == 1
        for _ in range(10):
            rewrite(here, job_id, unheard_at=time.time() - 500)
            last = answer()
        assert last == "failed", "a job that cannot be looked at is not waited for without end"
        assert main(["coiled-status", "never-asked-for"]) == 0
        capfd.readouterr()
        here.path(job_id).write_text("{")
        assert answer() == "running", "a record that is damaged ends no run either"
    assert server.clusters[1].state != "stopped", "its retry takes it up"


def test_a_bucket_that_does_not_answer_is_asked_again(server, here, monkeypatch, capfd):
    """Members are called failed when their manifests say so, not when the coordinator's login has ended."""
    config = settings()
    job_id = coiled_jobs.submit(job("exit 0"), config, MACHINES, ["us-central1"], here)
    finish(here, job_id, config)

    def refused(*_):
        raise StorageError("gs://: RefreshError")

    monkeypatch.setattr("aifs_ensemble.common.storage.gcs.GcsStorage.get_bytes", refused)
    assert main(["coiled-status", job_id]) == 0
    assert capfd.readouterr().out.strip() == "running"
    assert here.read(job_id).state == "success"


def test_a_run_tells_of_machines_whose_end_is_not_known(server, journal):
    work, other = work_of(settings()), work_of(settings(lead_hours=48))
    assert list(start.left_open(journal, work)) == []
    job_id = coiled_jobs.submit(job("sleep 60"), settings(), MACHINES, ["us-central1"], journal)
    assert list(start.left_open(journal, work)) == [], "it is taken up"
    (line,) = start.left_open(journal, other)
    assert f"`aifs-ensemble coiled-cancel {job_id}` stops them" in line, "nobody waits for it"
    with other_coordinator() as name:
        rewrite(journal, job_id, owner=name)
        assert list(start.left_open(journal, other)) == [], "a run beside this one does"
    rewrite(journal, job_id, state="failed")
    assert list(start.left_open(journal, work)) == [line]


@pytest.mark.parametrize("seed", ["", "random"])
def test_an_order_that_is_not_fixed_is_no_reason_to_refuse(seed, monkeypatch):
    monkeypatch.setenv("PYTHONHASHSEED", seed)
    start._refuse_fixed_order()


def test_runs_beside_each_other_do_not_name_their_sources_alike(monkeypatch):
    for seed in ("0", "42"):
        monkeypatch.setenv("PYTHONHASHSEED", seed)
        with pytest.raises(ConfigError, match=f"PYTHONHASHSEED: '{seed}'"):
            start.prepare_start(None, settings())


def test_what_is_taken_up_needs_no_region(server, journal):
    config = settings()
    coiled_jobs.submit(job("sleep 60"), config, MACHINES, ["us-central1"], journal)

    def silent():
        raise StorageError("the bucket does not answer")

    again = coiled_jobs.submit(job(), config, MACHINES, silent, journal)
    assert journal.read(again).follows and len(server.clusters) == 1


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


@pytest.mark.parametrize("step", [7, 3600, -3600])
def test_a_coordinator_lives_whatever_the_clock_is_set_to(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A laptop that woke, a clock set by NTP: what psutil takes for a process's start moves with it."""
    name = coordinator.new_name()
    created = psutil.Process.create_time
    monkeypatch.setattr(psutil.Process, "create_time", lambda process: created(process) + step)
    assert coordinator.lives(name)
    host, process, started, token = name.rsplit("-", 3)
    assert not coordinator.lives(f"{host}-{os.getppid()}-{started}-{token}")  # a process of that number, another one
    assert not coordinator.lives(f"{host}-{process}-{started}-ffffff{token[-2:]}") or abs(step) < 5
