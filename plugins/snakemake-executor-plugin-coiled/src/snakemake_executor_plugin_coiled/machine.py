"""What is asked of Coiled for a job: one batch job with one task on one machine of its own."""

from __future__ import annotations

import base64
import gzip
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from snakemake_interface_common.exceptions import WorkflowError

if TYPE_CHECKING:
    from snakemake_executor_plugin_coiled import ExecutorSettings


@dataclass(frozen=True)
class Machine:
    """What a job is to run on, and the shell command that it runs; `disk_mb` comes on top of the boot disk."""

    command: str
    title: str
    vm_type: str
    image: str
    spot: bool = False
    disk_mb: int = 0
    attempt: int = 1


def machine_script(machine: Machine) -> str:
    """Return what the machine runs: the job's command in a folder of its own, ending with its exit code.

    The command travels packed, because Coiled searches a plain one for words that name local files and
    uploads those; the sources come from the storage instead.
    """
    packed = base64.encodebytes(gzip.compress(machine.command.encode(), mtime=0)).decode()
    return (
        "#!/bin/bash\n"
        f"# {machine.title}, attempt {machine.attempt}\n"
        "set -e\n"
        'folder=$(mktemp -d "$PWD/job.XXXXXX")\n'
        'cd "$folder"\n'
        f"base64 -d <<'PACKED' | gunzip > task\n{packed}PACKED\n"
        "exec /bin/sh ./task\n"
    )


def host_setup(settings: ExecutorSettings) -> str:
    """Return the script that the machine runs before the task: it ends its own life in time.

    Coiled's own cluster timeout does the same from outside; this one needs nobody to be reachable.
    """
    minutes = int(settings.max_hours * 60) + 30
    return f"#!/bin/bash\nshutdown -P +{minutes} 'snakemake: longest lifetime reached' || true\n"


def run_arguments(
    machine: Machine, name: str, region: str, settings: ExecutorSettings, tags: dict[str, str], env: dict[str, str]
) -> dict[str, Any]:
    """Return the arguments of ``coiled.batch.run`` for a job in a region; WorkflowError for a secret not set."""
    seconds = int(settings.max_hours * 3600)
    cluster: dict[str, Any] = {"cluster_timeout": f"{seconds + 1800} seconds"}
    if machine.spot:
        # The client gives the scheduler's machine a T4 as soon as a worker has a bundled card.
        cluster["scheduler_gpu"] = False
        # Coiled would replace a preempted machine without end; whether to try again, and whether
        # preemptible again, is decided by the attempt count of the job instead.
        cluster["backend_options"] = {"spot_replacement": False}
    return {
        "command": machine_script(machine),
        "name": name,
        "container": machine.image if "/" in machine.image else None,
        "software": None if "/" in machine.image else machine.image,
        "vm_type": [machine.vm_type],
        "region": region or None,
        "spot_policy": "spot" if machine.spot else "on-demand",
        # A single task runs on the scheduler's machine, and that one is never preemptible. Asking for spot
        # there would silently rent on demand, so the task gets a worker and the scheduler a small machine.
        "task_on_scheduler": False if machine.spot else None,
        "scheduler_vm_type": [settings.scheduler_vm_type] if machine.spot else None,
        "disk_size": str(settings.disk_gb + -(-machine.disk_mb // 1000)),
        "env": {"PYTHONUNBUFFERED": "1", **env},
        "secret_env": secrets(settings),
        "tag": tags,
        "host_setup_script_content": host_setup(settings),
        "job_timeout": f"{seconds} seconds",
        "max_retries": 0,
        "cluster_kwargs": cluster,
    }


def secrets(settings: ExecutorSettings) -> dict[str, str]:
    """Return the variables that the settings name with their values here; WorkflowError for one that is not set."""
    names = settings.secrets or []
    if absent := [name for name in names if not os.environ.get(name)]:
        raise WorkflowError(f"coiled: secrets: {', '.join(absent)} not set in this environment, expected a value")
    return {name: os.environ[name] for name in names}


def pairs(items: list[str] | None) -> dict[str, str]:
    """Return tags given as ``KEY=VALUE``; WorkflowError for what is none."""
    for item in items or []:
        if "=" not in item:
            raise WorkflowError(f"--coiled-tags: {item!r}, expected KEY=VALUE")
    return dict(item.split("=", 1) for item in items or [])
