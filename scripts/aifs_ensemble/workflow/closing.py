"""What a run says at its end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from aifs_ensemble.common.config import Config
from aifs_ensemble.common.errors import InputError, WorkflowError
from aifs_ensemble.common.names import format_members


def closing_lines(config: Config, *, finished: bool) -> Iterator[str]:
    """Yield what a run says at its end: the ensemble's state, where it is, and the members' table.

    After a run that did not finish the ensemble's manifest is written too, so that a short ensemble
    says that it is short.
    """
    with suppress(InputError):  # no member is finished on this machine
        from aifs_ensemble.planning.tables import member_table

        yield from member_table(config).splitlines()
    if not finished and config["destination"]:
        from aifs_ensemble.delivery.ensemble import write_ensemble_manifest

        try:
            status = write_ensemble_manifest(config)
            yield f"ensemble {status}"
            if status.missing:
                yield f"run again to make members {format_members(status.missing)}"
        except WorkflowError as error:
            yield f"ensemble state unknown: {error}"
    made = [member for member in config.members if config.scratch.manifest(member).exists()]
    waiting = [member for member in made if not _delivered(config, member)]
    if waiting:
        yield f"forecasts of members {format_members(waiting)} are in {config.scratch.forecasts()}, not delivered"
    if config["destination"] and (not made or len(waiting) < len(made)):
        yield f"files are in {config['destination']}/{config.cycle}"


def _delivered(config: Config, member: int) -> bool:
    """Tell, without asking a bucket, whether a member of this machine is at the destination."""
    if config.cloud_destination:
        return config.scratch.delivered(member).exists() or config.scratch.receipt(member).exists()
    return bool(config["destination"]) and (Path(config["destination"]) / config.keys_.manifest(member)).exists()
