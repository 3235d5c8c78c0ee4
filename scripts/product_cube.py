"""Make the data sets of the whole ensemble, and write the record of their files."""

from pathlib import Path

from _adapter import ensemble_product, rule
from aifs_ensemble.products.cube.write import write_cube

with rule(snakemake) as config, ensemble_product(snakemake, config):
    write_cube(config, Path(snakemake.output[0]), snakemake.params.members)
