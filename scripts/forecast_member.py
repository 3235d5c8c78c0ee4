"""Run one member's forecast, or find that it is done."""

from pathlib import Path

from _adapter import member, of_run, rule
from aifs_ensemble.workflow.member_job import run_member

with rule(snakemake) as config:
    run_member(
        config,
        member(snakemake),
        initial_state=Path(snakemake.input.state),
        checkpoint=Path(snakemake.input.checkpoint),
        manifest=Path(snakemake.output[0]),
        run=of_run(snakemake),
    )
