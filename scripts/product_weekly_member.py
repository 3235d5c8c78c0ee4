"""Write a member's means and sums over weeks."""

from pathlib import Path

from _adapter import member, product, rule
from aifs_ensemble.products.deliver import bring_back
from aifs_ensemble.products.weekly import write_weekly_file

with rule(snakemake) as config:
    output = Path(snakemake.output[0])
    if not bring_back(config, member(snakemake), output):
        with product(snakemake, config):
            write_weekly_file(config, member(snakemake), output)
