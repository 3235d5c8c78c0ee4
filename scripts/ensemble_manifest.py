"""Write the ensemble's manifest once every member is delivered; a failed ensemble ends the job with an error."""

import logging
from pathlib import Path

from _adapter import rule
from aifs_ensemble.delivery.ensemble import write_ensemble_manifest

with rule(snakemake) as config:
    status = write_ensemble_manifest(config, Path(snakemake.output[0]))
    logging.info("ensemble %s", status)
    status.require()
