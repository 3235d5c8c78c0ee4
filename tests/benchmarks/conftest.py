"""The programs in benchmarks/ are no package: their folder is on the path, as when they run."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from aifs_ensemble.planning.machines import Machines, load_machines
from aifs_ensemble.planning.throughput import Throughput, load_throughput

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))


@pytest.fixture(scope="session")
def machines() -> Machines:
    """The project's own table."""
    return load_machines()


@pytest.fixture(scope="session")
def throughput(machines: Machines) -> Throughput:
    """The project's own table."""
    return load_throughput(machines.gpu_specs)
