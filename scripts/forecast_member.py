"""Run one member's forecast, or find that it is done."""

from pathlib import Path

from _adapter import member, rule
from aifs_ensemble.workflow.member_job import run_member

with rule(snakemake) as config:  # noqa: F821
    run_member(
        config,
        member(snakemake),  # noqa: F821
        initial_state=Path(snakemake.input.state),  # noqa: F821
        checkpoint=Path(snakemake.input.checkpoint),  # noqa: F821
        manifest=Path(snakemake.output[0]),  # noqa: F821
    )
