"""What a run says at its end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

from aifs_ensemble.config import Config
from aifs_ensemble.errors import InputError, WorkflowError
from aifs_ensemble.names import format_members


def closing_lines(config: Config, *, finished: bool) -> Iterator[str]:
    """Yield what a run says at its end: the ensemble's state, where it is, and the members' table.

    After a run that did not finish the ensemble's manifest is written too, so that a short ensemble
    says that it is short.
    """
    with suppress(InputError):  # no member is finished on this machine
        from aifs_ensemble.tables import member_table

        yield from member_table(config).splitlines()
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
