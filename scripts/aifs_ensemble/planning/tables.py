"""Tables of a run: for the terminal, the report, and as CSV and Parquet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from math import isnan
from pathlib import Path
from statistics import median
from typing import Any

import pandas as pd

from aifs_ensemble.common.config import Config
from aifs_ensemble.common.cycles import name_cycles
from aifs_ensemble.common.errors import InputError
from aifs_ensemble.common.manifest import MemberManifest
from aifs_ensemble.common.names import format_members
from aifs_ensemble.common.text import duration, money, plain_number, size, table
from aifs_ensemble.planning.account import Account, MemberAccount, Stay
from aifs_ensemble.planning.plan import Plan
from aifs_ensemble.planning.runs import Attempt, read_run
from aifs_ensemble.planning.throughput import PHASES, Throughput, card_step_seconds, own_start_up_seconds, phase_seconds

_GB = 1e9


def _rate(amount: float, seconds: float) -> float:
    return amount / seconds if seconds else float("nan")


def member_seconds(manifest: MemberManifest) -> float:
    """Return the seconds of a member's last attempt."""
    return sum(phase_seconds(manifest.timings, manifest.step_seconds).values())


def member_frame(manifests: tuple[MemberManifest, ...]) -> pd.DataFrame:
    """Return a row a member: leads, fields, bytes, seconds of the last attempt and of a step, fields per second.

    Speeds are of the leads that the last attempt made; a resumed one did not make them all.
    """
    rows = []
    for manifest in manifests:
        seconds = member_seconds(manifest)
        made = len(manifest.step_seconds)
        share = min(made / len(manifest.leads), 1.0) if manifest.leads else 0.0
        rows.append(
            {
                "member": manifest.member,
                "leads": len(manifest.leads),
                "fields": manifest.fields,
                "bytes": manifest.bytes,
                "seconds": seconds,
                "step_seconds": median(manifest.step_seconds) if made else float("nan"),
                "fields_per_second": _rate(manifest.fields * share, seconds),
                "attempts": max(len(manifest.attempts), 1),
            }
        )
    return pd.DataFrame(rows)


def member_table(config: Config) -> str:
    """Return the members of a run as text: leads, bytes, seconds a member and a step, fields per second.

    Raises InputError when no member of the cycle is finished on scratch.
    """
    manifests = read_run(config, None).manifests
    frame = member_frame(manifests)
    rows: list[tuple[object, ...]] = [(int(row["member"]), *_cells(frame.loc[[at]])) for at, row in frame.iterrows()]
    return _table([config] if manifests[0].untrained else [], [*rows, ("all", *_cells(frame))], ("member",))


def cycle_table(configs: Sequence[Config]) -> str:
    """Return the members of several cycles as text, a row a cycle: what `member_table` has, added up.

    Raises InputError when no member is finished on scratch.
    """
    frames: dict[str, pd.DataFrame] = {}
    untrained = []
    for config in configs:
        with suppress(InputError):
            manifests = read_run(config, None).manifests
            frames[config.unit] = member_frame(manifests)
            untrained += [config] if manifests[0].untrained else []
    if not frames:
        raise InputError(f"{configs[0].scratch_root}: no finished member of {name_cycles([c.unit for c in configs])}")
    rows: list[tuple[object, ...]] = [
        (cycle, format_members(map(int, frame["member"])), *_cells(frame)) for cycle, frame in frames.items()
    ]
    whole = pd.concat(frames.values())
    return _table(untrained, [*rows, ("all", len(whole), *_cells(whole))], ("cycle", "members"))


def _cells(frame: pd.DataFrame) -> tuple[object, ...]:
    """Return what a table says of a member, or of several together."""
    return (
        int(frame["leads"].sum()),
        f"{frame['fields'].sum():,.0f}",
        size(float(frame["bytes"].sum())),
        f"{frame['seconds'].sum():.1f}",
        _known(frame["step_seconds"].median(), ".3f"),
        _known(frame["fields_per_second"].mean(), ".0f"),
    )


def _known(value: float, form: str) -> str:
    """Return a number in a form, and nothing of one that is not known."""
    return "" if isnan(value) else format(value, form)


def _table(untrained: Sequence[Config], rows: list[tuple[object, ...]], names: tuple[str, ...]) -> str:
    lines = table(rows, (*names, "leads", "fields", "size", "s", "s/step", "fields/s"))
    titles = dict.fromkeys(config.model.title for config in untrained)
    return "\n".join([*lines, *(f"{title}: these are not forecasts" for title in titles)])


def account_frames(found: Account) -> dict[str, pd.DataFrame]:
    """Return every table of an account by name, numbers in seconds, bytes and USD."""
    total = sum(found.uses.values())
    uses = [(name, seconds, _rate(100 * seconds, total)) for name, seconds in found.uses.items()]
    return {
        "members": pd.DataFrame([_member_row(member) for member in found.members]),
        "attempts": pd.DataFrame([_attempt_row(attempt) for member in found.members for attempt in member.attempts]),
        "machines": pd.DataFrame([_stay_row(stay) for stay in found.stays]),
        "uses": pd.DataFrame(uses, columns=["use", "seconds", "percent"]),
        "stages": pd.DataFrame(list(found.stages.items()), columns=["stage", "usd"]),
        "costs": pd.DataFrame(list(found.costs.items()), columns=["category", "usd"]),
        "totals": totals_frame(found),
    }


def _member_row(member: MemberAccount) -> dict[str, Any]:
    manifest = member.manifest
    return {
        "member": manifest.member,
        "machine": member.attempts[-1].machine if member.attempts else "?",
        "seconds": member.seconds,
        "attempts": len(member.attempts),
        "interrupted": member.interrupted,
        "failed": member.failed,
        "leads": len(manifest.leads),
        "fields": manifest.fields,
        "bytes": manifest.bytes,
        "step_seconds": median(manifest.step_seconds) if manifest.step_seconds else float("nan"),
        "fields_per_second": _rate(manifest.fields, member.seconds),
        "gb_per_second": _rate(manifest.bytes / _GB, member.seconds),
        "usd": member.usd,
    }


def _attempt_row(attempt: Attempt) -> dict[str, Any]:
    return {
        "member": attempt.member,
        "attempt": attempt.number,
        "machine": attempt.machine,
        "type": attempt.type,
        "region": attempt.region,
        "spot": attempt.spot,
        "began": pd.Timestamp(attempt.began, unit="s", tz="UTC"),
        "ended": pd.Timestamp(attempt.ended, unit="s", tz="UTC"),
        "outcome": attempt.outcome,
        "seconds": attempt.seconds,
        **{name: attempt.phases[name] for name in PHASES},
        "lost": attempt.lost,
    }


def _stay_row(stay: Stay) -> dict[str, Any]:
    return {
        "machine": stay.machine,
        "type": stay.rates.machine,
        "region": stay.rates.region,
        "spot": stay.rates.spot,
        "assumed": "; ".join(stay.rates.assumed),
        "began": pd.Timestamp(stay.began, unit="s", tz="UTC"),
        "ended": pd.Timestamp(stay.ended, unit="s", tz="UTC"),
        "seconds": stay.seconds,
        "members": len({attempt.member for attempt in stay.attempts}),
        **stay.uses,
        "gpu_percent": stay.gpu_percent,
        "card_kwh": stay.card_kwh,
        "usd": stay.usd,
    }


def totals_frame(found: Account) -> pd.DataFrame:
    """Return a run in one row."""
    manifests = [member.manifest for member in found.members]
    seconds = sum(stay.seconds for stay in found.stays)
    fields, count = sum(m.fields for m in manifests), sum(m.bytes for m in manifests)
    sampled = [(stay.gpu_percent, stay.seconds) for stay in found.stays if not isnan(stay.gpu_percent)]
    weight = sum(part for _, part in sampled)
    energy = [stay.card_kwh for stay in found.stays if not isnan(stay.card_kwh)]
    return pd.DataFrame(
        [
            {
                "members": len(manifests),
                "hours": found.hours,
                "machine_hours": seconds / 3600,
                "computing_percent": _rate(100 * found.uses["computing"], seconds),
                "gpu_percent": _rate(sum(percent * part for percent, part in sampled), weight),
                "card_kwh": sum(energy) if energy else float("nan"),
                "attempts": sum(len(member.attempts) for member in found.members),
                "interrupted": sum(member.interrupted for member in found.members),
                "failed": sum(member.failed for member in found.members),
                "fields": fields,
                "bytes": count,
                "fields_per_second": _rate(fields, seconds),
                "gb_per_second": _rate(count / _GB, seconds),
                "usd": found.usd,
                "usd_per_member": found.usd / len(manifests),
            }
        ]
    )


def plan_against_actual(plan: Plan, found: Account) -> pd.DataFrame:
    """Return plan and run side by side: predicted, measured, error in percent of what was measured.

    `plan` is of the members that the run finished, made without this run's own corrections.
    """
    way, manifests = plan.chosen, [member.manifest for member in found.members]
    spot = any(stay.rates.spot for stay in found.stays)
    speed = way.speed
    phases = [phase_seconds(m.timings, m.step_seconds) for m in manifests if m.step_seconds]
    start_ups = [own_start_up_seconds(m) for m in manifests if m.step_seconds]
    planned = max(len(plan.case.work.to_forecast), 1)
    rows = [
        ("start-up of a member, s", speed.startup_seconds, median(start_ups) if start_ups else None),
        ("step, s", speed.step_seconds, card_step_seconds(manifests)),
        ("drain of a member, s", speed.drain_seconds, median(p["drain"] for p in phases) if phases else None),
        ("machine time, h", way.busy_hours, sum(stay.seconds for stay in found.stays) / 3600),
        ("bytes a lead, MB", plan.case.lead_bytes / 1e6, median(m.bytes / len(m.leads) for m in manifests) / 1e6),
        ("cost a member, USD", (way.spot_usd if spot else way.usd) / planned, found.usd / len(manifests)),
    ]
    return pd.DataFrame(
        [
            {
                "what": what,
                "predicted": predicted,
                "measured": measured,
                "error_percent": 100 * (predicted - measured) / measured if measured else float("nan"),
            }
            for what, predicted, measured in rows
        ]
    )


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


def write_frames(frames: Mapping[str, pd.DataFrame], folder: Path) -> list[Path]:
    """Write tables as CSV and Parquet into `folder` and return the files."""
    import_module("pyarrow")  # what pandas writes Parquet with: where it lacks, nothing is written

    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, frame in frames.items():
        frame.to_csv(folder / f"{name}.csv", index=False)
        frame.to_parquet(folder / f"{name}.parquet", index=False)
        written += [folder / f"{name}.csv", folder / f"{name}.parquet"]
    return written


def account_text(found: Account, compared: Mapping[str, pd.DataFrame]) -> str:
    """Return an account as a person reads it on a terminal; `compared` are further tables by title."""
    total = totals_frame(found).iloc[0]
    kinds = Counter(stay.rates.label for stay in found.stays).most_common()
    stays = [f"{number} stay{'s' if number > 1 else ''} of {label}" for label, number in kinds]
    speed = f"{total['fields_per_second']:.0f} fields/s, {total['gb_per_second']:.3g} GB/s, "
    share = _known(total["computing_percent"], ".0f") or "0"
    lines = [
        f"{total['members']:.0f} members in {duration(3600 * found.hours)}, {', '.join(stays)}",
        f"{money(found.usd)}, {money(total['usd_per_member'])} a member; "
        f"{speed if total['machine_hours'] else ''}{size(total['bytes'])}",
        f"card computing {share} % of {duration(3600 * total['machine_hours'])}"
        + (f", sampled {total['gpu_percent']:.0f} %" if not isnan(total["gpu_percent"]) else "")
        + (f", {total['card_kwh']:.3g} kWh" if not isnan(total["card_kwh"]) else "")
        + f"; {total['interrupted']:.0f} attempts interrupted, {total['failed']:.0f} failed",
        "",
    ]
    uses = account_frames(found)["uses"]
    lines += table(
        [(row["use"], f"{row['seconds']:,.1f}", _known(row["percent"], ".1f")) for _, row in uses.iterrows()],
        ("machine time", "s", "%"),
    )
    if found.usd:
        lines += ["", *table([(name, money(usd)) for name, usd in found.costs.items() if usd], ("category", "USD"))]
        lines += ["", *table([(name, money(usd)) for name, usd in found.stages.items() if usd], ("stage", "USD"))]
    if found.assumptions:
        lines += ["", "taken from the configuration, not recorded:", *(f"  {line}" for line in found.assumptions)]
    for title, frame in compared.items():
        names = [str(name).replace("_percent", ", %") for name in frame.columns]
        rows = [[_shown(value, name) for name, value in zip(names, row, strict=True)]
                for row in frame.to_numpy().tolist()]  # fmt: skip
        lines += ["", f"{title}:", *table(rows, names)]
    return "\n".join(lines)


def _shown(value: object, name: str) -> object:
    """Return a cell of a table: no exponents, percents with a digit at most, and nothing of what is not known."""
    if value is None or not isinstance(value, float):
        return "" if value is None else value
    if name.endswith("%") and not isnan(value):
        return f"{value:,.1f}" if abs(value) < 99.95 else f"{value:,.0f}"
    return plain_number(value)
