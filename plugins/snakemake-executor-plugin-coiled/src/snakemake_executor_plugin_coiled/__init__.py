"""Snakemake jobs on machines that Coiled rents: ``snakemake --executor coiled``."""

import asyncio
import atexit
import contextlib
import signal
import threading
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from snakemake_interface_common.exceptions import WorkflowError
from snakemake_interface_executor_plugins.executors.base import SubmittedJobInfo
from snakemake_interface_executor_plugins.executors.remote import RemoteExecutor
from snakemake_interface_executor_plugins.jobs import JobExecutorInterface
from snakemake_interface_executor_plugins.settings import CommonSettings, ExecutorSettingsBase
from snakemake_interface_executor_plugins.utils import encode_target_jobs_cli_args

from snakemake_executor_plugin_coiled.hooks import Hooks, errors_in_one_line, load_hooks
from snakemake_executor_plugin_coiled.jobs import Job, Jobs
from snakemake_executor_plugin_coiled.machine import Machine
from snakemake_executor_plugin_coiled.records import Journal
from snakemake_executor_plugin_coiled.service import require_token
from snakemake_executor_plugin_coiled.stop import start_detached

__all__ = ["Executor", "ExecutorSettings", "Hooks", "common_settings"]
_AT_ONCE = 32


def _option(default: Any, text: str, **more: Any) -> Any:
    return field(default=default, metadata={"help": text, **more})


@dataclass
class ExecutorSettings(ExecutorSettingsBase):
    """What ``snakemake --help`` shows, as ``--coiled-NAME``."""

    vm_type: str | None = _option(
        None, "Machine type of a job, such as n2-standard-2; a rule's resource coiled_vm_type stands over it.", type=str
    )
    image: str | None = _option(
        None,
        "Container image (with a / in its name) or Coiled software environment, with Snakemake and the storage plugin "
        "in it; a rule's resource coiled_image stands over it.",
        type=str,
    )
    regions: list[str] | None = _option(
        None, "Regions in order of preference; the next is tried when one has no machine.", nargs="+", type=str
    )
    workspace: str | None = _option(None, "Coiled workspace; by default your default one.", type=str)
    spot_attempts: int = _option(
        0,
        "First attempts of a job that ask for a preemptible machine; a rule's resource coiled_spot (spot or standard) "
        "stands over it.",
    )
    scheduler_vm_type: str = _option(
        "n2-standard-2", "Small machine beside a preemptible one, which Coiled rents on demand."
    )
    disk_gb: int = _option(60, "Disk of a machine beside what a rule's resource disk_mb asks for.")
    max_hours: float = _option(6.0, "Lifetime after which a machine stops whatever happens.")
    idle_minutes: float = _option(
        10.0, "How long a region is given to bring a machine, and how long a preemptible one is waited for anywhere."
    )
    wait_hours: float = _option(
        6.0, "How long a job asks again, every two minutes, for a machine that no region has. 0: it fails at once."
    )
    tags: list[str] | None = _option(None, "Tags of machines, as KEY=VALUE.", nargs="+", type=str)
    secrets: list[str] | None = _option(
        None, "Names of environment variables that machines get with their values here.", nargs="+", type=str
    )
    hooks: str | None = _option(
        None,
        "module:Class, a subclass of snakemake_executor_plugin_coiled.Hooks: judgement of jobs and more.",
        type=str,
    )


common_settings = CommonSettings(
    non_local_exec=True,
    # a dry-run plans without a storage provider; a run without one is refused below
    implies_no_shared_fs=False,
    job_deploy_sources=True,
    pass_default_storage_provider_args=True,
    pass_default_resources_args=True,
    pass_envvar_declarations_to_cmd=True,
    auto_deploy_default_storage_provider=False,
)


class Executor(RemoteExecutor):
    """One Coiled batch job, on a machine of its own, for every job or group of jobs."""

    def __post_init__(self) -> None:
        self.hooks = load_hooks(self.workflow.executor_settings)
        self.journal = Journal()
        self.jobs = Jobs(self.workflow.executor_settings, self.hooks, self.journal, self.logger)
        self.asked: list[Job] = []
        self.stopped: set[str] = set()
        self.pool = ThreadPoolExecutor(_AT_ONCE)

    def _start(self) -> None:
        """Be a coordinator that stops its machines when it ends; one that is killed leaves them running."""
        if self.journal.owner:
            return
        if self.workflow.storage_settings.assume_common_workdir:
            raise WorkflowError(
                "coiled: machines share no files, expected --shared-fs-usage none and a default storage"
            )
        require_token()
        self.journal.become_owner()
        atexit.register(self.journal.no_longer_owner)
        atexit.register(self._stop_machines)
        _end_with_the_terminal()

    def run_job(self, job: JobExecutorInterface) -> None:
        self._start()
        targets = encode_target_jobs_cli_args(job.get_target_spec())
        made = self.jobs.new(targets, self._machine(job, targets))
        self.asked.append(made)
        # in a thread, which Ctrl-C does not interrupt: half a request is a machine that nobody knows of
        made.begun = self.pool.submit(self.jobs.begin, made)
        self.report_job_submission(SubmittedJobInfo(job, external_jobid=made.record.id, aux={"job": made}))

    def _machine(self, job: JobExecutorInterface, targets: list[str]) -> Machine:
        """Return what a job is to run on; WorkflowError for a type or an image that nobody named."""
        settings = self.workflow.executor_settings
        with errors_in_one_line():
            asked, title = self.hooks.machine(job.resources), self.hooks.title(targets)
        vm_type, image = (asked.get(name) or getattr(settings, name) for name in ("vm_type", "image"))
        for name, value in (("vm_type", vm_type), ("image", image)):
            if not value:
                option = f"--coiled-{name.replace('_', '-')}"
                raise WorkflowError(f"{title}: no {name}, expected {option} or the resource coiled_{name}")
        spot = asked.get("spot", job.attempt <= settings.spot_attempts)
        command = self.format_job_exec(job)
        disk_mb = int(job.resources.get("disk_mb") or 0)
        return Machine(command, title, str(vm_type), str(image), bool(spot), disk_mb, job.attempt)

    async def check_active_jobs(self, active_jobs: list[SubmittedJobInfo]) -> AsyncGenerator[SubmittedJobInfo, None]:
        """Look at all jobs at once, each in a thread of its own."""
        looks = []
        for info in active_jobs:
            async with self.status_rate_limiter:
                looks.append(asyncio.get_running_loop().run_in_executor(self.pool, self.jobs.look, info.aux["job"]))
        for info, look in zip(active_jobs, looks, strict=True):
            job = await look
            if job.state == "running":
                yield info
            elif job.state == "success":
                self.report_job_success(info)
            else:
                text = f"{job.record.title} ({job.record.id}): {job.record.reason}"
                self.logger.error(text)
                self.report_job_error(info, msg=f"{job.record.reason}. ")

    def cancel_jobs(self, active_jobs: list[SubmittedJobInfo]) -> None:
        """Stop the machines of all jobs: Snakemake names those that are not being looked at, which may be none."""
        self._stop_machines()

    def shutdown(self) -> None:
        """Stop what still runs when a run ends by an error of its own."""
        self._stop_machines()
        super().shutdown()

    def _stop_machines(self) -> None:
        ids = [job.record.id for job in self.asked if job.unfinished and job.record.id not in self.stopped]
        if not ids:
            return
        self.jobs.stopping = True
        self.stopped.update(ids)
        start_detached(ids, self.journal)
        text = f"stopping the machines of {len(ids)} jobs, see {self.journal.folder / 'cancel.log'}"
        with contextlib.suppress(OSError):  # nobody reads it where the terminal is gone
            self.logger.info(text)


def _end_with_the_terminal() -> None:
    """End like Ctrl-C when the terminal goes, which would otherwise run nothing that is registered for the end."""
    # under nohup it is ignored, and stays so
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
        signal.signal(signal.SIGHUP, _hang_up)


def _hang_up(*_: Any) -> None:
    # the shell and the terminal each send one
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    raise KeyboardInterrupt
