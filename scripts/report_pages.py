"""Write the pages of the report."""

from pathlib import Path

from _adapter import rule
from aifs_ensemble.workflow.run_report import write_report

with rule(snakemake) as config:
    write_report(config, Path(snakemake.output[0]), profile=snakemake.params.profile)
