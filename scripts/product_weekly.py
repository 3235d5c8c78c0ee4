"""Write mean and spread of the ensemble over weeks."""

from pathlib import Path

from _adapter import ensemble_product, rule
from aifs_ensemble.products.quantile_classes import write_weekly_ensemble

with rule(snakemake) as config, ensemble_product(snakemake, config):
    write_weekly_ensemble(config, [Path(path) for path in snakemake.input], Path(snakemake.output[0]))
