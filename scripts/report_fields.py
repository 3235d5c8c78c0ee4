"""Draw one map of each member at the last lead."""

from pathlib import Path

from _adapter import rule
from aifs_ensemble.fieldmaps import field_figures
from aifs_ensemble.themes import save

with rule(snakemake) as config:  # noqa: F821
    save(field_figures(config), Path(snakemake.output[0]), ["png"])  # noqa: F821
