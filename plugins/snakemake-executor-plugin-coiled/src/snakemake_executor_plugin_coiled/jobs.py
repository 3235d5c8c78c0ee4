"""Jobs on Coiled: asked for region after region, looked at, judged, waited for while nobody has a machine.

Every job of Snakemake (or group of jobs) becomes one Coiled batch job with one task on one machine of its own, which
Coiled stops when the task ends. Each job is one thread's at a time.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from snakemake_interface_common.exceptions import WorkflowError

from snakemake_executor_plugin_coiled import service as seen
from snakemake_executor_plugin_coiled.hooks import Hooks
from snakemake_executor_plugin_coiled.machine import Machine, pairs, run_arguments
from snakemake_executor_plugin_coiled.records import JobRecord, Journal, MachineRequest
from snakemake_executor_plugin_coiled.service import Service, within

if TYPE_CHECKING:
    from snakemake_executor_plugin_coiled import ExecutorSettings

LOG = logging.getLogger(__name__)
# A control plane that does not answer says nothing about the machine: this long, listening, the job counts as running.
UNREACHABLE_SECONDS = 1800.0
# Between two looks further apart nobody was listening: the coordinator's machine slept.
LISTENING_SECONDS = 600.0
# How long a machine that came may take to boot and to fetch its image.
STARTING_SECONDS = 1800.0
# Between two rounds of regions none of which has a machine.
ASK_AGAIN_SECONDS = 120.0


class RefusedError(WorkflowError):
    """Coiled gives no machine, or not in time."""


@dataclass
class Job:
    """A job of this run: its record, what it is to run on, and the records that it follows.

    `asked`: a machine was asked for, or there is one to follow. `made`: once nothing runs any more, the targets of
    which an exit code said that they are made. `state`: what Snakemake is told, ``running``, ``success`` or ``failed``.
    """

    record: JobRecord
    machine: Machine
    followed: list[JobRecord] = field(default_factory=list)
    asked: bool = False
    made: set[str] | None = None
    state: str = "running"
    begun: Future[None] | None = None

    @property
    def unfinished(self) -> bool:
        """Whether a machine may run, or come, for this job."""
        return any(record.unfinished for record in (self.record, *self.followed))


class Jobs:
    """The jobs of a run. `stopping`: no machine is asked for any more."""

    def __init__(
        self, settings: ExecutorSettings, hooks: Hooks, journal: Journal, logger: logging.Logger | None = None
    ):
        self.settings, self.hooks, self.journal = settings, hooks, journal
        self.service = Service(settings.workspace)
        self.log = logger or LOG
        self.stopping = False

    def new(self, targets: Sequence[str], machine: Machine) -> Job:
        """Return a job that nothing was asked for yet."""
        work, owner = self.hooks.work(), self.journal.owner
        name = self.journal.new_id(machine.title)
        return Job(JobRecord(name, machine.title, tuple(targets), work, owner, self.settings.workspace), machine)

    def begin(self, job: Job) -> None:
        """Take up what still runs for the job, or ask for a machine; what goes wrong stands in its record.

        Where those taken up make only a part, the job ends as failed when they end, and Snakemake asks for the rest:
        nothing is computed on two machines at once.
        """
        record, job.asked = job.record, True
        try:
            job.followed = self.journal.take_up(record.targets, record.work)
            record.follows = tuple(left.id for left in job.followed)
            self.journal.write(record)
            if job.followed:
                text = f"{record.title}: still being made by {', '.join(record.follows)}, taken up again"
                self.log.info(text)
                return
            self._stop_left(record)
            self._ask_regions(record, job.machine)
        except Exception as error:
            if record.current is not None:
                self._warn(record, f"no answer ({_line(error)}), a machine may have been rented: looked for again")
            elif isinstance(error, WorkflowError):
                record.state, record.reason = "failed", _line(error)
            else:
                job.asked = False
                self._unreachable(record, error)
        self._keep(record)

    def look(self, job: Job) -> Job:
        """Look at a job, act on what is seen (try the next region, stop what is over) and return it.

        What goes wrong on this side, such as a full disk, is not the job's failure.
        """
        if job.state != "running" or (job.begun is not None and not job.begun.done()):
            return job
        try:
            if not job.asked:
                self.begin(job)
            elif job.made is None:
                self._look_at(job)
            if job.made is not None:
                self._judge(job)
            elif job.record.state != "running":
                job.state = "failed"
        except Exception as error:
            self._unreachable(job.record, error)
            job.state = "failed" if job.record.state == "failed" else "running"
            self._keep(job.record)
        return job

    # -- asking

    def _stop_left(self, record: JobRecord) -> None:
        """Stop machines of this work that were to be stopped and may still run; RefusedError where one cannot be."""
        for left in self.journal.to_stop(record.targets, record.work):
            try:
                for request in left.requests:
                    self.service.stop(left, request)
            except Exception as error:
                raise RefusedError(
                    f"{left.title}: a machine of an earlier run could not be stopped ({_line(error)})"
                ) from error
            if any(request.ended is None for request in left.requests):
                raise RefusedError(
                    f"{left.title}: a machine that was asked for may still come, and is stopped then: try again"
                )
            self.journal.mark(left.id, stopped=True)

    def _ask_regions(self, record: JobRecord, machine: Machine) -> None:
        """Ask for the job in the first region not tried yet, and in the next ones while none has a machine.

        When every region said no, the record says when to ask again. RefusedError when that has gone on for long
        enough, or when Coiled refused for another reason.
        """
        within(seen.LOOK_SECONDS, self.service.cloud)  # what fails now is no request
        regions = list(self.hooks.regions())
        tried = [request.region for request in record.requests[record.round :]]
        reason: str | None = record.reason
        for region in regions:
            if region in tried:
                continue
            reason = self._ask(record, machine, region)
            if reason is None:
                self._say_rented(record)
                return
            self._warn(record, f"no machine in {region} ({reason})")
        self._wait(record, machine, ", ".join(regions), str(reason))

    def _say_rented(self, record: JobRecord) -> None:
        try:
            said = self.hooks.rented(self.journal.of_work(record.work))
        except Exception as error:  # the machine is there, whatever can be said of it
            self._warn(record, _line(error))
            return
        if said:
            self.log.info(said)

    def _ask(self, record: JobRecord, machine: Machine, region: str) -> str | None:
        """Ask for a machine in one region; return why there is none, or None when one was rented or may have been.

        The request is on disk before it is made: whatever happens between asking and being answered, the cluster has
        a name by which it is found.
        """
        settings, hooks = self.settings, self.hooks
        request = MachineRequest(region, machine.spot, machine.vm_type)
        name = f"{record.id}-{len(record.requests) + 1}"
        tags = {**hooks.tags(record.targets), **pairs(settings.tags)}
        arguments = run_arguments(machine, name, region, settings, tags, hooks.environment(record.id))
        record.requests.append(request)
        try:
            self.journal.write(record)
        except OSError:
            record.requests.pop()
            raise
        if self._cancelled(record) or self.journal.renting_stopped():
            request.ended = "cancelled"
            raise RefusedError(f"{record.title}: no more machines for this run, which was stopped; start it again")
        try:
            request.cluster_id = self.service.run(arguments)
            record.reason = ""
        except Exception as error:
            if no_machine := self._without_answer(record, request, name, error):
                return no_machine
        self.journal.write(record)
        if self._cancelled(record):
            # while this process was asking
            self.service.stop(record, request)
            record.state = record.reason = "cancelled"
        return None

    def _without_answer(self, record: JobRecord, request: MachineRequest, name: str, error: Exception) -> str | None:
        """Judge a request that raised: return why its region has no machine, or None when one was or may be rented.

        An answer can be lost, or a later call of the client fail, after the machine was rented. Raises RefusedError
        when Coiled refused for another reason than stock.
        """
        reason = _line(error)
        request.cluster_id = self.service.find(name)
        if request.cluster_id is not None:
            self._warn(record, f"the answer was lost ({reason}), found as cluster {request.cluster_id}")
            return None
        if seen.is_unanswered(error):
            self._warn(record, f"no answer ({reason}), a machine may have been rented: looked for again")
            return None
        request.ended = reason
        if not seen.is_stock_out(reason):
            raise RefusedError(f"{record.title}: Coiled refused the job in {request.region}: {reason}") from error
        return reason

    def _wait(self, record: JobRecord, machine: Machine, regions: str, reason: str) -> None:
        """Put off the next round of regions; RefusedError when the job has waited long enough.

        A preemptible one does not wait for long: its next attempts are on demand.
        """
        longest = 60.0 * self.settings.idle_minutes if machine.spot else 3600.0 * self.settings.wait_hours
        now = time.time()
        record.waiting_since = record.waiting_since or now
        end = record.waiting_since + longest
        if now >= end:
            raise RefusedError(
                f"{record.title}: no machine in {regions} for {(now - record.waiting_since) / 60:.0f} min: {reason}"
            )
        record.round, record.ask_at, record.reason = len(record.requests), min(now + ASK_AGAIN_SECONDS, end), reason
        self._warn(record, f"no machine in {regions}, asked again in {record.ask_at - now:.0f} s")

    # -- looking

    def _look_at(self, job: Job) -> None:
        """Look at the job's machine, or at those of the jobs that it follows; `job.made` once nothing runs any more."""
        if not job.record.follows:
            self._look_at_machine(job.record, job.machine)
            if job.record.state == "success":
                job.made = set(job.record.targets)
            return
        for record in job.followed:
            self._look_at_machine(record, None)
        if any(record.state == "running" for record in job.followed):
            return
        record = job.record
        if self.journal.marked(record.id):
            record.state = record.reason = "cancelled"
            return
        record.reason = "; ".join(f"{each.id}: {each.reason}" for each in job.followed if each.state != "success")
        job.made = {target for each in job.followed if each.state == "success" for target in each.targets}

    def _look_at_machine(self, record: JobRecord, machine: Machine | None) -> None:
        """Note in a record what became of its request, and ask for another machine where there was none."""
        if record.state != "running":
            return
        if record.current is None and 0 < record.ask_at - time.time() <= ASK_AGAIN_SECONDS:
            return
        try:
            if self.journal.marked(record.id):
                for request in record.requests:
                    within(seen.LOOK_SECONDS, self.service.stop, record, request)
                record.state = record.reason = "cancelled"
            if record.current is not None:
                self._see(record, record.current)
            if record.state == "running" and record.current is None:
                if machine is None:
                    raise RefusedError(record.reason or "no machine")
                # without a limit of time: an interrupted request may have rented a machine that nobody hears of
                self._ask_regions(record, machine)
        except WorkflowError as error:
            record.state, record.reason = "failed", str(error)
        except Exception as error:
            self._unreachable(record, error)
        else:
            record.unheard, record.unheard_seconds, record.unheard_at = 0, 0.0, 0.0
        self._keep(record)

    def _see(self, record: JobRecord, request: MachineRequest) -> None:
        """Note what became of a request; one that ended while the job still runs is to be made again."""
        if request.cluster_id is None:
            request.cluster_id = within(seen.LOOK_SECONDS, self.service.find, record.cluster_name(request))
        if request.cluster_id is None:
            if time.time() - request.requested > seen.UNANSWERED_SECONDS:
                record.state = "failed"
                record.reason = request.ended = "submission was interrupted"
            return
        details, jobs = within(seen.LOOK_SECONDS, self.service.look, request.cluster_id)
        cluster = details["current_state"]
        verdict, why = seen.judge(jobs, cluster)
        if verdict == "running" and not seen.has_begun(jobs):
            if not request.came and seen.machine_came(details, request):
                request.came = time.time()
            verdict, why = self._not_begun(request)
        lost = seen.worker_lost(jobs, details["workers"]) if verdict == "running" and request.spot else None
        if lost and request.lost:
            verdict, why = ("failed" if seen.has_started(jobs) or not seen.is_stock_out(lost) else "no-machine"), lost
        elif lost:
            self._warn(record, f"{lost}, looked at once more")
        request.lost = bool(lost)
        if verdict == "running":
            return
        if str(cluster.get("state")) not in ("stopping", "stopped"):
            within(seen.LOOK_SECONDS, self.service.delete, request.cluster_id, f"snakemake: {verdict} {why}".strip())
        request.ended = why or verdict
        if verdict == "no-machine":
            record.reason = why
        else:
            record.state, record.reason = ("success" if verdict == "ended" else "failed"), why

    def _not_begun(self, request: MachineRequest) -> tuple[str, str]:
        """Return what is to be made of a request whose job has not begun."""
        now, minutes = time.time(), self.settings.idle_minutes
        if request.came and now - request.came > STARTING_SECONDS:
            return (
                "failed",
                f"its machine came, and the job did not start within {(now - request.came) / 60:.0f} minutes",
            )
        if not request.came and now - request.requested > 60 * minutes:
            return "no-machine", f"no machine within {minutes:g} minutes"
        return "running", ""

    def _judge(self, job: Job) -> None:
        """Give the job its last state, by the hooks where they can tell and by exit codes where they cannot."""
        record, made = job.record, job.made or set()
        try:
            verdicts = self.hooks.judge(record.targets)
        except Exception as error:
            self._warn(record, f"{_line(error)}, asked again later")
            return
        unknown = sorted(set(record.targets) - made - set(verdicts))
        wrong = "; ".join(why for why in verdicts.values() if why)
        if unknown or wrong:
            record.reason = wrong or record.reason or f"not made by the jobs followed: {', '.join(unknown)}"
        job.state = record.state = "failed" if unknown or wrong else "success"
        self._keep(record)

    # -- what is remembered

    def _unreachable(self, record: JobRecord, error: Exception) -> None:
        self.service.close()
        now = time.time()
        gap = now - record.unheard_at if record.unheard else 0.0
        record.unheard_seconds += gap if 0 <= gap <= LISTENING_SECONDS else seen.LOOK_SECONDS
        record.unheard, record.unheard_at = record.unheard + 1, now
        silence = f"{record.unheard} looks in {record.unheard_seconds:.0f} s"
        self._warn(record, f"cannot be looked at ({_line(error)}), {silence} so far")
        if record.unheard_seconds > UNREACHABLE_SECONDS:
            record.state, record.reason = "failed", f"could not be looked at: {silence}; its machine may still run"

    def _cancelled(self, record: JobRecord) -> bool:
        return self.stopping or self.journal.marked(record.id)

    def _keep(self, record: JobRecord) -> None:
        """Write a record; a disk that takes none keeps no run from going on."""
        try:
            self.journal.write(record)
        except OSError as error:
            self._warn(record, f"not written down ({_line(error)})")

    def _warn(self, record: JobRecord, text: str) -> None:
        line = f"{record.title} ({record.id}): {text}"
        self.log.warning(line)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
