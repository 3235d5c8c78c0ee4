"""Jobs, fields, time and money of the products that follow a run."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pandas as pd
import pytest
from aifs_ensemble.common.config import Config
from aifs_ensemble.common.periods import weights_of_leads
from aifs_ensemble.common.product_reads import product_reads
from aifs_ensemble.planning.account import account
from aifs_ensemble.planning.machines import Machines
from aifs_ensemble.planning.outstanding import everything, of_jobs, outstanding
from aifs_ensemble.planning.plan import plan, plan_case
from aifs_ensemble.planning.plan_text import plan_dict, summary_lines
from aifs_ensemble.planning.product_stage import jobs_of_products
from aifs_ensemble.planning.runs import JobTime, RunRecord

from planning import synthetic
from planning.synthetic import Piece

ON = {"members": {"enabled": True}, "weekly": {"enabled": True}}


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """The operational ensemble with members and weeks on a regular grid."""
    return synthetic.config(tmp_path / "scratch", products=ON)


def test_the_stage_of_an_ensemble_by_hand(config: Config, machines: Machines) -> None:
    """50 members: 132 leads of 3 variables, and two weeks of 28, 28 and 2 fields, of 542,080 points each."""
    assume = dataclasses.replace(
        machines.assumptions, product_seconds={"field_of_million_points": 0.02, "job": 1.0}, vm_boot_seconds=90
    )
    case = plan_case(
        config,
        dataclasses.replace(machines, assumptions=assume),
        profile="coiled-gpu",
        work=everything(config),
        runs=(),
    )
    stage = case.products
    assert stage.jobs == {"product_member": 50, "product_weekly_member": 50, "product_weekly": 1}
    assert stage.fields == 50 * (132 * 3 + 2 * (28 + 28 + 2))
    assert stage.bytes == pytest.approx(stage.fields * case.lead_bytes / 100)
    assert stage.cpu_seconds == pytest.approx(stage.fields * 0.02 * 0.542080 + 101)
    found = plan(case)
    without = plan(dataclasses.replace(case, work=dataclasses.replace(case.work, products={})))
    assert found.chosen.usd > without.chosen.usd
    start = 90 + assume.image_gb["cpu"] * 1000 / assume.image_pull_mb_s
    took = found.chosen.wall_hours - without.chosen.wall_hours
    assert took * 3600 == pytest.approx(assume.vm_wait_seconds + start + stage.cpu_seconds)  # two processors, one core
    assert found.chosen.usd - without.chosen.usd == pytest.approx(plan_dict(found)["products"]["usd"])
    line = next(line for line in summary_lines(found) if line.startswith("products: "))
    assert "101 jobs, 25,600 fields" in line
    assert not [line for line in summary_lines(without) if line.startswith("products: ")]


@pytest.mark.parametrize("accumulate", ["from_start", "per_step"])
def test_fields_are_counted_as_they_are_read(tmp_path: Path, accumulate: str) -> None:
    config = synthetic.config(tmp_path / "scratch", products=ON, forecast={"accumulate": accumulate})
    read = sum(
        len(weights_of_leads(item.statistic, start, 168, from_start=accumulate == "from_start"))
        for item in config.products.weekly.variables.values()
        for start in config.periods.values()
    )
    assert product_reads(config)["product_weekly_member"].regular == read


def test_a_run_makes_the_products_of_its_jobs(config: Config) -> None:
    found = of_jobs(config, outstanding(config), {"product_member": {3, 4}, "product_weekly": set()})
    assert found.products["product_member"] == 2
    assert found.products["product_weekly"] == 1
    assert everything(config).products["product_member"] == 50


def test_products_follow_the_members_to_deliver(config: Config, tmp_path: Path) -> None:
    assert outstanding(config).products == everything(config).products
    assert jobs_of_products(config, 2)["product_weekly_member"] == 2
    assert jobs_of_products(config, 0) == {}
    assert everything(synthetic.config(tmp_path / "scratch")).products == {}, "all products are off"


def test_products_share_a_machine_in_the_account(tmp_path: Path, machines: Machines) -> None:
    """Jobs that share a machine pay its start once, whatever their number."""
    config = synthetic.config(tmp_path, lead_hours=12, members="1-2", cloud={"bucket_region": "us-central1"})
    manifests = tuple(synthetic.manifest(config, member, [Piece(0.0)]) for member in (1, 2))

    def usd(*jobs: JobTime) -> float:
        run = RunRecord(manifests, pd.DataFrame(), jobs)
        return account(config, machines, run, profile="coiled-gpu").usd

    nothing = usd()
    one = usd(JobTime("product_member", 1, 20.0)) - nothing
    two = usd(JobTime("product_member", 1, 10.0), JobTime("product_weekly", 0, 10.0)) - nothing
    assert two == pytest.approx(one)
    found = account(
        config,
        machines,
        RunRecord(manifests, pd.DataFrame(), (JobTime("product_member", 2, 20.0),)),
        profile="coiled-gpu",
    )
    assert found.stages["product_member"] == pytest.approx(one)
