"""Make one member's initial state."""

from pathlib import Path

from _adapter import member, rule
from aifs_ensemble.initial.build import build_member

with rule(snakemake) as config:  # noqa: F821
    build_member(config, member(snakemake), Path(snakemake.output[0]))  # noqa: F821
