"""Accounts of made-up runs whose figures are known, and properties of any account."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pandas as pd
import pytest
from aifs_ensemble.common.errors import InputError
from aifs_ensemble.planning.account import USES, Account, account, group_stays, machine_uses
from aifs_ensemble.planning.costs import CATEGORIES
from aifs_ensemble.planning.intervals import difference, length, union
from aifs_ensemble.planning.machines import Machines
from aifs_ensemble.planning.runs import Attempt, JobTime, RunRecord, read_benchmarks, read_metrics, read_run
from aifs_ensemble.planning.tables import account_text
from aifs_ensemble.planning.throughput import PHASES
from hypothesis import given, settings
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


def test_a_checkpoint_that_the_coordinator_fetched_is_no_rented_job(tmp_path: Path, machines: Machines) -> None:
    """As with Google Batch, to which no token is sent."""
    config = synthetic.config(tmp_path / "scratch", members="1")
    synthetic.write_run(config, {1: [Piece(0.0)]})
    synthetic.write_benchmarks(tmp_path / "b", {"checkpoint_prepare": {0: 100.0}})
    run = read_run(config, tmp_path / "b")
    assert account(config, machines, run, profile="googlebatch").costs["cpu compute"] == 0
    assert account(config, machines, run, profile="coiled-gpu").costs["cpu compute"] > 0


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
    from aifs_ensemble.common.manifest import write_member_manifest

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
    assert found.stages["initial_member"] > found.stages["initial_cycle"] > 0
    assert "ensemble_manifest" not in found.stages, "the coordinator writes it, on no rented machine"
    assert "forecast_member" in found.stages


def test_a_local_run_costs_nothing(tmp_path: Path, machines: Machines) -> None:
    config = {"model": "demo", "lead_hours": 72, "forecast": {"device": "cpu", "gpu_mem_mb": 0}}
    found = run_of(tmp_path, {1: [Piece(0.0)], 2: [Piece(50.0)]}, machines, **config)
    assert found.usd == 0
    assert {stay.rates.machine for stay in found.stays} == {"this machine"}
    assert found.assumptions == []


def test_every_stay_is_priced_by_what_it_was(tmp_path: Path, machines: Machines) -> None:
    """First on spot, then on demand on another type in another region, whatever the configuration says."""
    first = Piece(0.0, outcome="killed", ended=80.0, kind="a2-ultragpu-1g", region="us-central1", spot=True)
    second = Piece(400.0, machine="vm-2", kind="a3-highgpu-1g", region="europe-west4", spot=False)
    over = {"cloud": {"gpu": "g2-standard-8", "spot": True, "bucket_region": "us-central1"}}
    found = run_of(tmp_path, {1: [first, second]}, machines, **over)
    (killed,), (finished,) = ([s for s in found.stays if s.machine == name] for name in ("vm-1", "vm-2"))
    rest = machines.assumptions.vm_boot_seconds + machines.assumptions.idle_tail_seconds
    spot = machines.machine("a2-ultragpu-1g").price("us-central1").spot
    usual = machines.machine("a3-highgpu-1g").price("europe-west4").on_demand
    assert killed.costs["gpu compute"] == pytest.approx((killed.seconds + rest) / 3600 * spot)
    assert finished.costs["gpu compute"] == pytest.approx((110 + rest) / 3600 * usual)
    # beside a preemptible machine Coiled rents a small one on demand
    small = machines.machine("n2-standard-2").price("us-central1").on_demand + 2 * 0.05
    hours = (killed.seconds + rest + killed.rates.pull_seconds) / 3600
    assert killed.costs["management"] == pytest.approx(hours * (1.6 + small))
    # what the second delivered had to cross an ocean
    manifest = found.members[0].manifest
    assert found.costs["network"] == pytest.approx(manifest.bytes / 1e9 * machines.service("egress_other_continent_gb"))
    assert found.assumptions == []
    assert "1 stay of a3-highgpu-1g (on demand, europe-west4)" in account_text(found, {})


def test_the_configuration_fills_in_only_what_nobody_recorded(tmp_path: Path, machines: Machines) -> None:
    members = {
        1: [Piece(0.0, kind="a2-highgpu-1g", region="europe-west4", spot=True)],
        2: [Piece(0.0, machine="vm-2", region="europe-west4")],
        3: [Piece(0.0, machine="vm-3", kind="a4-new-1g", region="asia-east1", spot=True)],
    }
    found = run_of(tmp_path, members, machines)
    rates = {stay.machine: stay.rates for stay in found.stays}
    assert rates["vm-1"].assumed == ()
    assert (rates["vm-2"].machine, rates["vm-2"].region, rates["vm-2"].spot) == (
        "a2-ultragpu-1g",
        "europe-west4",
        False,
    )
    assert rates["vm-2"].assumed == ("machine type a2-ultragpu-1g", "on demand")
    assert rates["vm-3"].assumed == (
        "machine type a4-new-1g (not in machines.yaml) priced as a2-ultragpu-1g",
        "region asia-east1 (without a price) priced as us-central1",
    )
    text = account_text(found, {})
    assert "not recorded:" in text
    assert "machine type a2-ultragpu-1g: 1 of 3 stays" in text


def test_initial_states_share_a_machine(tmp_path: Path, machines: Machines) -> None:
    """One machine of two processors boots and pulls once, for the cycle and then two members at once."""
    jobs = {"initial_cycle": {0: 80.0}, "initial_member": {1: 50.0, 2: 60.0}, "checkpoint_prepare": {0: 30.0}}
    synthetic.write_benchmarks(tmp_path / "benchmarks", jobs)
    found = run_of(tmp_path, {1: [Piece(0.0)], 2: [Piece(50.0)]}, machines)
    boot = machines.assumptions.vm_boot_seconds
    seconds = (boot + 80 + (50 + 60) / 2) + (boot + 30)
    assert found.costs["cpu compute"] == pytest.approx(seconds / 3600 * 0.097118)
    assert found.assumptions[-1].startswith("CPU jobs record no machine: priced as n2-standard-2")


def test_members_on_different_machines_of_one_name(tmp_path: Path, machines: Machines) -> None:
    """Hosts of containers may share a name; what they say of themselves tells them apart."""
    kinds = ("a2-ultragpu-1g", "a3-highgpu-1g")
    found = run_of(tmp_path, {number + 1: [Piece(0.0, kind=kind)] for number, kind in enumerate(kinds)}, machines)
    assert sorted(stay.rates.machine for stay in found.stays) == sorted(kinds)


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


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n",
        b"\0" * 500,
        b"a,b\n1,2\n",
        b"\xff\xfe\x00",
        b"time,time\n1,2\n",
        b"time\n" + b"9" * 9000,
        b"time\nx\n",
    ],
    ids=range(8),
)
def test_metrics_that_are_no_table_are_no_rows(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "member003.csv"
    path.write_bytes(data)
    assert len(read_metrics(path)) == (b"time,time" in data)
    (tmp_path / "rule" / "c").mkdir(parents=True)
    (tmp_path / "rule" / "c" / "member003.tsv").write_bytes(data)
    assert read_benchmarks(tmp_path, "c") == []


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
    from aifs_ensemble.planning.runs import fetch_run, history

    config = synthetic.config(tmp_path / "scratch", members="1-2", destination=str(tmp_path / "there"))
    elsewhere = synthetic.config(tmp_path / "other", members="1-2")
    synthetic.write_run(elsewhere, {1: [Piece(0.0)], 2: [Piece(10.0)]})
    for member in (1, 2):
        for key, file in (
            (config.objects.manifest(member), elsewhere.scratch.manifest(member)),
            (config.objects.metrics(member), elsewhere.scratch.metrics(member)),
        ):
            there = tmp_path / "there" / key
            there.parent.mkdir(parents=True, exist_ok=True)
            there.write_bytes(file.read_bytes())
    for cycle in (config.cycle, "20200101_0000"):
        synthetic.write_benchmarks(tmp_path / "there/logs/benchmarks", {"initial_member": {1: 50.0, 2: 60.0}}, cycle)
    assert fetch_run(config) == 2
    here = tmp_path / "here"
    synthetic.write_benchmarks(here, {"initial_member": {2: 70.0}, "initial_cycle": {0: 80.0}})
    assert {(job.rule, job.member): job.seconds for job in read_run(config, here).jobs} == {
        ("initial_cycle", 0): 80.0,
        ("initial_member", 1): 50.0,
        ("initial_member", 2): 70.0,
    }
    run = read_run(config, None)
    assert [manifest.member for manifest in run.manifests] == [1, 2]
    assert isinstance(run.metrics, pd.DataFrame)
    assert set(run.metrics["member"]) == {1, 2}
    assert history(config).is_dir()


def test_what_is_fetched_lies_here_where_nothing_can_be_on_scratch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a coordinator that has no disk where its machines have scratch; its next plan knows the run, too."""
    from aifs_ensemble.planning.runs import fetch_run
    from aifs_ensemble.planning.throughput import past_manifests

    monkeypatch.chdir(tmp_path)
    (tmp_path / "disk").touch()
    config = synthetic.config(tmp_path / "disk" / "scratch", members="1", destination=str(tmp_path / "there"))
    elsewhere = synthetic.config(tmp_path / "other", members="1")
    synthetic.write_run(elsewhere, {1: [Piece(0.0)]}, metrics=False)
    there = tmp_path / "there" / config.objects.manifest(1)
    there.parent.mkdir(parents=True)
    there.write_bytes(elsewhere.scratch.manifest(1).read_bytes())
    assert fetch_run(config) == 1
    assert [manifest.member for manifest in read_run(config, None).manifests] == [1]
    assert [manifest.member for manifest in past_manifests(config.scratch.root)] == [1]


@st.composite
def mixed_members(draw: st.DrawFn) -> dict[int, list[Piece]]:
    """Return members whose attempts ran on machines of any kind, said or not."""
    found: dict[int, list[Piece]] = {}
    for member in range(1, draw(st.integers(1, 4)) + 1):
        pieces: list[Piece] = []
        began = draw(st.integers(0, 500))
        for number in range(count := draw(st.integers(1, 3))):
            last = number == count - 1
            place = {
                "machine": f"vm-{draw(st.integers(1, 3))}",
                "kind": draw(st.sampled_from(["", "a2-ultragpu-1g", "a3-highgpu-1g", "g2-standard-8", "unheard-of"])),
                "region": draw(st.sampled_from(["", "us-central1", "europe-west4", "asia-east1"])),
                "spot": draw(st.sampled_from([None, True, False])),
            }
            ended = None if last else float(began + draw(st.integers(0, 400)))
            pieces.append(Piece(float(began), outcome="finished" if last else "killed", ended=ended, **place))
            began += draw(st.integers(400, 3000))
        found[member] = pieces
    return found


@settings(max_examples=60, deadline=None)
@given(mixed_members(), st.sampled_from(["coiled-gpu", "googlebatch", "local"]), st.booleans())
def test_every_account_adds_up(machines: Machines, members: dict[int, list[Piece]], profile: str, spot: bool) -> None:
    """Members, categories and stages, whatever ran where; and each stay costs what its own machine costs."""
    config = synthetic.config(
        Path("none"), lead_hours=12, members=f"1-{len(members)}", cloud={"bucket_region": "us-central1"}
    )
    manifests = tuple(synthetic.manifest(config, member, pieces) for member, pieces in members.items())
    jobs = (JobTime("initial_cycle", 0, 80.0), JobTime("initial_member", 1, 50.0), JobTime("initial_member", 49, 50.0))
    found = account(config, machines, RunRecord(manifests, pd.DataFrame(), jobs), profile=profile, spot=spot)
    assert sum(member.usd for member in found.members) == pytest.approx(found.usd)
    assert sum(found.stages.values()) == pytest.approx(found.usd)
    assert sum(stay.usd for stay in found.stays) == pytest.approx(found.stages["forecast_member"])
    assert min(found.costs.values()) >= 0
    assert (found.usd == 0) == (profile == "local")
    for stay in found.stays if profile != "local" else ():
        attempt = stay.attempts[0]
        kind = attempt.type if attempt.type in machines.types else config.cloud.gpu
        price = machines.machine(kind).price(attempt.region if attempt.region in ("europe-west4",) else "us-central1")
        charged = price.spot if (spot if attempt.spot is None else attempt.spot) else price.on_demand
        assert stay.costs["gpu compute"] == pytest.approx((stay.seconds + 150) / 3600 * charged)
