"""Write the probabilities of the classes of the model's own climate."""

from pathlib import Path

from _adapter import ensemble_product, rule
from aifs_ensemble.products.quantile_classes import write_model_quintiles

with rule(snakemake) as config, ensemble_product(snakemake, config):
    write_model_quintiles(config, [Path(path) for path in snakemake.input], Path(snakemake.output[0]))
