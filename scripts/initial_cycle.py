"""Fetch and interpolate what the members of a cycle share."""

from pathlib import Path

from _adapter import rule
from aifs_ensemble.initial.build import prepare_cycle

with rule(snakemake) as config:  # noqa: F821
    prepare_cycle(config, Path(snakemake.output[0]))  # noqa: F821
