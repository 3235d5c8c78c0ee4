"""What is checked before anything is computed: room on scratch, and where bucket, images and machines are."""

from __future__ import annotations

import logging

from aifs_ensemble.config import Config
from aifs_ensemble.machines import load_machines
from aifs_ensemble.planning import grid_points
from aifs_ensemble.scratch_space import check_scratch, room_needed
from aifs_ensemble.throughput import load_throughput

LOG = logging.getLogger(__name__)


def lead_bytes(config: Config) -> int:
    """Return the size of one lead that config/throughput.json expects of the model."""
    size = load_throughput(load_machines().gpu_specs).size(config.model.name)
    return round(len(config.model.outputs) * grid_points(config.model.grid) * size.bytes_per_value)


def check_room(config: Config, at_once: int = 1) -> None:
    """Raise PlanError unless scratch has room for what this machine will hold of the run."""
    restart = round(load_throughput(load_machines().gpu_specs).size(config.model.name).restart_mb * 1e6)
    needed = room_needed(config, lead_bytes(config), restart, at_once)
    system = check_scratch(config, needed)
    LOG.info("scratch: %.1f GB needed, %.1f GB free on %s", needed / 1e9, system.free / 1e9, system.mount)


def check_places(config: Config) -> None:
    """Raise PlanError when bucket, images and machines are in different regions, unless that is allowed."""
    from aifs_ensemble.regions import check_regions

    run_bytes = lead_bytes(config) * len(config.leads) * len(config.members)
    for mismatch in check_regions(config, run_bytes):
        LOG.warning("%s", mismatch)
