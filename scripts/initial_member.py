"""Make one member's initial state and its summary."""

from pathlib import Path

from _adapter import member, rule
from aifs_ensemble.initial.build import build_member
from aifs_ensemble.initial.summaries import write_summary

with rule(snakemake) as config:  # noqa: F821
    state = build_member(config, member(snakemake), Path(snakemake.output.state))  # noqa: F821
    write_summary(Path(snakemake.output.summary), state)  # noqa: F821
