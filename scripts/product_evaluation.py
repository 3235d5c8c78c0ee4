"""Write the scores of the ensemble against analyses: table, data set, figures."""

from pathlib import Path

from _adapter import ensemble_product, rule
from aifs_ensemble.products.evaluation.tables import write_evaluation

with rule(snakemake) as config, ensemble_product(snakemake, config):
    write_evaluation(config, Path(snakemake.output[0]).parent)
