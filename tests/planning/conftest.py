"""What the tests of planning and accounting share."""

from __future__ import annotations

from pathlib import Path

import pytest
from aifs_ensemble.common.config import Config
from aifs_ensemble.planning.account import Account, account
from aifs_ensemble.planning.machines import Machines
from aifs_ensemble.planning.runs import read_run

from planning import synthetic


@pytest.fixture
def operational(tmp_path: Path) -> Config:
    """50 members for 33 days on rented machines, nothing made yet."""
    return synthetic.config(tmp_path / "scratch")


@pytest.fixture(scope="session")
def ensemble_account(tmp_path_factory: pytest.TempPathFactory, machines: Machines) -> Account:
    """The account of 50 members on eight machines, one of them preempted once."""
    folder = tmp_path_factory.mktemp("ensemble")
    config = synthetic.config(folder / "scratch")
    synthetic.write_run(config, synthetic.ensemble())
    synthetic.write_benchmarks(
        folder / "benchmarks",
        {
            "initial_cycle": {0: 80.0},
            "initial_member": {member: 55.0 + member for member in config.members},
            "forecast_member": dict.fromkeys(config.members, 150.0),
            "ensemble_manifest": {0: 4.0},
        },
    )
    return account(config, machines, read_run(config, folder / "benchmarks"))
