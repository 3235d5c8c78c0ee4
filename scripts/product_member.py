"""Write a member on a regular grid as NetCDF."""

from pathlib import Path

from _adapter import member, product, rule
from aifs_ensemble.products.deliver import bring_back
from aifs_ensemble.products.member_file import write_member_file

with rule(snakemake) as config:
    output = Path(snakemake.output[0])
    if not bring_back(config, member(snakemake), output):
        with product(snakemake, config):
            write_member_file(config, member(snakemake), output)
