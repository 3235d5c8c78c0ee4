"""Google Batch: the resources that snakemake-executor-plugin-googlebatch reads, and its traps.

The plugin is used as it is. What it gets wrong is avoided by what is asked of it:

- ``nvidia_gpu`` as a number means a T4: the accelerator's name is given.
- ``boot_disk_gb`` alone drops the image from the request: image, size and type are always given together.
- Anything but the machine type is ignored when sizing (mem_mb, runtime, disk_mb): the lifetime, CPU and
  memory of the task are given in its own names.
- ``retry_count`` defaults to 1, so that Batch itself repeats a failed task unseen: it is 0, Snakemake repeats.
- In container mode the script that Batch runs ends with two pip commands, whose exit code hides the
  job's: success is judged by Snakemake's check of the outputs and by the manifest, never by the state.
- ``$`` and backticks in the Snakefile are expanded by the shell that writes it to the machine: the
  Snakefile has none (a test holds it to that); rules and scripts travel in the source archive.
- Spot is asked for as the older PREEMPTIBLE, through ``preemptible-rules``, which knows no attempts.
"""

from __future__ import annotations

from typing import Any

from aifs_ensemble.config import Config
from aifs_ensemble.machines import Machines


def resources(config: Config, machines: Machines, machine_class: str) -> dict[str, Any]:
    """Return the resources of a rule of a machine class, by the plugin's names."""
    raise NotImplementedError
