"""What a run says at its end."""

from __future__ import annotations

from collections.abc import Iterator

from aifs_ensemble.config import Config
from aifs_ensemble.errors import WorkflowError
from aifs_ensemble.manifest import MemberManifest, read_member_manifest
from aifs_ensemble.names import format_members


def manifests(config: Config) -> list[MemberManifest]:
    """Return the manifests on scratch of the configuration's members, in order; unreadable ones are left out."""
    found = []
    for member in config.members:
        try:
            found.append(read_member_manifest(config.scratch.manifest(member)))
        except WorkflowError:
            continue
    return found


def member_table(found: list[MemberManifest]) -> list[str]:
    """Return the table of finished members: leads, bytes, seconds, fields per second."""
    rows = [("member", "leads", "MB", "seconds", "fields/s")]
    for manifest in found:
        seconds = float(manifest.timings.get("total", 0.0))
        speed = f"{manifest.fields / seconds:.0f}" if seconds else "-"
        rows.append(
            (f"{manifest.member:03d}", str(len(manifest.leads)), f"{manifest.bytes / 1e6:.1f}", f"{seconds:.1f}", speed)
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]


def closing_lines(config: Config, *, finished: bool) -> Iterator[str]:
    """Yield what a run says at its end: the ensemble's state, where it is, and the members' table.

    After a run that did not finish the ensemble's manifest is written too, so that a short ensemble
    says that it is short.
    """
    found = manifests(config)
    if found and not config["delivery"]["streaming"]:
        yield from member_table(found)
        total = sum(manifest.bytes for manifest in found)
        leads = sum(len(manifest.leads) for manifest in found)
        yield f"{len(found)} members, {leads} leads, {total / 1e6:.1f} MB"
    if config.model.untrained:
        yield f"model {config.model.name} is untrained: these fields are no forecast"
    if not finished and config["destination"]:
        from aifs_ensemble.ensemble import write_ensemble_manifest

        try:
            status = write_ensemble_manifest(config)
            yield f"ensemble {status}"
            if status.missing:
                yield f"run again to make members {format_members(status.missing)}"
        except WorkflowError as error:
            yield f"ensemble state unknown: {error}"
    if config["destination"]:
        yield f"files are in {config['destination']}/{config.cycle}"
