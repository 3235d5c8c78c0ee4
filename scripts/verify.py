"""Compare scratch and destination with the manifests."""

from _adapter import rule
from aifs_ensemble.delivery.verify import verify_ensemble

with rule(snakemake) as config:
    verify_ensemble(config)
