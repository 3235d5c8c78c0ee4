"""Plans: golden ones for fixed inputs, properties for any, refusals, and what a dry-run may import."""

from __future__ import annotations

import dataclasses
import datetime as dt
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from aifs_ensemble.common.config import Config
from aifs_ensemble.common.errors import PlanError
from aifs_ensemble.common.text import money
from aifs_ensemble.planning.choice import choose, ranked
from aifs_ensemble.planning.estimates import Estimate, estimate
from aifs_ensemble.planning.machines import Machines
from aifs_ensemble.planning.outstanding import everything, outstanding, together
from aifs_ensemble.planning.plan import Plan, default_profile, plan, plan_case
from aifs_ensemble.planning.plan_text import plan_dict, summary_lines
from aifs_ensemble.planning.plans import full_text, plans_dict, plans_of_run, print_plan, run_lines
from aifs_ensemble.planning.regions import usable_regions
from aifs_ensemble.planning.speeds import Speed
from aifs_ensemble.planning.throughput import OutputSize, Throughput
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from planning import synthetic

TODAY = dt.date(2026, 11, 23)
GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(scope="module")
def frozen(machines: Machines, throughput: Throughput) -> tuple[Machines, Throughput]:
    """The tables with round prices, sizes and speeds, so that golden plans outlive new measurements."""
    prices = {
        name: dataclasses.replace(
            machine,
            prices={
                "us-central1": dataclasses.replace(
                    machine.prices["us-central1"], on_demand=0.5 * machine.vcpus, spot=0.2 * machine.vcpus
                )
            },
        )
        for name, machine in machines.types.items()
    }
    services = dict.fromkeys(machines.services, (0.1, "assumed"))
    coiled = dict.fromkeys(machines.coiled_gpu, (1.0, "assumed"))
    assumptions = dataclasses.replace(
        machines.assumptions,
        vm_boot_seconds=100,
        vm_wait_seconds=100,
        idle_tail_seconds=50,
        image_gb={"gpu": 5.0, "cpu": 1.0},
        image_pull_mb_s=100,
        boot_disk_gb=73,
        initial_member_seconds=60,
        sync_mb_s=100,
        preemptions_per_hour={"low": 0.0, "expected": 0.5, "high": 5.0},
    )
    size = OutputSize("aifs-ens-1.0", 1.0, 0.007, 500, 10000, "measured", "2026-01-01", "made up")
    speed = Speed(
        model="aifs-ens-1.0",
        gpu="H100-80GB",
        precision="16",
        compile=True,
        deterministic=True,
        step_seconds=0.2,
        forward_seconds=0.15,
        startup_seconds=60,
        drain_seconds=10,
        peak_gpu_mb=18000,
        status="measured",
        date="2026-01-01",
        source="made up",
    )
    table = dataclasses.replace(throughput, sizes=(size,), entries=(speed,))
    return dataclasses.replace(
        machines, types=prices, services=services, coiled_gpu=coiled, assumptions=assumptions
    ), table


def make(config: Config, frozen: tuple[Machines, Throughput], **over: Any) -> Plan:
    machines, table = frozen
    over = {"work": everything(config), "runs": (), **over}
    return plan(plan_case(config, machines, throughput=table, **over), TODAY)


def test_cycles_cost_what_each_of_them_costs(frozen: tuple[Machines, Throughput], tmp_path: Path) -> None:
    """Two cycles of seven members, seven a machine, beside each other: nothing is saved, and no time is lost."""
    config = synthetic.config(tmp_path / "scratch", members="1-7", checkpoint="gs://bucket/model.ckpt")
    both = Config(config.to_dict() | {"cycle": None, "cycles": [config.cycle, "20260108_0000"]})
    work = together({one.cycle: everything(one) for one in both.of_each_cycle})
    alone, found = make(config, frozen).chosen, make(both, frozen, work=work).chosen
    assert (alone.groups, found.groups, found.members_per_vm) == (1, 2, 7)
    assert found.costs == pytest.approx({name: 2 * usd for name, usd in alone.costs.items()})
    assert found.wall_hours == pytest.approx(alone.wall_hours + 5 / 3600), "a manifest more is written, 5 s"
    counts = {job.rule: job.count for job in make(both, frozen, work=work).jobs}
    assert counts == {
        "initial_cycle": 2, "initial_member": 14, "initial_members": 2, "forecast_member": 14, "ensemble_manifest": 2
    }  # fmt: skip


def test_members_of_cycles_share_machines(frozen: tuple[Machines, Throughput], tmp_path: Path) -> None:
    """Seven cycles of two members are two machines, where each alone would have one."""
    config = synthetic.config(tmp_path / "scratch", members="1-2")
    cycles = [f"202601{day:02d}_0000" for day in range(1, 8)]
    seven = Config(config.to_dict() | {"cycle": None, "cycles": cycles})
    work = together({one.cycle: everything(one) for one in seven.of_each_cycle})
    found = make(seven, frozen, work=work)
    assert (found.chosen.groups, found.chosen.members_per_vm) == (2, 7)
    lines = summary_lines(found)
    assert lines[0].startswith(f"plan: 7 cycles, {cycles[0]} to {cycles[-1]}: 14 of 14 members to forecast, ")
    assert [line.split(":")[0].strip() for line in lines[1:8]] == cycles
    content = plan_dict(found)
    assert content["cycles"] == cycles and "cycle" not in content
    assert content["by_cycle"][cycles[3]]["members_to_forecast"] == [1, 2]
    assert sum(one["steps"] for one in content["by_cycle"].values()) == content["steps"] == found.case.work.steps


GOLDEN_CASES: dict[str, dict[str, Any]] = {
    "operational": {},
    "one-h100": {"cloud": {"gpu": "a3-highgpu-1g", "vms": 1}},
    "batch-blocks": {"members": "1-5", "lead_hours": 240, "delivery": {"streaming": False}},
}


@pytest.mark.parametrize("name", GOLDEN_CASES)
def test_golden_plans(name: str, operational: Config, frozen: tuple[Machines, Throughput], tmp_path: Path) -> None:
    """A plan for fixed inputs is what it was; `tests/planning/golden` is rewritten by deleting a file there."""
    config = synthetic.config(tmp_path / "scratch", **GOLDEN_CASES[name])
    found = plan_dict(make(config, frozen, profile="googlebatch" if "batch" in name else "coiled-gpu"))
    found = json.loads(json.dumps(found), parse_float=lambda text: round(float(text), 6))
    file = GOLDEN / f"{name}.json"
    if not file.exists():
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(found, indent=1) + "\n")
        pytest.fail(f"{file} was not there and is now: look at it and commit it")
    assert found == json.loads(file.read_text(), parse_float=lambda text: round(float(text), 6))


def test_the_arithmetic_by_hand(frozen: tuple[Machines, Throughput], tmp_path: Path) -> None:
    """One H100, ten members of 132 steps, two at once: every figure worked out on paper."""
    config = synthetic.config(
        tmp_path / "s", members="1-10", cloud={"gpu": "a3-highgpu-1g", "vms": 1}, forecast={"gpu_mem_mb": 40000}
    )
    way = make(config, frozen, group=10).chosen
    assert (way.at_once, way.vms, way.members_per_vm) == (2, 1, 10)
    # two by two, ten start-ups and drains of 70 s take longer than the card's 10 x 132 x 0.2 s
    busy = (10 * 70 + 10 * 132 * 0.2) / 2
    billed = 100 + 50 + 50 + busy
    assert way.vm_hours == pytest.approx(billed / 3600)
    price = 26 * 0.5
    assert way.costs["gpu compute"] == pytest.approx((billed - 50) / 3600 * price)
    # two small machines of two processors boot and pull a gigabyte: for the checkpoint and for the initial states
    # (the cycle's, then ten members two by two); the coordinator writes the manifest
    pulls = 50 / 3600 * price + 2 * 10 / 3600 * 1.0
    assert way.costs["image pulls"] == pytest.approx(pulls)
    cpu = 2 * 110 + 60 + 6 * 60
    assert way.cpu_vm_hours == pytest.approx(cpu / 3600)
    assert way.costs["cpu compute"] == pytest.approx((cpu - 20) / 3600 * 1.0)
    assert way.costs["management"] == pytest.approx((billed * (26 * 0.1 + 1) + cpu * 0.2) / 3600)
    assert way.costs["storage operations"] == pytest.approx(10 * (2 * 132 + 4) / 1000 * 0.1)
    assert way.wall_hours == pytest.approx((100 + billed + cpu + 2 * 100 + 5) / 3600)
    assert way.busy_hours == pytest.approx(busy / 3600)


@pytest.mark.parametrize(
    ("members", "group", "jobs", "vms", "each"),
    [
        ("1-3", None, 1, 1, 3),
        ("1-8", None, 2, 2, 7),
        ("1-3", 1, 3, 3, 1),
        ("1-50", None, 8, 8, 7),
        ("1-50", 1, 50, 8, 1),
    ],
)
def test_members_share_machines_as_in_the_run(
    frozen: tuple[Machines, Throughput], tmp_path: Path, members: str, group: int | None, jobs: int, vms: int, each: int
) -> None:
    """By the profile's groups of seven, or those of the command line, on as many machines as there may be."""
    config = synthetic.config(tmp_path / "s", members=members, cloud={"vms": 8})
    found = make(config, frozen, profile="coiled-gpu", group=group)
    ways = ranked(found.case)
    assert (found.chosen.groups, found.chosen.vms, found.chosen.members_per_vm) == (jobs, vms, each)
    assert max(way.vms for way in ways) == min(8, len(config.members)), "spread out, whatever the groups"
    assert all(way.vms * way.members_per_vm >= len(config.members) for way in ways)


@pytest.mark.parametrize("vms", [1, 3, 4, 8, 20])
def test_every_group_is_paid_for_a_machine_of_its_own(
    frozen: tuple[Machines, Throughput], tmp_path: Path, vms: int
) -> None:
    """Eight groups, seven of seven members and one of one: eight boots and pulls, however many run side by side."""
    config = synthetic.config(tmp_path / "s", members="1-50", cloud={"gpu": "a3-highgpu-1g", "vms": vms})
    found = make(config, frozen)
    way = found.chosen
    assert (way.groups, way.vms, way.members_per_vm, way.at_once) == (8, min(vms, 8), 7, 4)
    jobs = [200 + max(70 + n * 132 * 0.2, (n * 70 + n * 132 * 0.2) / min(4, n)) for n in (7,) * 7 + (1,)]
    assert way.vm_hours == pytest.approx(sum(jobs) / 3600)
    # each waits 100 s for its machine; the shortest comes last, on the first machine that is free
    first = 100 + jobs[0]
    last = {1: 7 * first + 100 + jobs[-1], 3: 3 * first, 4: 2 * first, 8: first, 20: first}[vms]
    cpu = 2 * 110 + 60 + 26 * 60 + 2 * 100 + 5
    assert way.wall_hours == pytest.approx((last + cpu) / 3600)
    line = next(line for line in summary_lines(found) if line.startswith("machines:"))
    assert ("8 groups of 7 members on" in line) == (vms < 8)


def test_single_members_are_as_many_machines(frozen: tuple[Machines, Throughput], tmp_path: Path) -> None:
    config = synthetic.config(tmp_path / "s", members="1-50")
    grouped, single = make(config, frozen), make(config, frozen, group=1)
    assert (single.chosen.groups, single.chosen.vms) == (50, 8)
    assert single.chosen.costs["image pulls"] > 6 * grouped.chosen.costs["image pulls"] * 0.9
    assert single.chosen.usd > 2 * grouped.chosen.usd
    assert any("50 groups of 1 member on 8 x a2-ultragpu-1g" in line for line in summary_lines(single))


def _parts_make_the_whole(way: Estimate) -> None:
    for value in (*way.costs.values(), *way.spot_costs.values(), way.wall_hours, way.vm_hours, way.scratch_peak_bytes):
        assert value >= 0
    assert way.usd == pytest.approx(sum(way.costs.values()))
    assert way.spot.usd == pytest.approx(way.spot_usd, rel=1e-6)
    assert way.spot_range[0] <= way.spot_range[1]


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    members=st.integers(1, 50),
    days=st.integers(1, 40),
    vms=st.integers(1, 12),
    machine=st.sampled_from(["a2-ultragpu-1g", "a3-highgpu-1g", "a2-highgpu-1g", "g2-standard-12"]),
    streaming=st.booleans(),
    mirror=st.booleans(),
)
def test_properties_of_any_plan(
    frozen: tuple[Machines, Throughput], tmp_path: Path, members: int, days: int, vms: int, machine: str,
    streaming: bool, mirror: bool,
) -> None:  # fmt: skip
    config = synthetic.config(
        tmp_path / "s",
        members=f"1-{members}",
        lead_hours=24 * days,
        cloud={"gpu": machine, "vms": vms},
        delivery={"streaming": streaming, "mirror_restarts": mirror},
    )
    found = make(config, frozen)
    way = found.chosen
    _parts_make_the_whole(way)
    assert way.vms == min(vms, way.groups)
    assert way.groups * way.members_per_vm >= members
    one_more = estimate(found.case, frozen[0].machine(machine), vms + 1, draws=1)
    assert one_more.wall_hours <= way.wall_hours + 1e-9
    assert one_more.costs == way.costs, "the same groups, on fresh machines all the same"
    calm = dataclasses.replace(
        found.case.machines.assumptions, preemptions_per_hour={"low": 0.0, "expected": 0.0, "high": 0.0}
    )
    quiet = dataclasses.replace(found.case, machines=dataclasses.replace(found.case.machines, assumptions=calm))
    undisturbed = estimate(quiet, frozen[0].machine(machine), vms, draws=1)
    assert undisturbed.spot_usd <= undisturbed.usd
    assert undisturbed.spot.wall_hours == pytest.approx(undisturbed.wall_hours)
    assert undisturbed.usd == pytest.approx(way.usd)


def test_alternatives_are_ranked_by_price(operational: Config, frozen: tuple[Machines, Throughput]) -> None:
    ways = ranked(make(operational, frozen).case)
    fit = [way for way in ways if way.problem is None]
    assert [way.usd for way in fit] == sorted(way.usd for way in fit)
    assert {way.machine for way in ways} == set(frozen[0].names("gpu"))
    assert {way.vms for way in ways} == set(range(1, 9))
    for way in ways:
        _parts_make_the_whole(way)


REFUSED = [
    ({"forecast": {"gpu_mem_mb": 36000}, "cloud": {"gpu": "g2-standard-8"}}, {}, "the L4 has 23,034 MB"),
    ({"lead_hours": 960, "delivery": {"streaming": False}}, {"group": 50}, "scratch peak 4"),
    ({"delivery": {"scratch_budget_mb": 500}}, {}, "delivery.scratch_budget_mb leaves 0.5 GB"),
    ({"cloud": {"max_hours": 0.1}}, {}, "cloud.max_hours stops it after 0.1 h"),
    ({}, {"bucket_region": "europe-west4"}, "cloud.regions: the bucket is in europe-west4, machines in us-central1"),
    ({"cloud": {"gpu_image": "europe-west4-docker.pkg.dev/p/r/i:1"}}, {}, "cloud.gpu_image is in europe-west4"),
    ({"cloud": {"gpu_image": "europe-docker.pkg.dev/p/r/i:1"}}, {}, "cloud.gpu_image is in europe, machines in us-c"),
]  # fmt: skip


@pytest.mark.parametrize(("over", "asked", "message"), REFUSED, ids=[case[2][:30] for case in REFUSED])
def test_refusals(
    frozen: tuple[Machines, Throughput], tmp_path: Path, over: dict[str, Any], asked: dict[str, Any], message: str
) -> None:
    found = make(synthetic.config(tmp_path / "s", destination="gs://bucket/p", **over), frozen, **asked)
    with pytest.raises(PlanError) as error:
        found.check()
    assert message in str(error.value)
    assert any(message in line for line in summary_lines(found))


def test_the_longest_job_must_end_within_max_hours(frozen: tuple[Machines, Throughput], tmp_path: Path) -> None:
    """Not the mean of machines; and groups that follow one another on a machine are jobs of their own."""
    one = {"cloud": {"gpu": "a3-highgpu-1g", "vms": 2}, "forecast": {"gpu_mem_mb": 40000}}
    config = synthetic.config(tmp_path / "s", members="1-8", **one)
    jobs = [(200 + max(70 + n * 132 * 0.2, (n * 70 + n * 132 * 0.2) / min(2, n))) / 3600 for n in (7, 1)]
    mean = sum(jobs) / 2
    assert make(config, frozen, group=7).chosen.vm_hours == pytest.approx(2 * mean)
    for hours, expected in (((mean + jobs[0]) / 2, f"{jobs[0]:.1f} h on one machine"), (jobs[0] + 0.001, None)):
        tight = synthetic.config(
            tmp_path / "s", members="1-8", **(one | {"cloud": {**one["cloud"], "max_hours": hours}})
        )
        problem = make(tight, frozen, group=7).chosen.problem
        assert problem is None if expected is None else expected in str(problem)
    single = {**one["cloud"], "vms": 1, "max_hours": jobs[0] + 0.001}
    assert (
        make(
            synthetic.config(tmp_path / "s", members="1-8", **(one | {"cloud": single})), frozen, group=7
        ).chosen.problem
        is None
    )


def test_several_cards_are_refused_for_google_batch_alone(frozen: tuple[Machines, Throughput], tmp_path: Path) -> None:
    machines, table = frozen
    one = machines.types["a3-highgpu-1g"]
    assert one.gpu is not None
    two = dataclasses.replace(one, name="two", gpu=dataclasses.replace(one.gpu, count=2))
    machines = dataclasses.replace(machines, types={**machines.types, "two": two})
    config = synthetic.config(tmp_path / "s", cloud={"gpu": "two"})
    make(config, (machines, table), profile="coiled-gpu").check()
    with pytest.raises(PlanError, match="two has 2 cards, the googlebatch plugin asks for one"):
        make(config, (machines, table), profile="googlebatch").check()


def test_crossing_regions_can_be_allowed_and_is_paid(frozen: tuple[Machines, Throughput], tmp_path: Path) -> None:
    config = synthetic.config(
        tmp_path / "s", destination="gs://bucket", delivery={"streaming": True, "allow_cross_region": True}
    )
    found = make(config, frozen, bucket_region="europe-west4")
    found.check()
    assert any(
        finding.level == "warning" and "the bucket is in europe-west4" in finding.text for finding in found.findings
    )
    gigabytes = found.case.delivered_bytes / 1e9
    assert found.chosen.costs["network"] == pytest.approx(0.1 * gigabytes)
    assert make(config, frozen, bucket_region="us-central1").chosen.costs["network"] == 0


@pytest.mark.parametrize(
    ("bucket", "regions", "region"),
    [
        ("us-central1", ["us-central1", "europe-west4"], "us-central1"),
        ("europe-west4", ["us-central1", "europe-west4"], "europe-west4"),
        ("US-CENTRAL1", ["us-central1"], "us-central1"),
        ("us", ["us-central1"], "us-central1"),
        ("NAM4", ["us-west1", "us-central1"], "us-central1"),
    ],
)
def test_a_plan_takes_the_regions_that_a_run_takes(
    frozen: tuple[Machines, Throughput], tmp_path: Path, bucket: str, regions: list[str], region: str
) -> None:
    """Those near the bucket, as it is spelled; the others are left out, and nothing is paid for traffic."""
    config = synthetic.config(
        tmp_path / "s", destination="gs://bucket/p", cloud={"bucket_region": bucket, "regions": regions}
    )
    assert usable_regions(regions, bucket, False)[0] == region
    found = make(config, frozen)
    found.check()
    assert found.case.region == region
    assert found.chosen.region == region and found.chosen.costs["network"] == 0


def test_images_away_from_a_later_region_only_warn_where_the_bucket_is_unknown(
    frozen: tuple[Machines, Throughput], tmp_path: Path
) -> None:
    """A run asks the bucket, and leaves the region out; away from the first region they are refused all the same."""
    image = {"gpu_image": "us-central1-docker.pkg.dev/p/r/i:1"}
    cloud = {"regions": ["us-central1", "europe-west4"], **image}
    found = make(synthetic.config(tmp_path / "s", destination="gs://bucket", cloud=cloud), frozen)
    found.check()
    (warning,) = [finding for finding in found.findings if "cloud.gpu_image" in finding.text]
    assert warning.level == "warning" and "cloud.bucket_region" in warning.text
    other = {"regions": ["europe-west4", "us-central1"], **image}
    with pytest.raises(PlanError, match=r"cloud.gpu_image is in us-central1, machines in europe-west4"):
        make(synthetic.config(tmp_path / "s", destination="gs://bucket", cloud=other), frozen).check()


def test_a_gpu_of_ones_own_is_planned_as_such(operational: Config, tmp_path: Path) -> None:
    assert default_profile(operational) == "coiled-gpu"
    assert default_profile(synthetic.config(tmp_path, destination="gs://bucket")) == "coiled-gpu"
    assert default_profile(synthetic.config(tmp_path, destination=str(tmp_path / "archive"))) == "local"


def test_rented_machines_without_streaming_are_warned_of(frozen: tuple[Machines, Throughput], tmp_path: Path) -> None:
    config = synthetic.config(tmp_path, destination="gs://bucket", delivery={"streaming": False})
    assert any("delivery.streaming: false" in line for line in summary_lines(make(config, frozen)))
    assert not any("streaming" in line for line in summary_lines(make(config, frozen, profile="local")))


def test_without_attempts_on_spot_it_costs_what_on_demand_does(
    frozen: tuple[Machines, Throughput], tmp_path: Path
) -> None:
    way = make(synthetic.config(tmp_path, cloud={"spot_attempts": 0}), frozen).chosen
    assert way.spot_costs == pytest.approx(way.costs)
    assert way.spot_range == pytest.approx((way.usd, way.usd))


def test_a_scheduler_is_paid_beside_every_spot_machine_and_no_other(
    frozen: tuple[Machines, Throughput], tmp_path: Path
) -> None:
    """A small machine on demand, $1.00 and Coiled's $0.20 an hour, beside GPU and CPU machines."""
    way = make(synthetic.config(tmp_path, cloud={"spot_attempts": 1}), frozen).chosen
    assert way.spot.on_demand_hours > 0
    fees = (way.spot.spot_hours + way.spot.on_demand_hours) * (12 * 0.1 + 1) + way.cpu_vm_hours * 0.2
    expected = fees + (way.spot.spot_hours + way.cpu_vm_hours) * 1.2
    assert way.spot_costs["management"] == pytest.approx(expected)


def test_a_plan_for_this_machine_takes_the_scratch_that_a_run_does(
    frozen: tuple[Machines, Throughput], tmp_path: Path
) -> None:
    """Without keep_scratch the members that run and as many that wait for their delivery, of 50."""
    settings = {"keep_scratch": False, "delivery": {"streaming": False}, "destination": str(tmp_path / "archive")}
    config = synthetic.config(tmp_path / "s", **settings, forecast={"device": "cpu", "gpu_mem_mb": 0})
    found = make(config, frozen, profile="local")
    running, lead = max(found.chosen.at_once, 1), found.case.lead_bytes
    whole = min(50, 2 * running) * 132 * lead
    assert whole <= found.chosen.scratch_peak_bytes < whole + running * 10e9
    kept = make(synthetic.config(tmp_path / "s", **(settings | {"keep_scratch": True})), frozen, profile="local")
    assert kept.chosen.scratch_peak_bytes >= 50 * 132 * lead


def test_nothing_to_choose_from_has_a_reason(frozen: tuple[Machines, Throughput], tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="the local profile rents none"):
        case = make(synthetic.config(tmp_path), frozen, profile="local").case
        choose(case, ranked(case), 1.0)
    tight = synthetic.config(tmp_path, delivery={"scratch_budget_mb": 500})
    with pytest.raises(PlanError, match=r"no machine type fits the work: .*delivery.scratch_budget_mb leaves 0.5 GB"):
        case = make(tight, frozen).case
        choose(case, ranked(case), 1.0)


def test_a_plan_that_fits_is_not_refused(operational: Config, frozen: tuple[Machines, Throughput]) -> None:
    found = make(operational, frozen)
    found.check()
    assert any("destination is not set" in finding.text for finding in found.findings)
    assert any("estimated from H100-80GB" in finding.text for finding in found.findings)


def test_a_region_without_prices_is_said_and_not_refused(frozen: tuple[Machines, Throughput], tmp_path: Path) -> None:
    config = synthetic.config(tmp_path / "s", cloud={"regions": ["us-east1"]})
    found = make(config, frozen)
    texts = [finding.text for finding in found.findings if finding.level == "warning"]
    assert "no price of a2-ultragpu-1g in us-east1: priced as in us-central1" in texts
    assert found.chosen.usd > 0
    assert ranked(found.case)


def test_choosing_by_deadline_and_budget(operational: Config, frozen: tuple[Machines, Throughput]) -> None:
    case = make(operational, frozen).case
    ways = ranked(case)
    cheapest = choose(case, ways)
    quick = choose(case, ways, deadline_hours=cheapest.hours * 0.8)
    assert quick.hours <= cheapest.hours * 0.8
    assert quick.usd >= cheapest.usd
    assert quick.settings()["cloud"]["gpu"] == quick.way.machine
    with pytest.raises(PlanError, match=r"nothing meets \$0: the fastest takes"):
        choose(case, ways, budget_usd=0)
    assert choose(case, ways, budget_usd=cheapest.usd * 1.01).usd <= cheapest.usd * 1.01
    with pytest.raises(PlanError, match=r"nothing meets 0.01 h: the fastest takes"):
        choose(case, ways, deadline_hours=0.01)
    with pytest.raises(PlanError, match=r"nothing meets 0.01 h and \$0.5"):
        choose(case, ways, deadline_hours=0.01, budget_usd=0.5)


def test_a_choice_names_its_groups_where_they_are_not_the_profile_s(
    frozen: tuple[Machines, Throughput], tmp_path: Path
) -> None:
    """Seven members of a profile's group run on one machine unless Snakemake is told otherwise; others stay."""
    config = synthetic.config(tmp_path / "s", members="1-7")
    case = make(config, frozen, profile="coiled-gpu").case
    ways = ranked(case)
    single = [way for way in ways if way.vms == 1]
    quickest = min(min(way.wall_hours, way.spot.wall_hours_p90) for way in single)
    quick = choose(case, ways, deadline_hours=quickest * 0.99)
    assert quick.way.vms > 1
    assert quick.options() == [
        "--group-components",
        f"members={quick.way.members_per_vm}",
        "initial=1000",
        "products=1000",
    ]
    assert make(config, frozen, group=quick.way.members_per_vm).chosen.vms == quick.way.vms
    assert choose(case, single).options() == []


@pytest.mark.parametrize("profile", ["coiled-gpu", "googlebatch", "local"])
def test_nothing_missing_costs_nothing(operational: Config, frozen: tuple[Machines, Throughput], profile: str) -> None:
    done = dataclasses.replace(
        everything(operational), members=(), shared_initial=False, checkpoint=False, ensemble_manifest=False
    )
    found = make(operational, frozen, work=done, profile=profile)
    assert found.chosen.usd == 0
    assert found.jobs == ()
    assert "nothing to compute" in summary_lines(found)[0]


def two_models(scratch: Path, **over: Any) -> Config:
    return synthetic.config(scratch, model=["aifs-ens-1.0", "aifs-ens-2.0"], **over)


def test_all_plans_are_shown_before_one_is_refused(tmp_path: Path) -> None:
    shown = io.StringIO()
    config = two_models(tmp_path, delivery={"scratch_budget_mb": 500})
    with pytest.raises(PlanError, match=r"delivery\.scratch_budget_mb leaves 0\.5 GB"):
        print_plan(config, file=shown)
    lines = shown.getvalue().splitlines()
    for name in config.models:
        after = lines[lines.index(f"{name}:") :]
        assert after[1].startswith(f"plan: {config.cycles[0]}: 50 of 50 members to forecast")
    assert sum(line.startswith("error: scratch peak") for line in lines) == 2
    assert lines[0].startswith("plan: aifs-ens-1.0 and aifs-ens-2.0, ") and "100 of 100 members to forecast" in lines[0]


def test_totals_are_the_same_as_text_and_as_values(tmp_path: Path, frozen: tuple[Machines, Throughput]) -> None:
    config = two_models(tmp_path)
    works = {one.unit: outstanding(one) for one in config.of_each_cycle}
    found = plans_of_run(config, frozen[0], works)
    usd, spot_usd = (sum(getattr(one.chosen, name) for one in found) for name in ("usd", "spot_usd"))
    values = plans_dict(found)
    assert (values["usd"], values["spot_usd"]) == (usd, spot_usd) and usd > spot_usd > 0
    assert [one["chosen"]["usd"] for one in values["models"].values()] == [one.chosen.usd for one in found]
    (line,) = (line for line in run_lines(found) if line.startswith("cost: "))
    assert line.startswith(f"cost: {money(usd)} on demand, {money(spot_usd)} spot; ")
    assert line in list(full_text(found))


def test_local_plans_are_free_and_name_this_machine(frozen: tuple[Machines, Throughput], tmp_path: Path) -> None:
    config = synthetic.config(
        tmp_path, model="demo", lead_hours=72, members="1-4", forecast={"device": "cpu", "gpu_mem_mb": 0}
    )
    found = make(config, frozen)
    assert found.chosen.machine == "this machine"
    assert found.chosen.usd == 0
    assert not any("cost" in line for line in summary_lines(found))


LIGHT = """
import sys
from pathlib import Path
from aifs_ensemble.common.config import Config, read_files
from aifs_ensemble.planning.machines import load_machines
from aifs_ensemble.planning.plan import plan, plan_case
from aifs_ensemble.planning.plan_text import summary_lines
config = Config(read_files(Path("config/config.yaml"), Path("config/operational.yaml")))
print(*summary_lines(plan(plan_case(config, load_machines()))), sep="\\n")
heavy = {"torch", "pandas", "matplotlib", "numpy", "scipy", "eccodes", "google.cloud", "coiled", "psutil"}
print("HEAVY", sorted(heavy & set(sys.modules)))
"""


def test_a_dry_run_imports_nothing_heavy(root: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LIGHT],
        cwd=root,
        env={"PYTHONPATH": "scripts"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "HEAVY []" in done.stdout
    assert "50 of 50 members to forecast (1-50)" in done.stdout
    assert "on demand" in done.stdout
