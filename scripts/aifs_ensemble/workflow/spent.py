"""What rented machines cost so far, in one line, whoever rents them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from aifs_ensemble.common.text import money
from aifs_ensemble.planning.machines import Machines


@dataclass(frozen=True)
class RentedMachine:
    """A machine, its list price in USD an hour, how long it was rented, and whether it still is."""

    name: str
    usd_hour: float
    hours: float
    runs: bool


def list_price(machines: Machines, name: str, region: str, *, spot: bool) -> float:
    """Return the price of a machine type in USD an hour: that of another region where there is none, 0 without any."""
    prices = machines.machine(name).prices
    price = prices.get(region) or next(iter(prices.values()), None)
    return 0.0 if price is None else price.spot if spot else price.on_demand


def spending_words(rented: Iterable[RentedMachine]) -> str | None:
    """Return what was spent and what runs now, the price first; None when nothing was rented.

    For example ``rented: $3.20 so far by list prices, $5.17 an hour; 2 machines (1 x a2-ultragpu-1g, 1 x ...)``.
    """
    every = list(rented)
    if not every:
        return None
    spent = money(sum(one.usd_hour * one.hours for one in every))
    now = [one for one in every if one.runs]
    if not now:
        return f"rented: {spent} by list prices; no machine now"
    kinds = Counter(one.name for one in now)
    each, hourly = ", ".join(f"{number} x {name}" for name, number in kinds.items()), sum(one.usd_hour for one in now)
    count = f"{len(now)} machine{'s' if len(now) > 1 else ''}"
    return f"rented: {spent} so far by list prices, {money(hourly)} an hour; {count} ({each})"
