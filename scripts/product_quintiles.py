"""Write the probabilities of climatological classes, and the files of a submission to AI Weather Quest."""

from pathlib import Path

from _adapter import ensemble_product, rule
from aifs_ensemble.products.quantile_classes import write_quintiles

with rule(snakemake) as config, ensemble_product(snakemake, config):
    output, *submissions = (Path(path) for path in snakemake.output)
    write_quintiles(config, [Path(path) for path in snakemake.input], output, {path.name: path for path in submissions})
