"""Compare the two models of a run for one cycle."""

from pathlib import Path

from _adapter import rule
from aifs_ensemble.products.compare.write import write_comparison

with rule(snakemake) as config:
    write_comparison(config, Path(snakemake.output[0]).parent, snakemake.params.members)
