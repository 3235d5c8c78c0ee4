"""Make one member's initial state and its summary; refuse one that another member has already."""

from pathlib import Path

from _adapter import member, rule
from aifs_ensemble.initial.build import build_member
from aifs_ensemble.initial.summaries import refuse_twin, write_summary

with rule(snakemake) as config:
    state = build_member(config, member(snakemake), Path(snakemake.output.state))
    write_summary(Path(snakemake.output.summary), state)
    refuse_twin(Path(snakemake.output.summary))
