"""Write a member's means and sums over weeks."""

from pathlib import Path

from _adapter import member, product, rule
from aifs_ensemble.products.weekly import write_weekly_file

with rule(snakemake) as config, product(snakemake, config):
    write_weekly_file(config, member(snakemake), Path(snakemake.output[0]))
