"""Draw one map of each member at the last lead."""

from pathlib import Path

from _adapter import rule
from aifs_ensemble.common.themes import save
from aifs_ensemble.products.maps import field_figures

with rule(snakemake) as config:
    save(field_figures(config), Path(snakemake.output[0]), ["png"])
