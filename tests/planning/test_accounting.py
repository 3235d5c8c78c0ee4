"""Accounts of made-up runs whose figures are known, and properties of any account."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pandas as pd
import pytest
from aifs_ensemble.accounting import USES, Account, account, group_stays, machine_uses
from aifs_ensemble.errors import InputError
from aifs_ensemble.estimates import CATEGORIES
from aifs_ensemble.intervals import difference, length, union
from aifs_ensemble.machines import Machines
from aifs_ensemble.runrecords import Attempt, read_benchmarks, read_metrics, read_run
from aifs_ensemble.throughput import PHASES
from hypothesis import given
from hypothesis import strategies as st

from planning import synthetic
from planning.synthetic import Piece


def run_of(tmp_path: Path, members: dict[int, list[Piece]], machines: Machines, **over: object) -> Account:
    config = synthetic.config(tmp_path / "scratch", members=",".join(map(str, members)), **over)
    synthetic.write_run(config, members)
    return account(config, machines, read_run(config, tmp_path / "benchmarks"))


def test_one_member_alone(tmp_path: Path, machines: Machines) -> None:
    """60 s of start-up, 40 s of stepping (36 computing, 2 waiting), 10 s of draining, on one machine."""
    found = run_of(tmp_path, {1: [Piece(0.0)]}, machines)
    assert found.uses == pytest.approx(
        {"computing": 36, "start_up": 60, "wait_output": 2, "between": 2, "drain": 10, "lost": 0, "gap": 0}
    )
    assume, gpu = machines.assumptions, machines.machine("a2-ultragpu-1g")
    pull = assume.image_gb["gpu"] * 1000 / assume.image_pull_mb_s
    compute = (110 + assume.vm_boot_seconds + assume.idle_tail_seconds) / 3600
    price = gpu.price("us-central1").on_demand
    assert found.costs["gpu compute"] == pytest.approx(compute * price)
    assert found.costs["image pulls"] == pytest.approx(pull / 3600 * price)
    assert found.costs["management"] == pytest.approx((compute + pull / 3600) * 1.6)
    assert found.costs["storage operations"] == pytest.approx((2 * 132 + 4) / 1000 * 0.005)
    assert found.costs["network"] == 0
    assert found.members[0].usd == pytest.approx(found.usd)
    assert found.stays[0].gpu_percent == pytest.approx((41 * 92 + 70 * 3) / 111, abs=1.5)


def test_spot_is_charged_at_the_spot_price(tmp_path: Path, machines: Machines) -> None:
    usual = run_of(tmp_path / "a", {1: [Piece(0.0)]}, machines)
    spot = run_of(tmp_path / "b", {1: [Piece(0.0)]}, machines, cloud={"spot": True})
    price = machines.machine("a2-ultragpu-1g").price("us-central1")
    ratio = spot.costs["gpu compute"] / usual.costs["gpu compute"]
    assert ratio == pytest.approx(price.spot / price.on_demand)


def test_two_members_share_a_machine_by_the_time_they_hold_it(tmp_path: Path, machines: Machines) -> None:
    long = Piece(0.0, steps=190, compute=180)
    found = run_of(tmp_path, {1: [Piece(0.0)], 2: [long]}, machines)
    one, two = found.members
    stay = found.stays[0].usd
    writes = found.costs["storage operations"] / 2
    assert one.usd == pytest.approx(stay * 110 / (110 + 260) + writes)
    assert two.usd == pytest.approx(stay * 260 / (110 + 260) + writes)
    # the second member's loop goes on while the first drains: nobody waits for that drain
    assert found.uses["drain"] == pytest.approx(10)
    assert found.uses["start_up"] == pytest.approx(60)


def test_a_preempted_member_and_a_failed_one(tmp_path: Path, machines: Machines) -> None:
    members = {
        1: [Piece(0.0, outcome="killed", ended=80.0), Piece(400.0, machine="vm-2")],
        2: [Piece(0.0, outcome="GpuMemoryError: no room", ended=30.0), Piece(60.0, outcome="finished")],
    }
    found = run_of(tmp_path, members, machines)
    one, two = found.members
    assert (one.interrupted, one.failed, len(one.attempts)) == (1, 0, 2)
    assert (two.interrupted, two.failed, len(two.attempts)) == (0, 1, 2)
    assert one.attempts[0].lost == pytest.approx(80, abs=1)
    # of the 80 s lost on the first machine, the second member starts up in 20: those count as start-up
    assert found.uses["lost"] == pytest.approx(60, abs=1)
    assert {stay.machine for stay in found.stays} == {"vm-1", "vm-2"}


def test_a_killed_attempt_ends_with_its_last_sign_of_life(tmp_path: Path, machines: Machines) -> None:
    """Without an end in the manifest, the last metrics row tells it."""
    config = synthetic.config(tmp_path / "scratch", members="1")
    pieces = [Piece(0.0, outcome="killed", ended=75.0), Piece(300.0)]
    synthetic.write_run(config, {1: pieces})
    silent = synthetic.manifest(config, 1, pieces)
    attempts = tuple({k: v for k, v in attempt.items() if k != "ended"} for attempt in silent.attempts)
    from aifs_ensemble.manifest import write_member_manifest

    write_member_manifest(config.scratch.manifest(1), dataclasses.replace(silent, attempts=attempts))
    assert read_run(config, None).attempts()[0].seconds == pytest.approx(75, abs=1)
    config.scratch.metrics(1).unlink()
    assert read_run(config, None).attempts()[0].seconds == 0


def test_a_machine_given_back_is_two_stays(tmp_path: Path, machines: Machines) -> None:
    members = {1: [Piece(0.0)], 2: [Piece(300.0)], 3: [Piece(5000.0)]}
    found = run_of(tmp_path, members, machines)
    assert [round(stay.seconds) for stay in found.stays] == [410, 110]
    assert found.uses["gap"] == pytest.approx(190)


def test_a_whole_ensemble_adds_up(ensemble_account: Account) -> None:
    found = ensemble_account
    assert len(found.members) == 50
    assert sum(member.usd for member in found.members) == pytest.approx(found.usd)
    assert sum(found.stages.values()) == pytest.approx(found.usd)
    assert set(found.costs) == set(CATEGORIES)
    assert min(found.costs.values()) >= 0
    for stay in found.stays:
        assert sum(stay.uses.values()) == pytest.approx(stay.seconds)
    assert sum(member.interrupted for member in found.members) == 3
    assert found.stages["initial_member"] > found.stages["ensemble_manifest"] > 0
    assert "forecast_member" in found.stages


def test_a_local_run_costs_nothing(tmp_path: Path, machines: Machines) -> None:
    config = {"model": "demo", "lead_hours": 72, "forecast": {"device": "cpu", "gpu_mem_mb": 0}}
    found = run_of(tmp_path, {1: [Piece(0.0)], 2: [Piece(50.0)]}, machines, **config)
    assert found.usd == 0
    assert found.rates.machine == "this machine"


def test_machines_named_in_manifests_stand_over_the_configuration(tmp_path: Path, machines: Machines) -> None:
    from aifs_ensemble.manifest import write_member_manifest

    config = synthetic.config(tmp_path, members="1-2")
    for member, kind in ((1, "a3-highgpu-1g"), (2, "a3-highgpu-1g")):
        made = synthetic.manifest(config, member, [Piece(0.0)])
        write_member_manifest(
            config.scratch.manifest(member), dataclasses.replace(made, machine={"name": "vm-1", "type": kind})
        )
    assert account(config, machines, read_run(config, None)).rates.machine == "a3-highgpu-1g"


def test_nothing_finished_is_one_line(tmp_path: Path) -> None:
    config = synthetic.config(tmp_path)
    with pytest.raises(InputError, match="no finished member, expected member manifests of 20250819_0000"):
        read_run(config, None)


def test_metrics_and_benchmarks_survive_damage(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "member007.csv"
    synthetic.write_metrics(file, [Piece(0.0)], {"vm-1": [(60.0, 100.0)]})
    whole = read_metrics(file)
    file.write_text(file.read_text()[:-30])
    torn = read_metrics(file)
    assert len(whole) - 1 <= len(torn) <= len(whole)
    assert set(torn["member"]) == {7}
    synthetic.write_benchmarks(tmp_path / "b", {"sync_member": {1: 3.5}, "ensemble_manifest": {0: 1.0}})
    (tmp_path / "b" / "sync_member" / synthetic.CYCLE / "member002.tsv").write_text("nothing here\n")
    jobs = read_benchmarks(tmp_path / "b", synthetic.CYCLE)
    assert [(job.rule, job.member, job.seconds) for job in jobs] == [
        ("ensemble_manifest", 0, 1.0),
        ("sync_member", 1, 3.5),
    ]
    assert "not a benchmark file" in caplog.text


def test_metrics_of_another_version_are_read(tmp_path: Path) -> None:
    """Columns that a file lacks are unknown, not an error."""
    file = tmp_path / "member001.csv"
    file.write_text("time,phase,gpu_percent\n1795434600.4,steps,50\n")
    frame = read_metrics(file)
    assert frame["gpu_util_percent"].isna().all()
    assert frame["member"].tolist() == [1]


seconds = st.floats(0, 500)


@st.composite
def attempts(draw: st.DrawFn) -> list[Attempt]:
    """Return attempts on one machine that overlap as they like."""
    found = []
    for number in range(draw(st.integers(1, 8))):
        phases = dict.fromkeys(PHASES, 0.0)
        total = draw(st.floats(0.1, 500))
        if draw(st.booleans()):
            phases = {name: draw(seconds) for name in PHASES}
            total = sum(phases.values())
        began = draw(st.floats(0, 2000))
        outcome = "finished" if any(phases.values()) else "killed"
        found.append(Attempt(number + 1, 1, "vm", began, began + total, outcome, phases))
    return found


@given(attempts())
def test_uses_always_add_up(made: list[Attempt]) -> None:
    found = machine_uses(made)
    span = max(a.ended for a in made) - min(a.began for a in made)
    assert tuple(found) == USES
    assert min(found.values()) >= -1e-6
    assert sum(found.values()) == pytest.approx(span, abs=1e-6)
    stays = group_stays(made, 100)
    assert sorted(a.member for stay in stays for a in stay) == sorted(a.member for a in made)


moments = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)).map(lambda p: (float(min(p)), float(max(p)))))


@given(moments, moments)
def test_intervals_are_sets(first: list[tuple[float, float]], second: list[tuple[float, float]]) -> None:
    def seconds_of(intervals: list[tuple[float, float]]) -> set[int]:
        return {moment for start, end in intervals for moment in range(int(start), int(end))}

    assert seconds_of(union(first)) == seconds_of(first)
    assert length(union(first)) == len(seconds_of(first))
    left = difference(union(first), union(second))
    assert seconds_of(left) == seconds_of(first) - seconds_of(second)
    assert length(left) == len(seconds_of(first) - seconds_of(second))


def test_fetching_brings_manifests_and_metrics_from_the_destination(tmp_path: Path) -> None:
    from aifs_ensemble.runrecords import fetch_run, history

    config = synthetic.config(tmp_path / "scratch", members="1-2", destination=str(tmp_path / "there"))
    elsewhere = synthetic.config(tmp_path / "other", members="1-2")
    synthetic.write_run(elsewhere, {1: [Piece(0.0)], 2: [Piece(10.0)]})
    for member in (1, 2):
        for key, file in (
            (config.keys_.manifest(member), elsewhere.scratch.manifest(member)),
            (config.keys_.metrics(member), elsewhere.scratch.metrics(member)),
        ):
            there = tmp_path / "there" / key
            there.parent.mkdir(parents=True, exist_ok=True)
            there.write_bytes(file.read_bytes())
    assert fetch_run(config) == 2
    run = read_run(config, None)
    assert [manifest.member for manifest in run.manifests] == [1, 2]
    assert isinstance(run.metrics, pd.DataFrame)
    assert set(run.metrics["member"]) == {1, 2}
    assert history(config).is_dir()
