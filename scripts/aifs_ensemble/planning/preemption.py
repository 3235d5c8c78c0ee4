"""What preemptions cost: a small simulation of a job's members on preemptible capacity.

Assumptions, stated in every plan: preemptions come at random (exponential times between them) at a rate per machine
hour; every member running then goes back to its newest restart state, if restart states are kept at the destination,
else to its beginning; members already whole stay; a new machine is waited for, boots and pulls its image again; after
`spot_attempts` preemptions of a job (a group of members, whose attempts Snakemake counts together) it gets a machine on
demand.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Life:
    """One job, a group of members: they share the card of its machine, `at_once` of them.

    `steps` are those left of each member; `overhead_seconds` a member's start-up and drain, which other members'
    steps can hide; `machine_seconds` from the first billed second to the first member's start; `wait_seconds` for
    the machine itself, not billed; `restart_steps` between restart states that outlive the machine (None: none do).
    """

    steps: tuple[int, ...]
    at_once: int
    step_seconds: float
    overhead_seconds: float
    machine_seconds: float
    wait_seconds: float
    restart_steps: int | None


@dataclass(frozen=True)
class History:
    """Billed seconds on preemptible and on ordinary capacity, the time to the end, and the preemptions."""

    spot_seconds: float
    on_demand_seconds: float
    wall_seconds: float
    preemptions: int


def busy_seconds(life: Life, steps: Sequence[int] | None = None) -> float:
    """Return the seconds from the first member's start to the last one's end.

    Bounded from below by the card, ``o + W``, and by the members that run at once, ``(n o + W) / c``, with n members,
    c of them at once, W the card's seconds and o a member's start-up and drain; the larger one is taken.
    """
    left = [count for count in (life.steps if steps is None else steps) if count]
    if not left:
        return 0.0
    work = sum(left) * life.step_seconds
    lanes = max(1, min(life.at_once, len(left)))
    return max(life.overhead_seconds + work, (len(left) * life.overhead_seconds + work) / lanes)


def _advance(left: Sequence[int], at_once: int, done: float) -> tuple[list[float], list[int]]:
    """Return the steps left after `done` steps were shared by the first `at_once` members, and who was running."""
    remaining = [float(count) for count in left]
    while done > 1e-9:
        running = [i for i, count in enumerate(remaining) if count > 1e-9][:at_once]
        if not running:
            break
        share = min(done / len(running), *(remaining[i] for i in running))
        for i in running:
            remaining[i] -= share
        done -= share * len(running)
    return remaining, [i for i, count in enumerate(remaining) if count > 1e-9][:at_once]


def _step_back(life: Life, total: int, left: float) -> int:
    """Return the steps left of a member whose machine went away with `left` to go."""
    if life.restart_steps is None:
        return total
    done = int(total - left)
    return total - done // life.restart_steps * life.restart_steps


def simulate(life: Life, preemptions_per_hour: float, spot_attempts: int, rng: random.Random) -> History:
    """Return one random history of a job's members."""
    left = list(life.steps)
    spot = wall = 0.0
    preemptions = 0
    while any(left):
        wall += life.wait_seconds
        busy = busy_seconds(life, left)
        need = life.machine_seconds + busy
        if preemptions >= spot_attempts:
            return History(spot, need, wall + need, preemptions)
        until = rng.expovariate(preemptions_per_hour / 3600) if preemptions_per_hour > 0 else float("inf")
        if until >= need:
            return History(spot + need, 0.0, wall + need, preemptions)
        preemptions += 1
        spot += until
        wall += until
        work = sum(left) * life.step_seconds
        computing = max(0.0, until - life.machine_seconds - life.overhead_seconds)
        rate = work / max(busy - life.overhead_seconds, 1e-9)
        after, running = _advance(left, life.at_once, computing * rate / life.step_seconds if life.step_seconds else 0)
        left = [
            0 if value <= 1e-9 else min(left[i], _step_back(life, life.steps[i], value)) if i in running else left[i]
            for i, value in enumerate(after)
        ]
    return History(spot, 0.0, wall, preemptions)


def _last_end(seconds: Sequence[float], machines: int) -> float:
    """Return when the last of jobs ends, begun in their order as soon as one of so many machines is free."""
    ends = [0.0] * max(1, min(machines, len(seconds)))  # a heap
    for duration in seconds:
        heapq.heapreplace(ends, ends[0] + duration)
    return max(ends)


def _of_ten(ordered: Sequence[float], share: int) -> float:
    """Return the least of values, in order, that so many in ten of them do not exceed."""
    return ordered[-(-share * len(ordered) // 10) - 1]


@dataclass(frozen=True)
class Spread:
    """Means over histories of all jobs together; what 1 in 10, and 9 in 10, of them need at most.

    Where fewer than 1 in 10 histories have a preemption, 9 in 10 need less than the mean: it counts the others, too.
    """

    spot_hours: float
    on_demand_hours: float
    wall_hours: float
    wall_hours_p90: float
    preemptions: float
    usd: float
    usd_p10: float
    usd_p90: float


def spread(
    lives: Sequence[Life],
    preemptions_per_hour: float,
    spot_attempts: int,
    usd_per_hour: tuple[float, float],
    *,
    machines: int | None = None,
    draws: int = 200,
    seed: int = 0,
) -> Spread:
    """Return the spread over `draws` histories of jobs, `machines` of which run side by side (None: all), seeded.

    `usd_per_hour` is what a preemptible and an ordinary machine cost with everything that is billed by the hour.
    """
    rng = random.Random(seed)
    spot_price, on_demand_price = usd_per_hour
    sums = [0.0, 0.0, 0.0, 0.0]
    usd, walls = [], []
    for _ in range(draws if preemptions_per_hour > 0 else 1):
        outcomes = [simulate(life, preemptions_per_hour, spot_attempts, rng) for life in lives]
        spot = sum(outcome.spot_seconds for outcome in outcomes) / 3600
        on_demand = sum(outcome.on_demand_seconds for outcome in outcomes) / 3600
        walls.append(_last_end([outcome.wall_seconds for outcome in outcomes], machines or len(lives)) / 3600)
        usd.append(spot * spot_price + on_demand * on_demand_price)
        for k, value in enumerate((spot, on_demand, walls[-1], sum(o.preemptions for o in outcomes))):
            sums[k] += value
    count = len(usd)
    usd.sort()
    walls.sort()
    return Spread(
        spot_hours=sums[0] / count,
        on_demand_hours=sums[1] / count,
        wall_hours=sums[2] / count,
        wall_hours_p90=_of_ten(walls, 9),
        preemptions=sums[3] / count,
        usd=sum(usd) / count,
        usd_p10=_of_ten(usd, 1),
        usd_p90=_of_ten(usd, 9),
    )
