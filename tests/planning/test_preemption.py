"""The simulation of preemptions: exact where nothing happens, bounded where it does."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest
from aifs_ensemble.planning.plan_text import _spot_line
from aifs_ensemble.planning.preemption import Life, _of_ten, busy_seconds, simulate, spread
from aifs_ensemble.workflow.routing import provisioning
from hypothesis import given, settings
from hypothesis import strategies as st

from planning import synthetic

LIFE = Life(
    steps=(132,) * 7,
    at_once=3,
    step_seconds=0.3,
    overhead_seconds=60,
    machine_seconds=190,
    wait_seconds=120,
    restart_steps=12,
)

lives = st.builds(
    Life,
    steps=st.lists(st.integers(1, 160), min_size=1, max_size=12).map(tuple),
    at_once=st.integers(1, 5),
    step_seconds=st.floats(0.01, 5),
    overhead_seconds=st.floats(0, 120),
    machine_seconds=st.floats(0, 600),
    wait_seconds=st.floats(0, 600),
    restart_steps=st.one_of(st.none(), st.integers(1, 40)),
)


def test_one_at_a_time_adds_everything_up() -> None:
    assert busy_seconds(replace(LIFE, at_once=1)) == pytest.approx(7 * (60 + 132 * 0.3))


def test_several_at_once_hide_the_start_up() -> None:
    assert busy_seconds(LIFE) == pytest.approx(60 + 7 * 132 * 0.3)
    # with little to compute, the start-ups themselves are what takes long
    short = replace(LIFE, steps=(2,) * 7)
    assert busy_seconds(short) == pytest.approx((7 * 60 + 14 * 0.3) / 3)


@given(lives)
def test_without_preemptions_the_machine_runs_once(life: Life) -> None:
    outcome = simulate(life, 0.0, 2, random.Random(0))
    need = life.machine_seconds + busy_seconds(life)
    assert outcome.spot_seconds == pytest.approx(need)
    assert outcome.wall_seconds == pytest.approx(need + life.wait_seconds)
    assert (outcome.preemptions, outcome.on_demand_seconds) == (0, 0.0)


@settings(deadline=None)
@given(lives, st.floats(0.01, 20), st.integers(0, 3), st.integers(0, 1000))
def test_preemptions_only_add_time(life: Life, rate: float, attempts: int, seed: int) -> None:
    outcome = simulate(life, rate, attempts, random.Random(seed))
    card = sum(life.steps) * life.step_seconds
    assert outcome.spot_seconds + outcome.on_demand_seconds >= card * (1 - 1e-9)
    assert outcome.wall_seconds >= outcome.spot_seconds + outcome.on_demand_seconds - 1e-6
    # whichever members were running, each preemption is one attempt of their job
    assert outcome.preemptions <= attempts
    assert min(outcome.spot_seconds, outcome.on_demand_seconds) >= 0


@settings(deadline=None, max_examples=30)
@given(lives, st.integers(0, 1000))
def test_restart_states_never_hurt_in_expectation(life: Life, seed: int) -> None:
    kept = spread([replace(life, restart_steps=1)], 2.0, 3, (1.0, 1.0), draws=150, seed=seed)
    lost = spread([replace(life, restart_steps=None)], 2.0, 3, (1.0, 1.0), draws=150, seed=seed)
    assert kept.usd <= lost.usd * 1.1 + 1e-9


def test_more_preemptions_cost_more() -> None:
    prices = (2.0, 5.0)
    usd = [spread([LIFE] * 8, rate, 2, prices, draws=300).usd for rate in (0.0, 0.5, 5.0)]
    assert usd[0] < usd[1] < usd[2]


def test_spot_is_dearer_only_when_preemptions_say_so() -> None:
    on_demand = spread([LIFE] * 8, 0.0, 2, (5.0, 5.0)).usd
    assert spread([LIFE] * 8, 0.1, 2, (2.0, 5.0)).usd < on_demand
    assert spread([LIFE] * 8, 60.0, 2, (4.9, 5.0)).usd > on_demand


def test_a_spread_is_the_same_each_time_and_in_order() -> None:
    first = spread([LIFE] * 4, 2.0, 2, (2.0, 5.0))
    assert first == spread([LIFE] * 4, 2.0, 2, (2.0, 5.0))
    assert first.usd_p10 <= first.usd <= first.usd_p90
    assert first.wall_hours <= first.wall_hours_p90


# one member of an hour without start-up; a machine that is lost costs it all, and the next one is on demand
HOUR = Life(
    steps=(10,), at_once=1, step_seconds=360, overhead_seconds=0, machine_seconds=0, wait_seconds=0, restart_steps=None
)


@pytest.mark.parametrize(
    ("rate", "preempted", "mean", "nine"),
    [
        # $2 an hour on spot, $5 on demand: 2 (1 - e^-r) / r + 5 (1 - e^-r), with r preemptions an hour
        (0.05, 0.0488, 1.9508 + 0.2439, 2.0),  # 95 in 100 runs are as if there were none: $2, less than the mean
        (0.5, 0.3935, 1.5739 + 1.9673, 5 + 2 * 0.6948),  # of the 39, 29 are preempted within 41.7 min
    ],
)
def test_means_and_what_nine_in_ten_cost_by_hand(rate: float, preempted: float, mean: float, nine: float) -> None:
    found = spread([HOUR], rate, 1, (2.0, 5.0), draws=40_000)
    assert found.preemptions == pytest.approx(preempted, abs=0.008)
    assert found.usd == pytest.approx(mean, abs=0.05)
    assert found.usd_p90 == pytest.approx(nine, abs=0.03)
    assert (found.usd_p90 < found.usd) == (preempted < 0.1)
    assert ("few runs are preempted" in _spot_line(found)) == (preempted < 0.1)


@pytest.mark.parametrize("draws", [1, 2, 5, 7, 10, 15, 200])
def test_nine_in_ten_histories_need_no_more(draws: int) -> None:
    """The least of such values."""
    one_by_one = sorted(simulate(HOUR, 2.0, 1, random.Random(seed)).wall_seconds / 3600 for seed in range(draws))
    for share in (1, 9):
        least = _of_ten(one_by_one, share)
        assert sum(value <= least for value in one_by_one) >= share * draws / 10
        assert sum(value < least for value in one_by_one) < share * draws / 10


@pytest.mark.parametrize("attempts", [0, 1, 3])
def test_a_machine_is_on_demand_after_as_many_preemptions_as_attempts_on_spot(attempts: int) -> None:
    """As `routing.provisioning` has it. At this rate every preemptible machine is taken away while it boots."""
    outcome = simulate(replace(LIFE, steps=(132,)), 3600.0, attempts, random.Random(0))
    assert outcome.preemptions == attempts
    assert outcome.on_demand_seconds > 0
    config = synthetic.config(Path("none"), cloud={"spot": True, "spot_attempts": attempts})
    assert [provisioning(config, attempt) for attempt in range(1, attempts + 2)] == ["spot"] * attempts + ["standard"]


@given(st.lists(lives, min_size=1, max_size=8), st.integers(1, 8), st.integers(0, 100))
@settings(deadline=None, max_examples=50)
def test_more_machines_are_never_slower_and_never_dearer(jobs: list[Life], machines: int, seed: int) -> None:
    fewer, more = (
        spread(jobs, 2.0, 2, (2.0, 5.0), machines=count, draws=20, seed=seed) for count in (machines, machines + 1)
    )
    assert more.wall_hours <= fewer.wall_hours + 1e-9
    assert more.wall_hours_p90 <= fewer.wall_hours_p90 + 1e-9
    assert (more.usd, more.preemptions) == (fewer.usd, fewer.preemptions)
    assert spread(jobs, 2.0, 2, (2.0, 5.0), machines=8, draws=20, seed=seed) == spread(
        jobs, 2.0, 2, (2.0, 5.0), draws=20, seed=seed
    )
