"""Write mean, spread, probabilities and quantiles over the members at some leads."""

from pathlib import Path

from _adapter import ensemble_product, rule
from aifs_ensemble.products.statistics.choice import find_chunk, outputs
from aifs_ensemble.products.statistics.write import write_statistics

with rule(snakemake) as config, ensemble_product(snakemake, config):
    chunk = find_chunk(config, snakemake.params.chunk)
    paths = dict(zip(outputs(config, chunk), map(Path, snakemake.output), strict=True))
    write_statistics(config, chunk, paths, snakemake.params.members)
