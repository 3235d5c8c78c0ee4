"""What `aifs-ensemble checkpoint check` prints: the report of a checkpoint, with what a forecast takes by card."""

from __future__ import annotations

import json
import shutil
import textwrap
from collections.abc import Mapping
from typing import Any

from aifs_ensemble.common.text import printable
from aifs_ensemble.model.checkpoint.check import Report
from aifs_ensemble.planning.machines import load_machines
from aifs_ensemble.planning.throughput import load_throughput

# The benchmark's model of that size is measured in the released one's place.
_MEASURED_AS = {"aifs-ens-size": "aifs-ens-1.0"}
_WIDEST = 120


def by_card(report: Report) -> list[dict[str, Any]]:
    """Return seconds a step and memory of a member by card of machines.yaml, from the planning tables.

    Empty for a model that no table knows on a card. Without the faster pass the tables' entries that are not compiled
    are taken.
    """
    if report.entry is None:
        return []
    name = _MEASURED_AS.get(report.entry.name, report.entry.name)
    specs = load_machines().gpu_specs
    table = load_throughput(specs)
    if not any(entry.model == name and entry.gpu in specs for entry in table.entries):
        return []
    found = []
    for gpu in specs.values():
        speed = table.speed(name, gpu, "16", report.accelerated is not False, deterministic=True)
        found.append(
            {
                "card": gpu.name,
                "step_seconds": round(speed.step_seconds, 3),
                "memory_mb": round(speed.peak_gpu_mb),
                "card_memory_mb": gpu.memory_mb,
                "status": speed.status,
                "source": speed.source,
            }
        )
    return found


def print_report(report: Report, cards: list[dict[str, Any]], *, as_json: bool) -> None:
    """Print a report as a table, or as JSON."""
    if as_json:
        print(json.dumps(report.as_json() | {"cards": cards}, indent=1, default=str))
        return
    print(report.path)
    for section, facts in report.facts.items():
        print(f"\n{section}")
        for name, value in facts.items():
            _print_row(name, _text(value))
    if cards:
        print("\ncards")
        for card in cards:
            fits = "" if card["memory_mb"] < card["card_memory_mb"] else ", more than the card has"
            text = f"{card['step_seconds']:.3f} s a step, {card['memory_mb']:,} MB{fits}; {card['status']}"
            _print_row(card["card"], text)
    elif report.entry is not None:
        print("\ncards\n  no table knows this model on a card: aifs-ensemble benchmark")
    print()
    if report.problems:
        for problem in report.problems:
            _print_row("cannot run", problem)
    else:
        assert report.entry is not None
        _print_row("runs here", f"yes, as {report.entry.name}")


def _text(value: Any) -> str:
    if value is None:
        return "not told"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_text(item)}" for key, item in value.items())
    return "; ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _print_row(name: str, text: str) -> None:
    width = min(_WIDEST, shutil.get_terminal_size((_WIDEST, 24)).columns)
    lines = textwrap.wrap(printable(text), width - 22, break_on_hyphens=False) or [""]
    print(f"  {name:18}  {lines[0]}")
    for line in lines[1:]:
        print(f"{'':22}{line}")
