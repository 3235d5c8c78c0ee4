"""Write the page of a cycle."""

from pathlib import Path

from _adapter import ensemble_product, rule
from aifs_ensemble.planning.run_summary import run_summary
from aifs_ensemble.products.page.write import write_page

with rule(snakemake) as config, ensemble_product(snakemake, config):
    write_page(config, Path(snakemake.output[0]), run_summary(config))
