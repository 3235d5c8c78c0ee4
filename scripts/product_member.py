"""Write a member on a regular grid as NetCDF."""

from pathlib import Path

from _adapter import member, product, rule
from aifs_ensemble.products.member_file import write_member_file

with rule(snakemake) as config, product(snakemake, config):
    write_member_file(config, member(snakemake), Path(snakemake.output[0]))
