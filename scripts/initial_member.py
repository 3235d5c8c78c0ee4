"""Make one member's initial state and its summary; refuse one that another member has already."""

from pathlib import Path

from _adapter import member, rule
from aifs_ensemble.initial.build import build_member
from aifs_ensemble.initial.summaries import refuse_twin, write_summary

with rule(snakemake) as config:  # noqa: F821
    state = build_member(config, member(snakemake), Path(snakemake.output.state))  # noqa: F821
    write_summary(Path(snakemake.output.summary), state)  # noqa: F821
    refuse_twin(Path(snakemake.output.summary))  # noqa: F821
