"""Fetch and interpolate what the members of a cycle share."""

from pathlib import Path

from _adapter import rule
from aifs_ensemble.initial.build import prepare_cycle

with rule(snakemake) as config:
    prepare_cycle(config, Path(snakemake.output[0]))
