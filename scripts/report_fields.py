"""Draw one map of each member at the last lead."""

from functools import partial
from pathlib import Path

from _adapter import rule
from aifs_ensemble.common.themes import save
from aifs_ensemble.products.maps import member_fields

with rule(snakemake) as config:
    save({"fields": partial(member_fields, config)}, Path(snakemake.output[0]), ["png"])
