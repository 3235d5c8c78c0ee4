"""What is checked before anything is computed: room on scratch, a destination that takes files, places of machines."""

from __future__ import annotations

import logging
import os
import tempfile
from pathlib import Path

from aifs_ensemble.config import Config
from aifs_ensemble.errors import StorageError
from aifs_ensemble.machines import load_machines
from aifs_ensemble.planning import grid_points
from aifs_ensemble.scratch_space import check_scratch, room_held, room_needed
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
    held = room_held(config) if config["keep_scratch"] else 0  # else only members that run now are counted
    system = check_scratch(config, needed, held=held)
    LOG.info("scratch: %.1f GB needed, %.1f GB free on %s", needed / 1e9, system.free / 1e9, system.mount)


def check_destination(config: Config, *, write: bool = True) -> None:
    """Raise StorageError unless a folder can be written to, or made; a bucket is not looked at.

    To `write`, a small hidden file is written and removed in the nearest folder that is there: rights alone do not
    tell of a file system that is mounted to be read.
    """
    named = config["destination"]
    if not named or config.cloud_destination:
        return
    place = Path(named).absolute()
    while not os.path.lexists(place):
        place = place.parent
    expected = f"config: destination: {named!r}, expected a folder that can be written:"
    if not place.is_dir():
        raise StorageError(f"{expected} {place} is not a folder")
    if not write:
        return
    try:
        with tempfile.NamedTemporaryFile(dir=place, prefix=".aifs-ensemble-") as file:
            file.write(b"x")
            file.flush()
    except OSError as error:
        raise StorageError(f"{expected} {place}: {error.strerror or error}") from error


def check_places(config: Config) -> None:
    """Raise PlanError when bucket, images and machines are in different regions, unless that is allowed."""
    from aifs_ensemble.regions import check_regions

    run_bytes = lead_bytes(config) * len(config.leads) * len(config.members)
    for mismatch in check_regions(config, run_bytes):
        LOG.warning("%s", mismatch)
