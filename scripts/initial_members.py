"""Refuse an ensemble whose members start from the same fields."""

from pathlib import Path

from _adapter import rule
from aifs_ensemble.initial.summaries import check_members_differ

with rule(snakemake):
    check_members_differ(map(Path, snakemake.input), Path(snakemake.output[0]))
