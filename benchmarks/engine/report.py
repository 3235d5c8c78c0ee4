"""What is printed at the end: a row a mode, and whether members are the same to the byte."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def same_bytes(modes: dict[str, Any]) -> str:
    """Return which modes of one precision made the same files of member 1, byte for byte.

    ValueError naming those that did not.
    """
    lines = []
    for precision in sorted({found.get("precision", "") for found in modes.values() if "crc32c" in found}):
        made = {
            mode: found["crc32c"]
            for mode, found in modes.items()
            if "crc32c" in found and found.get("precision", "") == precision
        }
        different = [mode for mode, crc32c in made.items() if crc32c != next(iter(made.values()))]
        if different:
            raise ValueError(f"member 1 differs between {next(iter(made))} and {', '.join(different)}")
        if len(made) > 1:
            lines.append(f"member 1 is the same to the byte in {', '.join(made)}")
    return "\n".join(lines) or "fewer than two modes made members"


def table(results: dict[str, Any], modes: Sequence[str]) -> list[str]:
    """Return the table of the modes that were measured."""
    lines = [f"{'mode':32} {'s/step':>8} {'s/member':>9} {'GB/s':>6} {'GPU MB':>8} {'GPU %':>6}"]
    for mode in modes:
        found = results["modes"].get(mode)
        if not found or "step_seconds" not in found:
            continue
        memory = found.get("peak_gpu_mb") or max((v for k, v in found.items() if k.startswith("gpu_mem")), default=0)
        used = next((v for k, v in found.items() if "util" in k), float("nan"))
        lines.append(
            f"{mode:32} {found['step_seconds']:8.4f} {found.get('seconds_per_member') or float('nan'):9.1f} "
            f"{found.get('gigabytes_per_second') or float('nan'):6.2f} {memory:8.0f} {used:6.0f}"
        )
    return lines
