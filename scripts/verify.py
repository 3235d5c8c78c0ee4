"""Compare scratch and destination with the manifests."""

import logging

from _adapter import rule
from aifs_ensemble.common.cycles import each_cycle
from aifs_ensemble.delivery.verify import verify_ensemble

with rule(snakemake) as config:
    each_cycle(config.of_each_cycle, verify_ensemble, logging.error)
