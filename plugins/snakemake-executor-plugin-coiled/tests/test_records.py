"""Records: whose jobs they are, taken up again, given up, cancelled; the real client, without Snakemake."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest
from coiled_server import CoiledServer
from coordinators import coordinator, forget_answer, rewrite
from snakemake_executor_plugin_coiled import jobs as plugin_jobs
from snakemake_executor_plugin_coiled import service, stop
from snakemake_executor_plugin_coiled.__main__ import main
from snakemake_executor_plugin_coiled.records import JobRecord, Journal

pytestmark = pytest.mark.cloud


def dies(run) -> None:
    """End a coordinator as a kill does: its lock is gone, its records stay."""
    run.journal._held.close()


def test_running_jobs_are_taken_up_again(server, journal):
    """However Snakemake groups the jobs the next time, no machine is rented for what another one is making."""
    first = coordinator(journal)
    for of in ("1,3", "2,4"):
        first.submit("sleep 2", of=of)
    dies(first)
    second = coordinator(journal)
    second.hooks.verdicts = lambda: {f"make:n={n}": "" for n in range(1, 6)}
    again = {}
    for of, jobs in (("3", 1), ("1,4", 2), ("2,5", 1)):
        again[of] = second.submit(of=of)
        assert len(again[of].record.follows) == jobs
    for job in again.values():
        assert second.finish(job).state == "success", "what the hooks can see, they decide"
    assert len(server.clusters) == 2
    assert all(record.state == "success" for record in journal.all())


@pytest.mark.parametrize(("of", "state"), [("1", "success"), ("1,2", "failed")])
def test_exit_codes_speak_for_their_own_targets_alone(of, state, server, journal):
    first = coordinator(journal)
    first.submit("sleep 1", of="1")
    dies(first)
    second = coordinator(journal)
    job = second.finish(second.submit(of=of))
    assert job.state == state
    assert state == "success" or job.record.reason == "not made by the jobs followed: make:n=2"


def test_a_machine_of_another_work_is_not_taken_up(server, journal):
    """Targets may name no more than a number; the same of another work is another job."""
    first = coordinator(journal)
    job = first.submit("sleep 60")
    dies(first)
    second = coordinator(journal, work="b")
    other = second.submit("sleep 60")
    assert other.record.follows == () and len(server.clusters) == 2
    assert stop.stop([other.record.id], journal) == []
    assert server.clusters[1].state != "stopped" and journal.read(job.record.id).state == "running"


def test_a_machine_of_a_living_coordinator_is_not_taken_up(server, journal):
    first = coordinator(journal)
    job = first.submit("sleep 60")
    second = coordinator(journal)
    refused = second.finish(second.submit())
    assert refused.state == "failed" and len(server.clusters) == 1
    assert f"make 1: being made for another run (process {os.getpid()} on " in refused.record.reason
    dies(first)
    again = second.submit()
    assert again.record.follows == (job.record.id,)
    assert journal.read(job.record.id).owner == second.journal.owner


def test_a_coordinator_lives_as_long_as_its_process(journal):
    code = f"""if True:
        import sys, time
        from pathlib import Path
        from snakemake_executor_plugin_coiled.records import Journal
        journal = Journal(Path({str(journal.folder)!r}))
        journal.become_owner()
        print(journal.owner, flush=True)
        time.sleep(600)
    """
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    owner = process.stdout.readline().strip()
    assert journal.lives(owner) and not journal.lives("another-1-0123abcd")
    process.kill()
    process.wait()
    process.stdout.close()
    assert not journal.lives(owner)


def test_records_of_an_earlier_version_can_be_stopped(server, journal):
    run = coordinator(journal)
    old = run.submit("sleep 60").record
    rewrite(journal, old.id, no_longer_known=1, script="python", resources={"machine": "gpu"})
    assert stop.stop([old.id], journal) == []
    assert server.clusters[1].state == "stopped" and not journal.unfinished()


def test_a_damaged_record_is_named(journal):
    journal.write(JobRecord("make-1-0123abcd", "make 1", ()))
    journal.path("make-1-0123abcd").write_text("{")
    with pytest.raises(service.WorkflowError, match=r"make-1-0123abcd\.json: not the record of a job"):
        journal.all()


# -- stopped by another process


def test_stopped(server, journal, capsys):
    run = coordinator(journal)
    jobs = [run.submit("sleep 60", of=of) for of in ("1", "2")]
    # killed after asking, before the answer was written down: only the name is known
    forget_answer(journal, jobs[1].record.id)
    ids = [job.record.id for job in jobs]
    assert stop.stop([*ids, "nothing-like-it"], journal)[0].startswith("nothing-like-it: not stopped")
    assert [cluster.state for cluster in server.clusters.values()] == ["stopped", "stopped"]
    assert {journal.read(job_id).state for job_id in ids} == {"cancelled"}
    # the coordinator, which has written since, sees it too
    assert run.finish(jobs[0]).state == "failed" and jobs[0].record.state == "cancelled"
    assert not journal.unfinished()


def test_stopping_reaches_what_is_followed(server, journal):
    first = coordinator(journal)
    first.submit("sleep 60", of="1,2")
    dies(first)
    second = coordinator(journal)
    again = second.submit(of="2,3")
    assert stop.stop([again.record.id], journal) == []
    assert server.clusters[1].state == "stopped" and not journal.unfinished()
    assert second.finish(again).state == "failed"


def test_stopping_everything_ends_the_renting_of_a_run_under_way(server, journal, caplog):
    """Snakemake asks again for a job that was cancelled beside it; the next run is not concerned."""
    run = coordinator(journal)
    first = run.submit("sleep 60")
    folder = ["--folder", str(journal.folder)]
    caplog.set_level("INFO")
    assert main(["stop", *folder, first.record.id]) == 0
    second = run.submit("sleep 60", of="2")
    assert journal.read(second.record.id).state == "running", "the run of a job cancelled by its id goes on"
    assert main(["list", *folder]) == 0
    assert main(["stop", *folder]) == 0
    assert f"the run of process {os.getpid()} on" in caplog.text and "rents no more machines" in caplog.text
    third = run.finish(run.submit("sleep 60", of="3"))
    assert third.state == "failed" and "no more machines for this run" in third.record.reason
    assert {cluster.state for cluster in server.clusters.values()} == {"stopped"} and not journal.unfinished()
    later = coordinator(journal)
    assert later.finish(later.submit(of="3")).state == "success"


def test_stopped_while_being_asked_for(server, journal, monkeypatch):
    """The machine that is rented although its job was cancelled meanwhile is stopped again."""
    answer, run = server.answer, coordinator(journal)

    def cancels(verb, path, body):
        if verb == "POST" and path.startswith("/api/v2/jobs/compressed"):
            monkeypatch.setattr(server, "answer", answer)
            (problem,) = stop.stop([journal.all()[0].id], journal, wait_seconds=0)
            assert problem.endswith("not stopped (the request for its machine is under way)")
        return answer(verb, path, body)

    monkeypatch.setattr(server, "answer", cancels)
    job = run.submit("sleep 60")
    assert server.clusters[1].state == "stopped"
    record = journal.read(job.record.id)
    assert (record.state, record.requests[0].ended) == ("cancelled", "cancelled")
    assert run.finish(job).state == "failed"


def test_a_machine_that_comes_after_its_job_was_stopped(server, journal, monkeypatch):
    """Whoever asked for it is gone: stopping waits for what may still come."""
    run = coordinator(journal)
    job = run.submit("sleep 60")
    forget_answer(journal, job.record.id)
    monkeypatch.setattr(stop, "POLL_SECONDS", 0.01)
    find, looks = service.Service.find, []

    def later(self, name):
        looks.append(name)
        return find(self, name) if len(looks) > 2 else None

    monkeypatch.setattr(service.Service, "find", later)
    assert stop.stop([job.record.id], journal) == []
    assert server.clusters[1].state == "stopped" and not journal.unfinished()


def test_a_machine_that_could_not_be_stopped_is_stopped_before_another_is_rented(server, journal, monkeypatch):
    run, answer = coordinator(journal), server.answer
    first = run.submit("sleep 60")
    with monkeypatch.context() as deaf:
        deaf.setattr(server, "answer", lambda verb, *more: (500, {}) if verb == "DELETE" else answer(verb, *more))
        assert stop.stop([first.record.id], journal)
        refused = run.finish(run.submit())
        assert refused.state == "failed" and "of an earlier run could not be stopped" in refused.record.reason
        assert len(server.clusters) == 1
    again = run.submit()
    assert server.clusters[1].state == "stopped" and again.record.follows == ()
    assert not [record for record in journal.unfinished() if record.id == first.record.id]


def test_a_full_disk_keeps_no_machine_running(server, journal, monkeypatch):
    run = coordinator(journal)
    job = run.submit("sleep 60")

    def full(*_, **__):
        raise OSError("no space left")

    with monkeypatch.context() as disk:
        disk.setattr(Journal, "mark", full)
        (problem,) = stop.stop([job.record.id], journal)
    assert "not written down: no space left" in problem
    assert server.clusters[1].state == "stopped"


def test_a_full_disk_ends_no_run_and_rents_nothing_unremembered(server, journal, monkeypatch):
    run = coordinator(journal)
    job = run.submit("sleep 1")

    def full(*_):
        raise OSError("no space left")

    with monkeypatch.context() as disk:
        disk.setattr(Journal, "write", full)
        second = run.submit(of="2")
        assert run.finish(job).state == "success"
        assert run.look(second).state == "running" and len(server.clusters) == 1
    assert run.finish(second).state == "success" and len(server.clusters) == 2


# -- no answer


def test_a_service_that_does_not_answer_is_no_failure(server, run, monkeypatch):
    job = run.submit("sleep 60")
    with monkeypatch.context() as short:
        short.setattr(service, "LOOK_SECONDS", 1.0)
        server.failing = 10**6
        record = run.look(job)
    assert record.state == "running" and record.unheard == 1
    server.failing = 0
    assert run.look(job).unheard == 0


@pytest.fixture
def deaf(server, run, monkeypatch):
    """A job that runs on a machine, looked at by a coordinator that gets no answer; it looks after so many seconds."""
    job = run.submit("sleep 60")

    def look(after: float) -> JobRecord:
        if job.record.unheard:
            job.record.unheard_at = time.time() - after
        return run.look(job)

    monkeypatch.setattr(service, "LOOK_SECONDS", 0.3)
    server.failing = 10**6
    return look


def test_a_coordinator_that_slept_has_not_listened(deaf):
    for _ in range(3):
        record = deaf(after=3 * plugin_jobs.UNREACHABLE_SECONDS)
    assert record.state == "running" and record.unheard == 3


def test_a_service_silent_for_long_is_given_up_and_its_machine_can_still_be_stopped(deaf, server, run, journal):
    looks = 0
    while deaf(after=500).state == "running":
        looks += 1
        assert looks < 10
    assert looks >= 3
    server.failing = 0
    again = run.submit()
    assert again.record.follows and len(server.clusters) == 1, "a second machine beside one that runs"
    assert main(["stop", "--folder", str(journal.folder)]) == 0
    assert server.clusters[1].state == "stopped" and not journal.unfinished()


def test_a_request_interrupted_before_the_answer(server: CoiledServer, journal: Journal):
    """The machine exists, its number was never written down: the next coordinator finds it by its name."""
    first = coordinator(journal)
    job = first.submit("sleep 1")
    forget_answer(journal, job.record.id)
    dies(first)
    second = coordinator(journal)
    assert second.finish(second.submit()).state == "success" and len(server.clusters) == 1
    # and one that was never made does not run for ever
    third = second.submit(of="2")
    server.clusters.pop(2)
    request = third.record.requests[0]
    request.cluster_id, request.requested = None, time.time() - 2 * service.UNANSWERED_SECONDS
    assert second.look(third).reason == "submission was interrupted"
