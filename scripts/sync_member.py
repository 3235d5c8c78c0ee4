"""Deliver one member to the destination, verified."""

from pathlib import Path

from _adapter import member, rule
from aifs_ensemble.common.files import link
from aifs_ensemble.delivery.member import deliver_member
from aifs_ensemble.delivery.restore import note_delivered

with rule(snakemake) as config:
    if not snakemake.input:  # it is delivered, and this machine's note of it is gone
        note_delivered(config, member(snakemake))
    else:
        deliver_member(config, member(snakemake))
        if config.cloud_destination:
            link(config.scratch.manifest(member(snakemake)), Path(snakemake.output[0]))
