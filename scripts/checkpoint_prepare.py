"""Build or fetch the model's checkpoint."""

from pathlib import Path

from _adapter import rule
from aifs_ensemble.model.checkpoint.fetch import provide_checkpoint

with rule(snakemake) as config:
    provide_checkpoint(config.model, Path(snakemake.output[0]), trust=config.trust_checkpoint)
