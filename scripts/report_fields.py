"""Draw one map of each member at the last lead."""

from pathlib import Path

from _adapter import rule
from aifs_ensemble.products.maps import write_member_fields

with rule(snakemake) as config:
    write_member_fields(config, Path(snakemake.output[0]))
