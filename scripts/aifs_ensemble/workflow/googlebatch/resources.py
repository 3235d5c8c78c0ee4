"""Google Batch: the resources that snakemake-executor-plugin-googlebatch reads, and its traps.

The plugin is used as it is. What goes wrong with it is avoided by what it is asked for:

- ``nvidia_gpu`` as a number means so many T4, as a name one card of that kind: the accelerator's name is given, and
  machines with several cards are refused.
- ``boot_disk_gb`` alone drops the image from the request: image, size and type are given together.
- It ignores mem_mb, runtime, disk_mb and gpu: lifetime, CPU and memory are given under its own names.
- A resource of 0 counts as not given, and ``retry_count`` then means that Batch itself repeats a failed
  task, unseen: the profile sets it to 0, Snakemake repeats.
- Snakemake adds up the numbers of the jobs in a group, and compares their texts: seven members would ask
  for seven times the memory and disk of the machine, so every number is given as text.
- The container's script ends with two pip commands whose exit code hides the job's (a job that exits 7 is
  SUCCEEDED), and starts by installing the storage plugin again: see `PRECOMMAND`.
- ``$`` and backticks in the Snakefile are expanded by the shell that writes it to the machine: ours has
  none, and the machine runs the one from the source archive anyway.
- Environment variables of a job are printed with it, and whoever may read the job reads them: secrets are not sent
  (the one job that needs one, the download of a checkpoint, is the coordinator's).
- No local SSD is attached, and the container mounts no disk: scratch is on its own layer, on a boot disk made
  larger by the machine's scratch (`workflow.routing` tells `delivery.scratch` so).

Left as they are: spot is PREEMPTIBLE, by rule (`routing` names them), and knows no attempts; a job that waits
for a machine waits without end; a coordinator that was killed does not take its jobs up again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

from aifs_ensemble.common.config import Config
from aifs_ensemble.common.cycles import format_cycles
from aifs_ensemble.common.errors import ConfigError
from aifs_ensemble.planning.machines import Machines, MachineType
from aifs_ensemble.planning.regions import regions_of_run
from aifs_ensemble.workflow import coordinator

COS_PROJECT, COS_FAMILY = "batch-custom-image", "batch-cos-stable-official"

# Runs in the container before anything else of the job, through Snakemake's own --precommand:
# - a folder that the image's user may write to; /tmp/workdir belongs to root
# - no pip: the image has the packages, pinned
# - before the plugin's own pip commands at the end, leave with the exit code of the job
# Dollars are escaped because the plugin writes the script through an unquoted here-document.
PRECOMMAND = (
    r'cd "\$(mktemp -d)" && pip() { :; } && '
    r"""trap 'case "\$BASH_COMMAND" in python3*pip*) exit \$?;; esac' DEBUG"""
)


def resources(config: Config, machines: Machines, machine_class: str, *, on_machine: bool = False) -> dict[str, Any]:
    """Return the resources of a rule of a machine class, by the plugin's names.

    `on_machine`: a job reads them on its own machine, where no other is asked for.
    """
    cloud = config.cloud
    machine = machines.for_class(machine_class, config)
    image = getattr(cloud, f"{machine_class}_image")
    if config.cloud_destination and (not image or "/" not in image):
        raise ConfigError(
            f"config: cloud.{machine_class}_image: {image!r}, expected a container image for Google Batch"
        )
    disk_gb, disk_type = machine.batch_disk
    asked: dict[str, Any] = {
        "googlebatch_machine_type": machine.name,
        "googlebatch_container": image or "image-not-set",
        "googlebatch_image_project": COS_PROJECT,
        "googlebatch_image_family": COS_FAMILY,
        "googlebatch_boot_disk_image": f"projects/{COS_PROJECT}/global/images/family/{COS_FAMILY}",
        "googlebatch_boot_disk_gb": str(disk_gb),
        "googlebatch_boot_disk_type": disk_type,
        "googlebatch_cpu_milli": str(1000 * machine.vcpus),
        "googlebatch_memory": str(_usable_memory(machine)),
        "googlebatch_max_run_duration": f"{round(3600 * cloud.max_hours)}s",
        "googlebatch_labels": labels(config, machine_class),
        "googlebatch_region": config.cloud.regions[0] if on_machine else _region(config),
    }
    if machine.gpu is not None:
        if machine.gpu.count > 1:
            raise ConfigError(
                f"config: cloud.{machine_class}: {machine.name} has {machine.gpu.count} cards, expected one card a "
                "machine: the googlebatch plugin asks for one of a named kind, whatever the machine has"
            )
        asked["nvidia_gpu"] = machine.gpu.googlebatch
    for name in ("project", "service_account", "network", "subnetwork"):
        if getattr(cloud, name):
            asked[f"googlebatch_{name}"] = getattr(cloud, name)
    return asked


def asks_for_spot(config: Config) -> bool:
    """Return whether machines are preemptible: all attempts or none, since the plugin knows rules and no attempts."""
    return bool(config.cloud.spot and config.cloud.spot_attempts)


def start_lines(config: Config) -> Iterator[str]:
    """Yield what a run says at its start about settings that this provider cannot follow."""
    if asks_for_spot(config):
        yield (
            "cloud.spot: on Google Batch every attempt is preemptible, whatever cloud.spot_attempts: its plugin knows "
            "no attempts. A run with cloud.spot: false goes on from there on demand"
        )
    kept = [name for name in config.cloud.secrets if name != "HF_TOKEN"]
    if kept:
        yield (
            f"cloud.secrets: {', '.join(kept)} stay here: Google Batch shows a job's variables to whoever may read it, "
            "and its plugin prints them"
        )


def _usable_memory(machine: MachineType) -> int:
    # The agent and the system keep some of the machine; a task that asks for all of it is never placed.
    return round(machine.memory_mb * 0.95)


def _region(config: Config) -> Callable[..., str]:
    @cache
    def regions() -> tuple[str, ...]:
        """Where the bucket is is asked once, and only when a job is about to be made."""
        return regions_of_run(config)

    def resource(wildcards: Any, attempt: int) -> str:
        """The region of an attempt: the next one each time, since a failure may be the region's."""
        return regions()[(attempt - 1) % len(regions())]

    return resource


def labels(config: Config, machine_class: str) -> str:
    """Return the labels of a job as the plugin reads them; those that jobs are found by stand over the user's."""
    named = {
        **config.cloud.labels,
        "workflow": "aifs-ensemble",
        "cycle": format_cycles(config.cycles),
        "machine": machine_class,
        # by which its jobs are found when it ends
        **({"coordinator": coordinator.current()} if coordinator.current() else {}),
    }
    return ",".join(f"{_label_key(key)}={_label(value)}" for key, value in named.items())


def _label(text: str) -> str:
    """Return a text as Google allows it in a label: lower case, digits, ``_`` and ``-``, 63 of them at most."""
    return re.sub(r"[^a-z0-9_-]", "-", str(text).lower())[:63]


def _label_key(text: str) -> str:
    key = _label(text)
    return key if key[:1].isalpha() else f"label-{key}"[:63]
