"""What users recorded of their notebook, whether its figures agree with each other, and a run beside it."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from aifs_ensemble.planning.account import Account
from aifs_ensemble.planning.machines import Machines
from aifs_ensemble.planning.throughput import Baseline, Throughput, card_step_seconds


@dataclass(frozen=True)
class Check:
    """A recorded figure, what the others make of it, and whether they agree."""

    recorded: str
    computed: str
    agrees: bool


def check_baseline(baseline: Baseline, machines: Machines, region: str = "us-central1") -> list[Check]:
    """Return the arithmetic of the recorded figures against each other and against the machine's price."""
    machine = machines.machine(baseline.machine)
    price = machine.price(region).on_demand
    with_fee = price + machines.coiled_hour(machine)
    hours = baseline.members * baseline.member_seconds / 3600
    low, high = baseline.ensemble_hours
    cheap, dear = baseline.ensemble_usd
    implied = baseline.member_usd / baseline.member_seconds * 3600
    total = baseline.members * baseline.member_usd
    spare = [(end - hours) * 3600 / baseline.members for end in (low, high)]
    return [
        Check(
            f"{low:g} to {high:g} h for {baseline.members} members",
            f"{baseline.members} x {baseline.member_seconds:g} s = {hours:.2f} h, which leaves {spare[0]:.0f} to "
            f"{spare[1]:.0f} s a member for what the {baseline.member_seconds:g} s do not hold",
            low >= hours,
        ),
        Check(
            f"${cheap:g} to ${dear:g} for {baseline.members} members",
            f"{baseline.members} x ${baseline.member_usd:g} = ${total:.2f}; ${cheap:g} to ${dear:g} is "
            f"${cheap / baseline.members:.2f} to ${dear / baseline.members:.2f} a member",
            cheap <= total <= dear,
        ),
        Check(
            f"${baseline.member_usd:g} for {baseline.member_seconds:g} s",
            f"${implied:.2f} an hour; {machine.name} is ${price:.2f} on demand in {region} "
            f"(${price * baseline.member_seconds / 3600:.2f} a member), ${with_fee:.2f} with Coiled's fee "
            f"(${with_fee * baseline.member_seconds / 3600:.2f})",
            implied <= with_fee * 1.05,
        ),
        Check(
            f"${cheap:g} to ${dear:g} for {low:g} to {high:g} h",
            f"${cheap / low:.2f} to ${dear / high:.2f} an hour, between the machine's price and that with the fee "
            f"(${price:.2f} to ${with_fee:.2f})",
            price <= cheap / low and dear / high <= with_fee,
        ),
    ]


def against_baseline(found: Account, table: Throughput) -> pd.DataFrame:
    """Return a run beside the baseline, a member of as many steps as the run's: figures and factor.

    The recorded figures are scaled to the run's number of steps; money is left out where the run cost nothing.
    """
    baseline = table.baseline
    manifests = [member.manifest for member in found.members]
    steps = sum(len(m.leads) for m in manifests) / len(manifests)
    share = steps / baseline.steps
    seconds = sum(stay.seconds for stay in found.stays) / len(manifests)
    loops = card_step_seconds(manifests)
    rows = [
        ("machine time a member, s", baseline.member_seconds * share, seconds),
        ("step, s", baseline.member_seconds / baseline.steps, loops),
        ("GB a member", baseline.member_gb * share, sum(m.bytes for m in manifests) / 1e9 / len(manifests)),
    ]
    if found.usd:
        rows.append(("cost a member, USD", baseline.member_usd * share, found.usd / len(manifests)))
    return pd.DataFrame(
        [
            {"what": what, "recorded": recorded, "this run": now, "recorded / run": recorded / now if now else None}
            for what, recorded, now in rows
        ]
    )
